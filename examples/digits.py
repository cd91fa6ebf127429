"""Train classifiers of handwritten digits over a small grid; find the best by query.

    pip install ./client -r examples/requirements.txt
    python examples/digits.py --repo http://localhost:53800

One run per combination: the loss per batch and per epoch, the accuracy on both subsets,
hyperparameters, and tags. Then the server is asked which runs were best.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from matyan_client import Repo, Run

EXPERIMENT = "digits"
CLASSES = np.arange(10)


@dataclass(frozen=True)
class Hyperparameters:
    learning_rate: float
    hidden: int
    batch_size: int


@dataclass(frozen=True)
class Subset:
    name: str
    images: np.ndarray
    labels: np.ndarray


def grid(*, quick: bool) -> list[Hyperparameters]:
    rates = (0.001, 0.02) if quick else (0.0003, 0.003, 0.03)
    sizes = (16,) if quick else (16, 64)
    combinations = itertools.product(rates, sizes, (32, 128))
    return [Hyperparameters(*combination) for combination in combinations]


def load_subsets() -> tuple[Subset, Subset]:
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 16, labels, test_size=0.25, random_state=0)
    train_images, val_images, train_labels, val_labels = parts
    return (
        Subset("train", train_images, train_labels),
        Subset("val", val_images, val_labels),
    )


def batches(subset: Subset, size: int, seed: int) -> Iterator[np.ndarray]:
    order = np.random.default_rng(seed).permutation(len(subset.labels))
    whole = len(order) - len(order) % size
    yield from order[:whole].reshape(-1, size)


def train(run: Run, chosen: Hyperparameters, *, epochs: int) -> None:
    subsets = train_set, _ = load_subsets()
    model = MLPClassifier(
        hidden_layer_sizes=(chosen.hidden,),
        learning_rate_init=chosen.learning_rate,
        random_state=0,
    )
    for epoch in range(epochs):
        for rows in batches(train_set, chosen.batch_size, seed=epoch):
            model.partial_fit(
                train_set.images[rows], train_set.labels[rows], classes=CLASSES
            )
            run.track(model.loss_, "batch_loss", epoch=epoch)
        for subset in subsets:
            guesses = model.predict_proba(subset.images)
            run.track(
                {
                    "loss": log_loss(subset.labels, guesses, labels=CLASSES),
                    "accuracy": float(np.mean(guesses.argmax(1) == subset.labels)),
                },
                step=epoch,
                epoch=epoch,
                context={"subset": subset.name},
            )


def search(console: Console, repo: str | None, *, quick: bool) -> list[str]:
    """Train the whole grid; return the ids of the runs."""
    hashes = []
    combinations = grid(quick=quick)
    with Progress(console=console) as progress:
        task = progress.add_task("training", total=len(combinations))
        for chosen in combinations:
            with Run(
                repo=repo, experiment=EXPERIMENT, capture_terminal_logs=False
            ) as run:
                run.name = f"lr {chosen.learning_rate}, {chosen.hidden} hidden"
                run["hparams"] = asdict(chosen)
                run.add_tag("quick" if quick else "full")
                train(run, chosen, epochs=3 if quick else 6)
            hashes.append(run.hash)
            progress.advance(task)
    return hashes


def wait_for(repo: Repo, hashes: list[str], *, timeout_s: float = 30) -> None:
    """Wait until the server shows every run finished: close() has only sent them."""
    deadline = time.monotonic() + timeout_s
    query = f"run.hash in {hashes!r} and run.active == False"
    while len(repo.query_runs(query)) < len(hashes):
        if time.monotonic() > deadline:
            message = f"{repo.url} does not show all runs after {timeout_s:.0f} s"
            raise SystemExit(message)
        time.sleep(0.1)


def show_best(console: Console, repo: Repo, hashes: list[str]) -> None:
    query = (
        f'metric.name == "accuracy" and metric.context.subset == "val" '
        f"and run.hash in {hashes!r}"
    )
    found = sorted(repo.metrics(query), key=lambda series: -max(series.values))
    table = Table(title=f"Best of {len(found)} runs, by accuracy on unseen digits")
    for heading in ("run", "rate", "hidden", "batch", "best", "at epoch", "last"):
        table.add_column(heading)
    for series in found[:5]:
        chosen = series.params["hparams"]
        best = int(np.argmax(series.values))
        table.add_row(
            series.run[:8],
            str(chosen["learning_rate"]),
            str(chosen["hidden"]),
            str(chosen["batch_size"]),
            f"{series.values[best]:.4f}",
            f"{series.steps[best]:.0f}",
            f"{series.values[-1]:.4f}",
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repo", help="server; else MATYAN_BACKEND_URL, localhost")
    parser.add_argument("--quick", action="store_true", help="a smaller grid")
    arguments = parser.parse_args()
    console = Console()
    hashes = search(console, arguments.repo, quick=arguments.quick)
    with Repo(arguments.repo) as repo:
        wait_for(repo, hashes)
        show_best(console, repo, hashes)
        good = repo.query_runs(
            f"run.hash in {hashes!r} and run.hparams.learning_rate >= 0.003"
        )
        console.print(f"{len(good)} of them learned at 0.003 or faster.")


if __name__ == "__main__":
    main()

"""`make bench`: one JSON line a figure, on the embedded engines of this machine."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil

from bench.ingest import freshness, ingest_binary, ingest_json
from bench.reads import fill, metric_search, run_list
from bench.track import track
from matyan_project.local_server import LocalServer


def main() -> int:
    """Run the wanted groups of measurements; print each figure as it is known."""
    groups = {"up": _up, "write": _write, "search": _search, "list": _list}
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--only", choices=groups, action="append", help="group to run")
    wanted = parser.parse_args().only or list(groups)
    print_figures([{"name": "machine", **machine()}])
    for name in wanted:
        with tempfile.TemporaryDirectory(prefix="matyan-bench-") as directory:
            os.environ["MATYAN_DIR"] = f"{directory}/journals"
            print_figures(groups[name](Path(directory)))
    return 0


def _up(directory: Path) -> Iterator[dict[str, Any]]:
    seconds = []
    for attempt in range(3):
        with LocalServer(directory / str(attempt)) as server:
            seconds.append(server.seconds_to_ready)
            if attempt == 2:
                yield {
                    "name": "up_ready",
                    "value": round(sorted(seconds)[1], 2),
                    "unit": "s",
                }
                yield from _memory(server, when="idle")


def _write(directory: Path) -> Iterator[dict[str, Any]]:
    with LocalServer(directory / "data") as server:
        yield from track(server)
        yield from freshness(server)
        yield _median_of(3, lambda: ingest_json(server))
        yield _median_of(3, lambda: ingest_binary(server))
        yield from _memory(server, when="after_load")


def _search(directory: Path) -> Iterator[dict[str, Any]]:
    data = directory / "data"
    kept, file = fill(data, runs=1_000, series=10, steps=1_000)
    for name, value in (
        ("stored_bytes_per_point", kept),
        ("file_bytes_per_point", file),
    ):
        yield {"name": name, "value": round(value, 2), "unit": "bytes"}
    with LocalServer(data) as server:
        yield from metric_search(server)
        yield from _memory(server, when="after_search")


def _list(directory: Path) -> Iterator[dict[str, Any]]:
    data = directory / "data"
    fill(data, runs=10_000, series=3, steps=1)
    with LocalServer(data) as server:
        yield from run_list(server)


def _median_of(times: int, measure: Any) -> dict[str, Any]:
    figures = sorted((measure() for _ in range(times)), key=lambda f: f["value"])
    return {**figures[times // 2], "all": [f["value"] for f in figures]}


def _memory(server: LocalServer, *, when: str) -> Iterator[dict[str, Any]]:
    supervisor = psutil.Process(server.pid)
    total = 0
    for process in (supervisor, *supervisor.children()):
        words = process.cmdline()[2:4]
        role = process.environ().get("MATYAN_ROLE", "")
        name = f"serve {role}" if words[0] == "serve" else " ".join(words[:2])
        size = process.memory_full_info().uss
        total += size
        yield _mib(f"memory_{when}", size, process="up" if words[0] == "up" else name)
    yield _mib(f"memory_{when}_total", total)


def _mib(name: str, size: int, **more: str) -> dict[str, Any]:
    return {"name": name, "value": round(size / 2**20), "unit": "MiB", **more}


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": platform.machine(),
    }


def print_figures(figures: Iterable[dict[str, Any]]) -> None:
    """Print each figure as a JSON line as soon as it is known."""
    for figure in figures:
        sys.stdout.write(json.dumps(figure) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

"""Reads over a store of known content, made through the ingestion service."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from backend.services.ingestion import apply_records
from backend.storage.factory import Store, open_store
from bench.batches import records, whole_run
from matyan_project.local_server import LocalServer

RUNS_PER_CALL = 50


def fill(data_dir: Path, *, runs: int, series: int, steps: int) -> tuple[float, float]:
    """Store `runs` finished runs.

    Returns:
        Bytes per point of all keys and values, and of the store's file.
    """
    store = open_store(
        engine="backend.storage.engine.embedded.EmbeddedEngine",
        options={"path": str(data_dir / "store"), "durable": False},
    )
    try:
        _apply(store, runs=runs, series=series, steps=steps)
        points = runs * series * steps
        return _live_bytes(store) / points, store.engine.size_bytes() / points
    finally:
        store.close()


def _apply(store: Store, *, runs: int, series: int, steps: int) -> None:
    generator = np.random.default_rng(7)
    for first in range(0, runs, RUNS_PER_CALL):
        batches = [
            (
                f"run-{i:06d}",
                whole_run(f"run-{i:06d}", generator, series=series, steps=steps),
            )
            for i in range(first, min(first + RUNS_PER_CALL, runs))
        ]
        result = apply_records(store, records(batches, first_offset=first))
        if result.poison:
            raise RuntimeError(result.poison[0][1])


def _live_bytes(store: Store) -> int:
    """Return the bytes of all keys and values, not counting how pages are filled."""
    total, begin = 0, b""
    while True:
        pairs = store.engine.read(
            lambda tr, begin=begin: tr.get_range(begin, b"\xff", limit=10_000)
        )
        if not pairs:
            return total
        total += sum(len(key) + len(value) for key, value in pairs)
        begin = pairs[-1][0] + b"\x00"


def metric_search(server: LocalServer) -> Iterator[dict[str, Any]]:
    """Metric search over everything: seconds to the first byte, run and to the end."""
    taken: dict[str, list[float]] = {"first_byte": [], "first_run": [], "total": []}
    size = 0
    for _ in range(3):
        started = time.perf_counter()
        with httpx.stream(
            "GET",
            f"{server.url}/api/v1/rest/runs/search/metric",
            params={"q": "", "p": 50},
            timeout=120,
        ) as answer:
            chunks = answer.iter_raw()
            size = len(next(chunks))
            taken["first_byte"].append(time.perf_counter() - started)
            # The first bytes are the progress frame; a run's own come after it.
            size += len(next(chunks))
            taken["first_run"].append(time.perf_counter() - started)
            size += sum(map(len, chunks))
        taken["total"].append(time.perf_counter() - started)
    for name, seconds in taken.items():
        value = round(sorted(seconds)[1], 3)
        yield {"name": f"metric_search_{name}", "value": value, "unit": "s"}
    yield {"name": "metric_search_answer", "value": size, "unit": "bytes"}


def run_list(server: LocalServer, *, calls: int = 40) -> list[dict[str, Any]]:
    """The Runs page's request (45 rows, an indexed predicate), p50 and p95."""
    figures = []
    for name, query in (
        ("run_list_indexed", 'run.experiment == "experiment-3"'),
        ("run_list_scan", "run.hparams.lr < 0.05"),
    ):
        taken = []
        for _ in range(calls):
            started = time.perf_counter()
            httpx.get(
                f"{server.url}/api/v1/rest/runs/search/run",
                params={"q": query, "limit": 45},
                timeout=60,
            ).raise_for_status()
            taken.append(time.perf_counter() - started)
        figures += [
            {
                "name": f"{name}_p{p}",
                "value": round(float(np.percentile(taken, p)), 4),
                "unit": "s",
            }
            for p in (50, 95)
        ]
    return figures

"""`make bench-cluster`: ingestion on each store and log, with one and two workers.

One JSON line a figure, all in one run on one machine, so that they can be compared.
FoundationDB is left out where there is none (see tests/services/foundationdb.py);
Kafka needs Java and Maven.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.__main__ import machine, print_figures
from bench.ingest import ingest_binary, ingest_json
from matyan_project.local_server import LocalServer
from tests.services import foundationdb
from tests.services.kafka import KafkaBroker

BINARY_POINTS = 4_000_000
JSON_POINTS = 400_000
TURNS = 3

Environ = dict[str, str]


def main() -> int:
    """Measure every combination; print each figure as it is known."""
    parser = argparse.ArgumentParser(prog="bench.cluster", description=__doc__)
    parser.add_argument("--turns", type=int, default=TURNS, help="(%(default)s)")
    turns = parser.parse_args().turns
    print_figures([{"name": "machine", **machine()}])
    with tempfile.TemporaryDirectory(prefix="matyan-bench-") as name:
        directory = Path(name)
        os.environ["MATYAN_DIR"] = f"{directory}/journals"
        with KafkaBroker(directory / "kafka") as broker:
            print_figures(_all(directory, broker, turns))
    return 0


def _all(directory: Path, broker: KafkaBroker, turns: int) -> Iterator[dict[str, Any]]:
    reason = foundationdb.missing()
    if reason:
        sys.stderr.write(f"without FoundationDB: {reason}\n")
    stores = {"embedded": _embedded} | ({} if reason else {"foundationdb": _cluster})
    logs = {"local": _local, "kafka": lambda: _kafka(broker)}
    for store, log, workers in itertools.product(stores, logs, (1, 2)):
        label = {"store": store, "log": log, "workers": workers}
        with stores[store]() as store_environ:
            environ = {**store_environ, **logs[log]()}
            data = directory / "-".join(map(str, label.values()))
            yield from _measure(data, environ, label, turns)


def _measure(
    data: Path, environ: Environ, label: dict[str, Any], turns: int
) -> Iterator[dict[str, Any]]:
    options = [f"--workers={label['workers']}"]
    with LocalServer(data, options=options, environ=environ) as server:
        measures: list[Callable[[], dict[str, Any]]] = [
            lambda: ingest_binary(server, points=BINARY_POINTS),
            lambda: ingest_json(server, points=JSON_POINTS),
        ]
        for measure in measures:
            figures = sorted(
                (measure() for _ in range(turns)), key=lambda f: f["value"]
            )
            middle = figures[turns // 2]
            yield {**middle, **label, "all": [f["value"] for f in figures]}


@contextlib.contextmanager
def _embedded() -> Iterator[Environ]:
    yield {"MATYAN_STORE_ENGINE": "embedded"}


@contextlib.contextmanager
def _cluster() -> Iterator[Environ]:
    with foundationdb.clean_cluster(frozenset({"fdb"})) as options:
        yield {
            "MATYAN_STORE_ENGINE": "foundationdb",
            "MATYAN_FDB_CLUSTER_FILE": options["cluster_file"],
            "MATYAN_FDB_LIBRARY": options["library"] or "",
        }


def _local() -> Environ:
    return {"MATYAN_EVENT_LOG_ENGINE": "local"}


def _kafka(broker: KafkaBroker) -> Environ:
    return {
        "MATYAN_EVENT_LOG_ENGINE": "kafka",
        "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        "KAFKA_TOPIC_PREFIX": f"bench-{uuid.uuid4().hex[:8]}-",
    }


if __name__ == "__main__":
    sys.exit(main())

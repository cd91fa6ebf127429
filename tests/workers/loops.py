"""Running a loop in a thread, and handlers that misbehave as told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry

from backend.bus.base import EventLog, Record
from backend.bus.topics import DEAD_LETTERS, INGESTION, INGESTION_GROUP
from backend.storage.engine.base import ReadTransaction
from backend.storage.factory import Store
from matyan_wire.batch import Position, SeriesRef, encode_envelope
from tests.backend.storage.series_model import RECEIVED_US, Frame, Point, encode_frame
from workers.handlers.base import Outcome
from workers.loop import Chore, LoopOptions, Source, WorkerLoop
from workers.metrics import WorkerMetrics

PATIENCE_S = 30.0
QUICK = LoopOptions(
    max_records=10,
    poll_s=0.05,
    heartbeat_s=0.05,
    first_pause_s=0.01,
    longest_pause_s=0.05,
)


@dataclass
class FakeHandler:
    """Takes note of what it is given; fails when `fault` says so.

    Attributes:
        fault: Given a batch, may raise or return poison.
        applied: Values applied, in order.
        calls: Batches given, applied or not.
    """

    fault: Callable[[Sequence[Record]], list[tuple[Record, Exception]] | None] = (
        lambda _records: None
    )
    applied: list[bytes] = field(default_factory=list)
    calls: list[list[bytes]] = field(default_factory=list)

    def __call__(self, records: Sequence[Record]) -> Outcome:
        self.calls.append([record.value for record in records])
        poison = self.fault(records) or []
        bad = {record.position for record, _error in poison}
        good = [r for r in records if r.position not in bad]
        self.applied += [record.value for record in good]
        return Outcome(applied=len(good), points=len(good), poison=poison)


@dataclass
class FakeHealth:
    """Remembers every report."""

    reports: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def report(self, state: str, **fields: Any) -> None:
        self.reports.append((state, fields))

    def states(self) -> list[str]:
        """Return the states in order, without repetitions."""
        found: list[str] = []
        for state, _fields in self.reports:
            if found[-1:] != [state]:
                found.append(state)
        return found


def make_loop(
    log: EventLog,
    handle: Callable[[Sequence[Record]], Outcome],
    *,
    options: LoopOptions = QUICK,
    health: FakeHealth | None = None,
    chores: Sequence[Chore] = (),
    registry: CollectorRegistry | None = None,
) -> WorkerLoop:
    return WorkerLoop(
        Source(log, log.producer(), INGESTION_GROUP, (INGESTION,)),
        handle,
        metrics=WorkerMetrics("ingestion", registry=registry or CollectorRegistry()),
        now_us=lambda: 1_000_000,
        options=options,
        health=health,
        chores=chores,
    )


@contextmanager
def running(loop: WorkerLoop) -> Iterator[list[bool]]:
    """Run the loop in a thread; the list has its result afterwards."""
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(loop.run()))
    thread.start()
    try:
        yield results
    finally:
        loop.request_stop()
        thread.join(PATIENCE_S)
    assert not thread.is_alive()


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.005)


def envelope(step: int, *, seq: int | None = None) -> bytes:
    """Return a record with one point of the series "loss" of the run "run"."""
    position = None if seq is None else Position(epoch=1, seq=seq, writer="w")
    point = Point(SeriesRef("metric", "loss"), step, float(step))
    frame = encode_frame(Frame(points=[point], position=position))
    return encode_envelope(received_us=RECEIVED_US, digest=b"", batch=frame)


def stored_values(store: Store) -> list[float]:
    """Return the values of the run "run"'s one series."""

    def read(tr: ReadTransaction) -> list[float]:
        run = store.runs.get(tr, "run")
        (series,) = store.series.list(tr, run.number)
        points = store.series.read_points(tr, run.number, series.number)
        return [float(value) for value in points.values]

    return store.engine.read(read)


def send(log: EventLog, *values: bytes, key: bytes = b"run") -> None:
    producer = log.producer()
    futures = [producer.publish(INGESTION, key=key, value=value) for value in values]
    for future in futures:
        future.result(PATIENCE_S)


def lag_of(log: EventLog) -> int:
    """Return how many records the workers have not committed."""
    return sum(x.lag for x in log.lag(group=INGESTION_GROUP, topics=[INGESTION]))


def dead_letters(log: EventLog) -> list[Record]:
    return log.read(DEAD_LETTERS, partition=0, offset=0, max_records=1_000)

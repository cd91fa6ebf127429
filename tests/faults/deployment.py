"""Stores, logs, workers and writers of a fault test, and what must be left of them."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec

from backend.bus.base import EventLog, Producer, Record
from backend.bus.factory import open_event_log
from backend.bus.topics import DEAD_LETTERS, INGESTION, INGESTION_GROUP, TOPICS
from backend.errors import EventLogError
from backend.storage.factory import Store, open_store
from matyan_wire.batch import encode_batch, encode_envelope
from tests.e2e.journal import EPOCH_US, Journal

ROOT = Path(__file__).parents[2]
PATIENCE_S = 100.0
"""Bound on every wait: far above what is needed, below the test's own limit."""


class Outage(Protocol):
    """How this deployment's store goes away and comes back."""

    def begin(self) -> None: ...

    def end(self) -> None: ...


@dataclass
class Deployment:
    """One kind of store and log.

    Attributes:
        store: `open_store`'s arguments; JSON values, so that workers can be told.
        log: `open_event_log`'s arguments, likewise.
        outage: Of the store.
        broker: Of the log, if it has one that may be killed.
        stack: Ends everything at the end of the test.
    """

    store: dict[str, Any]
    log: dict[str, Any]
    outage: Outage
    broker: Any
    stack: ExitStack
    _opened: EventLog | None = None

    def open_log(self) -> EventLog:
        """Return this test's own opening of the log, topics made."""
        if self._opened is None:
            self._opened = open_event_log(**self.log)
            self.stack.callback(self._opened.close)
            self._opened.ensure_topics(TOPICS)
        return self._opened

    def open_store(self) -> Store:
        opened = open_store(**self.store)
        self.stack.callback(opened.close)
        return opened

    def worker(self, **told: Any) -> WorkerProcess:
        """Start a worker process; see `tests/faults/worker.py`."""
        worker = WorkerProcess(
            {"role": "work", "store": self.store, "log": self.log, **told}
        )
        self.stack.callback(worker.end)
        return worker

    def lag(self) -> int:
        """Return how many records the workers have not committed."""
        lags = self.open_log().lag(group=INGESTION_GROUP, topics=[INGESTION])
        return sum(lag.lag for lag in lags)

    def wait_until_applied(self) -> None:
        """Wait until the workers have committed every record."""
        wait_for(self._is_applied)

    def _is_applied(self) -> bool:
        try:
            return self.lag() == 0
        except EventLogError:
            return False

    def dead_letters(self) -> list[Record]:
        return self.open_log().read(
            DEAD_LETTERS, partition=0, offset=0, max_records=1_000
        )

    def writing(self, journals: Sequence[Journal], **told: Any) -> Writing:
        """Start publishing the journals' frames, each in a thread of its own."""
        writing = Writing(self.open_log().producer(), journals, **told)
        self.stack.callback(writing.stop)
        return writing


class WorkerProcess:
    """A worker in a process of its own, and what it has said."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.worker", json.dumps(told)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self.pid = self.process.pid
        self.said: list[dict[str, Any]] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def words(self, word: str) -> list[dict[str, Any]]:
        return [said for said in list(self.said) if said["word"] == word]

    def wait_for(self, word: str) -> dict[str, Any]:
        """Wait until it has said a word; return what it said first."""
        wait_for(lambda: self.words(word) or self.process.poll() is not None)
        return self.words(word)[0]

    def tell(self) -> None:
        """Send it the line it waits for."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def stop(self) -> None:
        """Stop it politely."""
        self.process.terminate()
        self.process.wait(PATIENCE_S)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._listener.join(5.0)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            # A kill may cut the last line off.
            if line.endswith("\n"):
                self.said.append(json.loads(line))


@dataclass
class Writing:
    """Publishes as the gateway does: the next frame once the last one is durable.

    Attributes:
        producer: Where to.
        journals: What; their `accepted_frames` and `sends` count.
        pause_s: Between two frames of a journal.
    """

    producer: Producer
    journals: Sequence[Journal]
    pause_s: float = 0.0
    _stopping: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        for journal in self.journals:
            thread = threading.Thread(target=self._write, args=[journal])
            thread.start()
            self._threads.append(thread)

    def finish(self) -> None:
        """Wait until every frame is durable."""
        wait_for(lambda: not any(thread.is_alive() for thread in self._threads))
        unfinished = [j for j in self.journals if j.accepted_frames < j.frames]
        assert not unfinished

    def stop(self) -> None:
        """Stop early, after the frame in hand."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _write(self, journal: Journal) -> None:
        while journal.accepted_frames < journal.frames and not self._stopping.is_set():
            journal.sends += 1
            try:
                publish(self.producer, journal, [journal.accepted_frames])
            except EventLogError:
                time.sleep(0.05)
            else:
                journal.accepted_frames += 1
                time.sleep(self.pause_s)


def make_journals(
    count: int, *, points: int = 10_000, steps_per_frame: int = 10
) -> list[Journal]:
    """Return journals of writers, with positions and (every third) without."""
    return [
        Journal(f"run-{number}", points, steps_per_frame) for number in range(count)
    ]


def has_positions(journal: Journal) -> bool:
    """Return whether this journal's writer numbers its frames."""
    return int(journal.run_id.rpartition("-")[2]) % 3 != 2


def record(journal: Journal, frame: int) -> bytes:
    """Return a frame as the gateway publishes it."""
    batch = journal.batch(frame)
    if has_positions(journal):
        encoded, digest = encode_batch(batch), b""
    else:
        encoded = encode_batch(msgspec.structs.replace(batch, position=None))
        digest = hashlib.blake2b(encoded, digest_size=16).digest()
    return encode_envelope(received_us=EPOCH_US + frame, digest=digest, batch=encoded)


def publish(producer: Producer, journal: Journal, frames: Iterable[int]) -> None:
    """Publish frames in this order and wait until all are durable."""
    key = journal.run_id.encode()
    futures = [
        producer.publish(INGESTION, key=key, value=record(journal, frame))
        for frame in frames
    ]
    for future in futures:
        future.result(PATIENCE_S)


def repeated(frames: int, *, seed: int) -> list[int]:
    """Return each frame several times, its first time in order."""
    chosen = random.Random(seed)
    order = []
    for frame in range(frames):
        order.append(frame)
        order += [chosen.randint(0, frame) for _ in range(chosen.randint(0, 2))]
    return order


def shuffled(frames: int, *, seed: int) -> list[int]:
    """Return each frame twice, in any order."""
    order = [*range(frames), *range(frames)]
    random.Random(seed).shuffle(order)
    return order


def wait_for(condition: Callable[[], Any]) -> None:
    """Wait until the condition holds; fail when that takes too long."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)

"""What the conformance suite needs from each implementation, and a few verbs.

Adding an implementation means adding a `Harness` here and its name in `conftest.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.bus.base import (
    Consumer,
    EventLog,
    Producer,
    Record,
    RecordPosition,
    TopicPartition,
    TopicSpec,
)
from backend.bus.factory import open_event_log

PATIENCE_S = 60.0
"""Bound on every wait: far above what is needed, below the test's own limit."""

PROGRAM = "tests.backend.bus.bus_process"
ROOT = Path(__file__).parents[3]


@dataclass
class Harness:
    """One implementation under test.

    Attributes:
        engine: Dotted path of the class.
        options: What it is opened with; JSON values, so that other processes can be
            told.
        stack: Closes what was opened, at the end of the test.
    """

    engine: str
    options: dict[str, Any]
    stack: ExitStack

    def open(self, **changes: Any) -> EventLog:
        """Open the log once more."""
        log = open_event_log(engine=self.engine, options={**self.options, **changes})
        self.stack.callback(log.close)
        return log

    def topic(self, log: EventLog, **changes: Any) -> TopicSpec:
        """Make a topic of this test's own."""
        spec = TopicSpec(
            name=changes.pop("name", f"topic-{uuid.uuid4().hex[:12]}"),
            partitions=changes.pop("partitions", 4),
            max_record_bytes=changes.pop("max_record_bytes", 1 << 20),
            retention_seconds=changes.pop("retention_seconds", 0.0),
            groups=changes.pop("groups", ("readers",)),
        )
        log.ensure_topics([spec])
        return spec

    def spawn(self, role: str, **arguments: Any) -> Process:
        """Start another process that has the log open; see `bus_process.py`."""
        told = json.dumps(
            {"engine": self.engine, "options": self.options, "role": role, **arguments}
        )
        process = subprocess.Popen(
            [sys.executable, "-m", PROGRAM, told],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self.stack.callback(_end, process)
        return Process(process)


class Process:
    """A process that tells what it does, a JSON line each."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid

    def lines(self) -> Iterable[dict[str, Any]]:
        """Yield what it says until it ends; a line cut off by a kill is left out."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith("\n"):
                yield json.loads(line)

    def hear(self, wanted: str) -> dict[str, Any]:
        """Return its next word of this kind."""
        return next(word for word in self.lines() if word["word"] == wanted)

    def tell(self, word: str) -> None:
        """Send it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def wait(self) -> int:
        """Wait until it ends; return its status."""
        return self.process.wait(PATIENCE_S)


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def publish(
    producer: Producer, topic: TopicSpec, items: Iterable[tuple[bytes, bytes]]
) -> list[RecordPosition]:
    """Publish (key, value) pairs and wait until they are durable."""
    futures = [producer.publish(topic.name, key=k, value=v) for k, v in items]
    return [future.result(PATIENCE_S) for future in futures]


def numbered(count: int, *, keys: int = 5, start: int = 0) -> list[tuple[bytes, bytes]]:
    """Return pairs of a few keys and consecutive numbers."""
    return [(b"key-%d" % (n % keys), b"%d" % n) for n in range(start, start + count)]


def take(consumer: Consumer, count: int, **bounds: int) -> list[Record]:
    """Poll until `count` records came."""
    records: list[Record] = []
    wanted = {"max_records": 100, "max_bytes": 1 << 20, **bounds}

    def enough() -> bool:
        records.extend(consumer.poll(timeout_s=0.2, **wanted))
        return len(records) >= count

    wait_for(enough)
    return records


def wait_for(condition: Callable[[], Any]) -> None:
    """Wait until the condition holds; fail when that takes too long."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.005)


def settle(consumers: Sequence[Consumer], partitions: int) -> None:
    """Poll all members until each has its share; what comes meanwhile is dropped."""
    share = partitions // len(consumers)

    def shared() -> bool:
        for consumer in consumers:
            consumer.poll(max_records=1, max_bytes=1, timeout_s=0.05)
        owned = [consumer.assignment() for consumer in consumers]
        return (
            min(map(len, owned)) >= share
            and sum(map(len, owned)) == partitions
            and len(frozenset[TopicPartition]().union(*owned)) == partitions
        )

    wait_for(shared)


def next_offsets(records: Iterable[Record]) -> dict[TopicPartition, int]:
    """Return what to commit after these records."""
    return {
        TopicPartition(r.position.topic, r.position.partition): r.position.offset + 1
        for r in records
    }


def values(records: Iterable[Record]) -> list[bytes]:
    """Return the values, in the order they came."""
    return [record.value for record in records]


def everything(log: EventLog, topic: TopicSpec) -> list[Record]:
    """Read every record of a topic, outside any group."""
    found: list[Record] = []
    for partition in range(topic.partitions):
        offset = 0
        while records := log.read(
            topic.name, partition=partition, offset=offset, max_records=500
        ):
            found += records
            offset = records[-1].position.offset + 1
    return found

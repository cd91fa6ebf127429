"""One transaction of the appender: gives each record its place, writes them sorted.

Design note: docs/subsystems/eventlog.md#group-commit
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

from backend.bus import local_format as fmt
from backend.bus.base import RecordPosition
from backend.bus.local_environment import LocalEnvironment
from backend.bus.local_topics import get_topic, iter_prefix
from backend.errors import EventLogError

PUT_SLICE_BYTES: Final = 1 << 20
"""LMDB copies the rows of one call while holding the interpreter's lock: 1 MB is about
a millisecond (measured), after which other threads get a turn."""

PROBE_TOPIC: Final = ""
"""Stands for a commit without a record."""


@dataclass(slots=True, eq=False)
class Pending:
    """A record on its way into the log, and what became of it."""

    topic: str
    key: bytes
    row: bytes
    queued_s: float
    future: Future[RecordPosition] = field(default_factory=Future)
    position: RecordPosition | None = None
    error: EventLogError | None = None


class Append:
    """One transaction's worth of records: gives each its place, writes them sorted."""

    def __init__(self, txn: Any, env: LocalEnvironment, max_bytes: int | None) -> None:
        self._txn = txn
        self._env = env
        self._room = self._find_room(max_bytes)
        self._partitions: dict[tuple[int, int], fmt.PartitionRow] = {}
        self._rows: list[tuple[bytes, bytes]] = []
        self.topics: dict[str, fmt.TopicRow] = {}

    def add(self, pending: Pending) -> bool:
        """Take a record in; return False if there is no room for it."""
        if pending.topic == PROBE_TOPIC:
            count = fmt.decode_number(self._txn.get(fmt.PROBE_KEY, db=self._env.state))
            row = fmt.encode_number(count + 1)
            self._txn.put(fmt.PROBE_KEY, row, db=self._env.state)
            return self._room > 0
        size = fmt.stored_bytes(len(pending.row))
        if size > self._room:
            return False
        self._room -= size
        topic = self._topic(pending.topic)
        number = fmt.key_hash(pending.key) % topic.partitions
        old = self._partition(topic.number, number)
        key = fmt.pack_record(topic.number, number, old.next_offset)
        self._rows.append((key, pending.row))
        self._partitions[topic.number, number] = fmt.PartitionRow(
            old.next_offset + 1, old.stored_bytes + size
        )
        pending.position = RecordPosition(
            self._env.log_id, topic.name, number, old.next_offset
        )
        return True

    def write(self) -> None:
        """Put every row taken in."""
        self._rows.sort()
        for rows in _slices(self._rows):
            self._txn.cursor(self._env.records).putmulti(rows)
        for (topic, number), row in self._partitions.items():
            key = fmt.pack_partition(topic, number)
            self._txn.put(key, fmt.encode_partition(row), db=self._env.state)

    def _find_room(self, max_bytes: int | None) -> float:
        if max_bytes is None:
            return float("inf")
        rows = iter_prefix(self._txn, self._env.state, b"p")
        return max_bytes - sum(fmt.decode_partition(r).stored_bytes for _k, r in rows)

    def _topic(self, name: str) -> fmt.TopicRow:
        if name not in self.topics:
            self.topics[name] = get_topic(self._txn, self._env, name)
        return self.topics[name]

    def _partition(self, topic: int, number: int) -> fmt.PartitionRow:
        found = self._partitions.get((topic, number))
        if found is None:
            row = self._txn.get(fmt.pack_partition(topic, number), db=self._env.state)
            found = fmt.decode_partition(row)
        return found


def _slices(rows: list[tuple[bytes, bytes]]) -> list[list[tuple[bytes, bytes]]]:
    slices: list[list[tuple[bytes, bytes]]] = [[]]
    size = 0
    for row in rows:
        if size > PUT_SLICE_BYTES:
            slices.append([])
            size = 0
        slices[-1].append(row)
        size += len(row[1])
    return slices

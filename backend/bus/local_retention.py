"""Deleting records that everybody has consumed and retention no longer protects.

A record goes only when every group registered with its topic has committed past it and
it is older than the topic's retention, oldest first, a bounded number at a time.

Design note: docs/subsystems/eventlog.md#retention
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from backend.bus import local_format as fmt
from backend.bus import local_groups as groups
from backend.bus.base import TopicPartition
from backend.bus.local_environment import LocalEnvironment
from backend.bus.local_topics import load_topics

MAX_TRIM_RECORDS: Final = 10_000
MAX_TRIM_BYTES: Final = 256 << 20
"""Bounds on one call: it holds the write lock for some ten milliseconds."""


def trim(env: LocalEnvironment, *, now_us: int) -> int:
    """Delete what may go, within the bounds above; return the number of records.

    Raises:
        EventLogError: If the log cannot be written.
    """
    # A durable commit costs an fsync: look first.
    if not env.read(lambda txn: any(_iter_deletable(txn, env, now_us))):
        return 0
    return env.write(lambda txn: _trim(txn, env, now_us))


def _trim(txn: Any, env: LocalEnvironment, now_us: int) -> int:
    deleted = size = 0
    for topic, partition, limit_offset, limit_us in _iter_bounds(txn, env, now_us):
        freed = 0
        cursor = txn.cursor(env.records)
        while deleted < MAX_TRIM_RECORDS and size + freed < MAX_TRIM_BYTES:
            found = _find_deletable(cursor, topic, partition, limit_offset, limit_us)
            if found is None:
                break
            freed += fmt.stored_bytes(found)
            cursor.delete()
            deleted += 1
        if freed:
            key = fmt.pack_partition(topic, partition)
            old = fmt.decode_partition(txn.get(key, db=env.state))
            new = fmt.PartitionRow(old.next_offset, max(0, old.stored_bytes - freed))
            txn.put(key, fmt.encode_partition(new), db=env.state)
        size += freed
    return deleted


def _iter_deletable(txn: Any, env: LocalEnvironment, now_us: int) -> Iterator[bool]:
    cursor = txn.cursor(env.records)
    for bounds in _iter_bounds(txn, env, now_us):
        yield _find_deletable(cursor, *bounds) is not None


def _iter_bounds(
    txn: Any, env: LocalEnvironment, now_us: int
) -> Iterator[tuple[int, int, int, float]]:
    """Yield (topic, partition, first offset to keep, time from which to keep)."""
    for topic in load_topics(txn, env).values():
        limit_us = now_us - topic.retention_seconds * 1e6
        for partition in range(topic.partitions):
            where = TopicPartition(topic.name, partition)
            limit_offset = min(
                (groups.committed(txn, env, g, where) for g in topic.groups),
                default=0,
            )
            yield topic.number, partition, limit_offset, limit_us


def _find_deletable(
    cursor: Any, topic: int, partition: int, limit_offset: int, limit_us: float
) -> int | None:
    """Return the row size of the partition's first record if it may go."""
    if not cursor.set_range(fmt.pack_record(topic, partition, 0)):
        return None
    *where, offset = fmt.unpack_record(cursor.key())
    if where != [topic, partition] or offset >= limit_offset:
        return None
    row = cursor.value()
    return len(row) if fmt.record_time_us(row) <= limit_us else None

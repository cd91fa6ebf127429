"""Reading records of the local event log.

Every function takes the caller's transaction and copies what it returns, so that the
transaction can end at once: an open one would keep deleted pages from being used again.

Design note: docs/subsystems/eventlog.md
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backend.bus import local_format as fmt
from backend.bus.base import Record, TopicPartition
from backend.bus.local_environment import LocalEnvironment
from backend.bus.local_topics import get_topic


@dataclass(slots=True)
class Budget:
    """How much more one call may return. The first record is always returned."""

    records: int
    size: int
    used: bool = False

    def take(self, size: int) -> bool:
        """Return whether a record of `size` bytes still fits, and count it."""
        if self.records < 1 or (self.used and size > self.size):
            return False
        self.used = True
        self.records -= 1
        self.size -= size
        return True


def read_records(
    txn: Any, env: LocalEnvironment, where: TopicPartition, offset: int, budget: Budget
) -> list[Record]:
    """Return the partition's records from `offset` on, as far as the budget goes.

    Raises:
        EventLogUnavailableError: If there is no such topic.
    """
    topic = get_topic(txn, env, where.topic).number
    begin = fmt.pack_record(topic, where.partition, offset)
    prefix = begin[: -fmt.OFFSET_BYTES]
    found: list[Record] = []
    cursor = txn.cursor(env.records)
    more = cursor.set_range(begin)
    while more:
        key, row = cursor.item()
        if not key.startswith(prefix) or not budget.take(len(row)):
            break
        found.append(fmt.decode_record(where, env.log_id, key, row))
        more = cursor.next()
    return found

"""Dead letters, read back: records that could not be applied, with the reason.

What a dead letter looks like is written where they are made, `workers/dlq.py`.

Design note: docs/subsystems/workers.md#dead-letters
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from backend.bus.base import EventLog, Record
from backend.bus.topics import DEAD_LETTERS, REPLAY_GROUP

ORIGINAL: Final = "original."
CHUNK_RECORDS: Final = 100


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter, read back.

    Attributes:
        record: As it lies in the dead-letter topic.
        topic: Where it came from, "" if unknown.
        code: Machine name of the reason.
        reason: Text for people.
        origin: What tells it from others, wherever it lies: log id, topic, partition
            and offset of the record it holds.
        time_us: Since when it is here, 0 if unknown.
    """

    record: Record
    topic: str
    code: str
    reason: str
    origin: str = ""
    time_us: int = 0


def origin_of(record: Record) -> str:
    """Return where the record in a dead letter came from: log/topic/partition/offset.

    The dead letter's own offset changes when it is kept for later; this does not.
    """
    headers = dict(record.headers)
    parts = (
        headers.get(name, b"") for name in ("log_id", "topic", "partition", "offset")
    )
    return b"/".join(parts).decode(errors="replace")


def read_dead_letter(record: Record) -> DeadLetter:
    """Return what a record of the dead-letter topic says."""
    headers = {name: value.decode(errors="replace") for name, value in record.headers}
    time_us = headers.get("time_us", "")
    return DeadLetter(
        record,
        headers.get("topic", ""),
        headers.get("code", ""),
        headers.get("reason", ""),
        origin_of(record),
        int(time_us) if time_us.isdecimal() else 0,
    )


def iter_dead_letters(
    log: EventLog,
    *,
    topic: str | None = None,
    limit: int | None = None,
    offset: int = 0,
) -> Iterator[DeadLetter]:
    """Yield the dead letters not replayed yet, oldest first, leaving them there.

    Args:
        log: The event log.
        topic: Only those that came from this topic.
        limit: At most so many.
        offset: Only those that lie at or after this offset.

    Raises:
        EventLogError: If the log does not answer.
    """
    found = 0
    for lag in log.lag(group=REPLAY_GROUP, topics=[DEAD_LETTERS]):
        at = max(offset, lag.committed)
        while at < lag.end:
            records = log.read(
                DEAD_LETTERS,
                partition=lag.partition,
                offset=at,
                max_records=CHUNK_RECORDS,
            )
            if not records:
                break
            at = records[-1].position.offset + 1
            for letter in map(read_dead_letter, records):
                if topic in {None, letter.topic}:
                    if found == limit:
                        return
                    found += 1
                    yield letter


def find_dead_letter(log: EventLog, origin: str) -> DeadLetter | None:
    """Return the dead letter of this origin, None if it is not there (any more)."""
    for letter in iter_dead_letters(log):
        if letter.origin == origin:
            return letter
    return None


def count_dead_letters(log: EventLog) -> int:
    """Return how many dead letters wait, an upper bound."""
    return sum(lag.lag for lag in log.lag(group=REPLAY_GROUP, topics=[DEAD_LETTERS]))

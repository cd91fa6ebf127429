"""Dead letters: records that can never be applied, kept with the reason.

A dead letter has the key and value of the record it holds. Headers tell where it came
from (`topic`, `partition`, `offset`, `log_id`), why it is here (`code`, `reason`) and
since when (`time_us`); the record's own headers follow, each name behind `original.`.

Replaying publishes the record to its topic again, with its own headers and
`replay_of` = log id/topic/partition/offset, and then passes over the dead letter. A
crash between the two replays it twice, which applying a record twice tolerates.

Design note: docs/subsystems/workers.md#dead-letters
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

from backend.bus.base import (
    Consumer,
    EventLog,
    Producer,
    Record,
    RecordPosition,
    TopicPartition,
)
from backend.bus.topics import DEAD_LETTERS, REPLAY_GROUP, REPLAY_OF
from backend.errors import (
    EventLogError,
    EventLogUnavailableError,
    MatyanError,
    RecordTooLargeError,
)
from backend.services.dead_letters import (
    CHUNK_RECORDS,
    ORIGINAL,
    DeadLetter,
    origin_of,
    read_dead_letter,
)

MAX_REASON_CHARS: Final = 2_000
CONFIRM_S: Final = 30.0
CHUNK_BYTES: Final = 16 << 20
JOIN_S: Final = 15.0
"""How long a replay waits to be given the partitions: longer than a dead member's."""


@dataclass(slots=True)
class ReplayReport:
    """What a replay did.

    Attributes:
        replayed: Records published to their topic again.
        discarded: Dead letters given up.
        kept: Dead letters moved to the end of the dead letters: of another topic than
            the one asked for, or not publishable.
        by_topic: Replayed records by topic.
    """

    replayed: int = 0
    kept: int = 0
    discarded: int = 0
    by_topic: dict[str, int] = field(default_factory=dict)

    def count(self, letter: DeadLetter, *, replayed: bool) -> None:
        """Count one dead letter."""
        if replayed:
            self.replayed += 1
            self.by_topic[letter.topic] = self.by_topic.get(letter.topic, 0) + 1
        else:
            self.kept += 1


class ReplayBusyError(EventLogError):
    """Another replay has the dead letters."""

    code = "replay_busy"
    http_status = 409
    message = "Another replay of the dead letters is running"
    hint = "Wait for it to end"


def error_code(error: Exception) -> str:
    """Return the machine name a dead letter gets for `error`."""
    return error.code if isinstance(error, MatyanError) else "internal_error"


def publish_dead_letters(
    producer: Producer,
    poison: Sequence[tuple[Record, Exception]],
    *,
    now_us: int,
    timeout_s: float = CONFIRM_S,
) -> None:
    """Store the records as dead letters; return once they are durable.

    Raises:
        EventLogError: If that failed for one of them; the others may be stored.
    """
    futures = [
        producer.publish(
            DEAD_LETTERS,
            key=record.key,
            value=record.value,
            headers=_headers_about(record, error, now_us=now_us),
        )
        for record, error in poison
    ]
    _confirm(futures, timeout_s)


def replay(  # noqa: PLR0913 - what the command and the admin let choose
    log: EventLog,
    producer: Producer,
    *,
    topic: str | None = None,
    limit: int | None = None,
    origins: Collection[str] | None = None,
    discard: bool = False,
    on_progress: Callable[[ReplayReport], None] = lambda _report: None,
) -> ReplayReport:
    """Publish the dead letters to their topics again, or give them up.

    Takes those that are there when it starts. Can be stopped at any moment and run
    again: it goes on where it was.

    Args:
        log: The event log.
        producer: Where to publish.
        topic: Only those that came from this topic; others move to the end.
        limit: At most so many.
        origins: Only those whose `DeadLetter.origin` is among them; others move to the
            end. It ends when all have been found.
        discard: Give them up instead: nothing is published, and they are gone.
        on_progress: Called after each step; what it raises ends the work there.

    Raises:
        ReplayBusyError: If another replay is running.
        EventLogError: If the log fails; what was replayed stays replayed.
    """
    report = ReplayReport()
    ends = {
        TopicPartition(lag.topic, lag.partition): lag.end
        for lag in log.lag(group=REPLAY_GROUP, topics=[DEAD_LETTERS])
        if lag.lag
    }
    if not ends:
        return report
    wanted = _Wanted(topic, limit, None if origins is None else set(origins), discard)
    consumer = log.consumer(group=REPLAY_GROUP, topics=[DEAD_LETTERS])
    try:
        for records in _iter_chunks(consumer, ends):
            taken = _replay_chunk(producer, records, wanted, report)
            consumer.commit(_next_offsets(taken))
            on_progress(report)
            if wanted.is_done():
                break
    finally:
        consumer.close()
    return report


@dataclass(slots=True)
class _Wanted:
    """Which dead letters are still to be treated, and how."""

    topic: str | None
    left: int | None
    origins: set[str] | None
    discard: bool

    def takes(self, letter: DeadLetter) -> bool:
        return self.topic in {None, letter.topic} and (
            self.origins is None or letter.origin in self.origins
        )

    def note(self, letter: DeadLetter) -> None:
        if self.left is not None:
            self.left -= 1
        if self.origins is not None:
            self.origins.discard(letter.origin)

    def is_done(self) -> bool:
        return self.left == 0 or (self.origins is not None and not self.origins)


def _replay_chunk(
    producer: Producer,
    records: Sequence[Record],
    wanted: _Wanted,
    report: ReplayReport,
) -> Sequence[Record]:
    """Publish a chunk; return the records done with."""
    futures = []
    for index, record in enumerate(records):
        if wanted.is_done():
            records = records[:index]
            break
        letter = read_dead_letter(record)
        future = None
        if wanted.takes(letter):
            wanted.note(letter)
            if wanted.discard:
                report.discarded += 1
                continue
            future = _republish(producer, letter)
        report.count(letter, replayed=future is not None)
        futures.append(future or _keep(producer, record))
    _confirm(futures, CONFIRM_S)
    return records


def _republish(producer: Producer, letter: DeadLetter) -> Future[RecordPosition] | None:
    """Publish the record to its topic; return None if that is impossible."""
    if not letter.topic or letter.topic == DEAD_LETTERS:
        return None
    record = letter.record
    origin = origin_of(record).encode()
    own = [
        (name.removeprefix(ORIGINAL), value)
        for name, value in record.headers
        if name.startswith(ORIGINAL) and name != ORIGINAL + REPLAY_OF
    ]
    try:
        return producer.publish(
            letter.topic,
            key=record.key,
            value=record.value,
            headers=[*own, (REPLAY_OF, origin)],
        )
    except RecordTooLargeError:
        return None


def _keep(producer: Producer, record: Record) -> Future[RecordPosition]:
    return producer.publish(
        DEAD_LETTERS, key=record.key, value=record.value, headers=record.headers
    )


def _headers_about(
    record: Record, error: Exception, *, now_us: int
) -> list[tuple[str, bytes]]:
    place = record.position
    text = str(error) or repr(error)
    told = {
        "topic": place.topic,
        "partition": str(place.partition),
        "offset": str(place.offset),
        "log_id": place.log_id,
        "code": error_code(error),
        "reason": text[:MAX_REASON_CHARS],
        "time_us": str(now_us),
    }
    about = [(name, value.encode()) for name, value in told.items()]
    return about + [(ORIGINAL + name, value) for name, value in record.headers]


def _confirm(futures: Sequence[Future[RecordPosition]], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    for future in futures:
        try:
            future.result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            reason = f"not confirmed within {timeout_s} s"
            raise EventLogUnavailableError(reason=reason) from None


def _iter_chunks(
    consumer: Consumer, ends: dict[TopicPartition, int]
) -> Iterator[list[Record]]:
    """Yield the records before `ends`, until there are none left."""
    idle_until = time.monotonic() + JOIN_S
    while ends:
        records = consumer.poll(
            max_records=CHUNK_RECORDS, max_bytes=CHUNK_BYTES, timeout_s=1.0
        )
        due = [r for r in records if r.position.offset < ends.get(_place(r), 0)]
        if due:
            yield due
            idle_until = time.monotonic() + JOIN_S
        for where, offset in _next_offsets(records).items():
            if offset >= ends.get(where, 0):
                ends.pop(where, None)
        if not records and time.monotonic() > idle_until:
            raise ReplayBusyError


def _place(record: Record) -> TopicPartition:
    return TopicPartition(record.position.topic, record.position.partition)


def _next_offsets(records: Sequence[Record]) -> dict[TopicPartition, int]:
    return {_place(record): record.position.offset + 1 for record in records}

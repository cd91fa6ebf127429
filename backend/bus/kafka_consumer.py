"""One member of a Kafka consumer group.

The member's records come from the client library, which fetches ahead and keeps the
membership alive from a thread of its own. Two time limits end a membership: a process
that is dead or stopped for `session_timeout_s`; a thread that neither polls nor
heartbeats for `max_poll_interval_s`.

Commits are synchronous and name only partitions this member owns, at offsets above
where it began to own them. While the group rebalances the broker refuses commits for a
moment: they wait, at the latest until the partition is given up.

Rebalances are cooperative: only partitions that move stop being read. They are served
inside `poll`, `heartbeat` and `commit`, so a partition may be lost while its records
are being applied; the commit then says so.

Expected positions. The member knows the next offset of each partition. A record below
it is an old fetch and is passed over. A gap above it means that records are gone,
deleted before they were read: that is logged as `eventlog.records_lost`, never passed
over in silence.

Design note: docs/subsystems/eventlog.md#kafka
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, Message
from confluent_kafka import Consumer as Library
from confluent_kafka import TopicPartition as LibraryPartition
from typing_extensions import override

from backend.bus.base import Consumer, Record, RecordPosition, TopicPartition
from backend.bus.kafka_errors import (
    LOST_MEMBERSHIP,
    UNKNOWN_TOPIC,
    error_of,
    library_log,
    translate,
)
from backend.bus.kafka_topics import KafkaTopics
from backend.errors import (
    EventLogClosedError,
    EventLogError,
    EventLogUnavailableError,
    StaleConsumerError,
)

logger = logging.getLogger(__name__)

SLICE_S: Final = 0.05
"""The library cannot be woken: a waiting poll looks up this often."""

PROBE_S: Final = 1.0
VERIFY_S: Final = 5.0
"""How often a member looks whether its topics are still the same ones."""

COMMIT_RETRY_S: Final = 0.05
COMMIT_PATIENCE_S: Final = 1.0
MOST_AT_ONCE: Final = 64
MOST_AHEAD_BYTES: Final = 16 << 20
"""Taken from the library and not returned yet: heartbeats may bring that much."""

_REBALANCING: Final = frozenset(
    {
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
        # The group has a new generation, which this member is about to join.
        KafkaError.ILLEGAL_GENERATION,
    }
)
_HARMLESS: Final = frozenset(
    {
        KafkaError._PARTITION_EOF,  # noqa: SLF001 - the library's local error codes
        KafkaError._MAX_POLL_EXCEEDED,  # noqa: SLF001 - the library's local error codes
        KafkaError._TRANSPORT,  # noqa: SLF001 - the library's local error codes
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001 - the library's local error codes
        KafkaError._TIMED_OUT,  # noqa: SLF001 - the library's local error codes
    }
)
"""Told as events; the library goes on by itself."""


class KafkaConsumer(Consumer):
    """See the module.

    Args:
        properties: Configuration of the library's client.
        topics: Where topics are looked up.
        group: Consumer group.
        names: Topics to read; they exist.
        on_close: Called once when the member has left.
    """

    def __init__(
        self,
        properties: dict[str, Any],
        topics: KafkaTopics,
        *,
        group: str,
        names: Sequence[str],
        on_close: Callable[[KafkaConsumer], None],
    ) -> None:
        self._topics = topics
        self._group = group
        self._on_close = on_close
        self._wake = threading.Event()
        self._closed = False
        self._paused = False
        self._trouble = ""
        self._verified_s = time.monotonic()
        # Next offset to deliver; None until the first record or a rewind tells.
        self._owned: dict[TopicPartition, int | None] = {}
        # Lowest offset that this ownership may commit.
        self._floor: dict[TopicPartition, int] = {}
        self._log_ids: dict[str, str] = {}
        self._waiting: dict[TopicPartition, int] = {}
        # Lost while their commits waited.
        self._unstored: list[TopicPartition] = []
        self._ahead: deque[Message] = deque()
        self._ahead_bytes = 0
        try:
            self._library = Library(properties, logger=library_log, error_cb=self._note)
            self._library.subscribe(
                [topics.kafka_name(name) for name in dict.fromkeys(names)],
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_lost,
            )
        except KafkaException as error:
            raise translate(error) from error

    @override
    def poll(
        self, *, max_records: int, max_bytes: int, timeout_s: float
    ) -> list[Record]:
        self._check_open()
        deadline = time.monotonic() + timeout_s
        self._resume()
        self._store_late()
        self._verify_identities_if_due()
        while True:
            left_s = deadline - time.monotonic()
            self._fetch(max_records, max_bytes, min(SLICE_S, max(0.0, left_s)))
            records = self._take(max_records, max_bytes)
            if records:
                return records
            if self._wake.is_set():
                self._wake.clear()
                return []
            if left_s <= 0:
                self._check_reachable()
                return []

    @override
    def commit(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        self._check_open()
        self._unstored.clear()
        for where, offset in next_offsets.items():
            if self._may_commit(where, offset):
                self._waiting[where] = max(offset, self._waiting.get(where, 0))
            else:
                self._unstored.append(where)
        deadline = time.monotonic() + COMMIT_PATIENCE_S
        while not self._store_waiting() and time.monotonic() < deadline:
            # The group rebalances; what is lost meanwhile is noted by `_forget`.
            self._serve(COMMIT_RETRY_S)
        if self._unstored:
            raise self._stale(self._unstored[0])

    @override
    def heartbeat(self) -> None:
        self._check_open()
        self._serve(0.0)
        self._store_late()

    @override
    def rewind(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        self._check_open()
        owned = {w: n for w, n in next_offsets.items() if w in self._owned}
        self._drop_ahead(owned)
        for where, offset in owned.items():
            self._owned[where] = offset
            self._seek(where, offset)

    @override
    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(self._owned)

    @override
    def wake(self) -> None:
        self._wake.set()

    @override
    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            # Gives the partitions up through `_on_revoke`, which commits what waits.
            self._library.close()
        except KafkaException as error:
            logger.warning("eventlog.leave_failed", extra={"reason": str(error)})
        finally:
            self._forget(list(self._owned))
            self._on_close(self)

    def _on_assign(self, _library: Any, parts: list[LibraryPartition]) -> None:
        for part in parts:
            self._owned[self._place(part)] = None
            # It may have been deleted and made again since it was looked up.
            self._log_ids.pop(self._topics.own_name(part.topic), None)
        self._library.incremental_assign(parts)
        self._tell_rebalanced(gained=len(parts))

    def _on_revoke(self, _library: Any, parts: list[LibraryPartition]) -> None:
        self._store_late()
        self._give_up(parts)

    def _on_lost(self, _library: Any, parts: list[LibraryPartition]) -> None:
        self._give_up(parts)

    def _note(self, error: KafkaError) -> None:
        self._trouble = f"{error.name()}: {error.str()}"

    def _give_up(self, parts: list[LibraryPartition]) -> None:
        self._forget([self._place(part) for part in parts])
        self._library.incremental_unassign(parts)
        self._tell_rebalanced(gained=0)

    def _tell_rebalanced(self, *, gained: int) -> None:
        extra = {"group": self._group, "owned": len(self._owned), "gained": gained}
        logger.info("eventlog.rebalanced", extra=extra)

    def _fetch(self, max_records: int, max_bytes: int, timeout_s: float) -> None:
        """Bring records from the library until there are enough, or none at once."""
        if not self._ahead:
            self._serve(timeout_s)
        while self._ahead and self._ahead_bytes < max_bytes:
            wanted = min(max_records - len(self._ahead), MOST_AT_ONCE)
            if wanted <= 0:
                return
            mean_bytes = self._ahead_bytes // len(self._ahead) + 1
            room = (max_bytes - self._ahead_bytes) // mean_bytes + 1
            try:
                messages = self._library.consume(min(wanted, room), timeout=0)
            except KafkaException as error:
                raise translate(error) from error
            self._accept(messages)
            if not messages:
                return

    def _serve(self, timeout_s: float) -> None:
        """Let the library do its part, which may bring one record."""
        if self._ahead_bytes > MOST_AHEAD_BYTES:
            self._pause()
        try:
            message = self._library.poll(timeout_s)
        except KafkaException as error:
            raise translate(error) from error
        if message is not None:
            self._accept([message])

    def _accept(self, messages: Sequence[Message]) -> None:
        for message in messages:
            error = message.error()
            if error is None:
                self._trouble = ""
                self._ahead.append(message)
                self._ahead_bytes += _size(message)
            else:
                self._judge(error)

    def _judge(self, error: KafkaError) -> None:
        if error.code() in UNKNOWN_TOPIC:
            # Deleted, perhaps made again: the next records are of another incarnation.
            self._log_ids.clear()
        if error.code() in _HARMLESS:
            self._trouble = f"{error.name()}: {error.str()}"
            return
        raise translate(error)

    def _take(self, max_records: int, max_bytes: int) -> list[Record]:
        records: list[Record] = []
        size = 0
        while self._ahead and len(records) < max_records:
            message = self._ahead[0]
            if records and size + _size(message) > max_bytes:
                break
            self._ahead.popleft()
            self._ahead_bytes -= _size(message)
            try:
                record = self._record(message) if self._is_next(message) else None
            except EventLogError:
                # Something had to be looked up and there was no answer.
                self._ahead.appendleft(message)
                self._ahead_bytes += _size(message)
                if records:
                    break
                raise
            if record is not None:
                self._owned[self._place(message)] = record.position.offset + 1
                records.append(record)
                size += _size(message)
        return records

    def _is_next(self, message: Message) -> bool:
        """Return whether to deliver the message; see the module on positions."""
        where, offset = self._place(message), _offset(message)
        if where not in self._owned:
            return False
        expected = self._owned[where]
        if expected is None:
            return self._is_first(where, offset)
        if offset > expected:
            return self._is_after_gap(where, expected, offset)
        if offset < expected:
            self._verified_s = float("-inf")
        return offset == expected

    def _is_first(self, where: TopicPartition, offset: int) -> bool:
        committed = self._committed(where)
        self._floor[where] = min(max(0, committed), offset)
        if 0 <= committed < offset:
            self._tell_lost(where, committed, offset)
        return True

    def _is_after_gap(self, where: TopicPartition, expected: int, offset: int) -> bool:
        if self._oldest(where) > expected:
            self._tell_lost(where, expected, offset)
            return True
        # Fetched before a rewind: what lies between is still there.
        self._drop_ahead([where])
        self._seek(where, expected)
        return False

    def _verify_identities_if_due(self) -> None:
        if time.monotonic() - self._verified_s >= VERIFY_S:
            self._verify_identities()

    def _verify_identities(self) -> None:
        """Start over with topics that were deleted and made again.

        Until this is noticed, their records carry the old identity, under which the
        store passes over them; so they are all read again.
        """
        self._verified_s = time.monotonic()
        for name, before in list(self._log_ids.items()):
            try:
                if self._topics.get(name, fresh=True).log_id == before:
                    continue
            except EventLogUnavailableError:
                return  # being away is noticed elsewhere
            logger.warning("eventlog.topic_made_again", extra={"topic": name})
            self._log_ids.pop(name, None)
            for where in [w for w in self._owned if w.topic == name]:
                self._drop_ahead([where])
                self._owned[where] = None
                self._floor.pop(where, None)
                self._waiting.pop(where, None)
                self._seek(where, OFFSET_BEGINNING)

    def _tell_lost(self, where: TopicPartition, expected: int, offset: int) -> None:
        extra = {
            "group": self._group,
            "topic": where.topic,
            "partition": where.partition,
            "from_offset": expected,
            "records": offset - expected,
        }
        logger.error("eventlog.records_lost", extra=extra)

    def _record(self, message: Message) -> Record:
        where = self._place(message)
        _kind, time_ms = message.timestamp()
        return Record(
            RecordPosition(
                self._log_id(where.topic),
                where.topic,
                where.partition,
                _offset(message),
            ),
            _bytes(message.key()),
            _bytes(message.value()),
            time_ms * 1000,
            decode_headers(message),
        )

    def _log_id(self, topic: str) -> str:
        if topic not in self._log_ids:
            self._log_ids[topic] = self._topics.get(topic, fresh=True).log_id
        return self._log_ids[topic]

    def _may_commit(self, where: TopicPartition, offset: int) -> bool:
        return where in self._owned and offset > self._floor.get(where, -1)

    def _store_waiting(self) -> bool:
        """Commit what waits; return False if the group is rebalancing just now.

        Raises:
            StaleConsumerError: If the membership has ended.
            EventLogUnavailableError: If the brokers do not answer.
        """
        if not self._waiting:
            return True
        parts = [self._part(where, n) for where, n in self._waiting.items()]
        try:
            answers = self._library.commit(offsets=parts, asynchronous=False) or []
            errors = [part.error for part in answers if part.error is not None]
        except KafkaException as error:
            errors = [error_of(error)]
        if not errors:
            self._waiting.clear()
            return True
        return self._judge_commit(errors[0])

    def _judge_commit(self, error: KafkaError) -> bool:
        if error.code() in _REBALANCING:
            return False
        if error.code() in LOST_MEMBERSHIP:
            # The library will say which partitions are lost; until it has, they are
            # still read, and may turn out to be kept.
            (where, *_others) = self._waiting
            self._waiting.clear()
            raise self._stale(where)
        raise translate(error)

    def _store_late(self) -> None:
        """Try the commits that had to wait once more."""
        try:
            self._store_waiting()
        except (EventLogUnavailableError, StaleConsumerError) as error:
            # What is not committed is delivered again, here or to the next owner.
            logger.info("eventlog.late_commit_failed", extra={"reason": str(error)})

    def _stale(self, where: TopicPartition) -> StaleConsumerError:
        return StaleConsumerError(
            group=self._group, topic=where.topic, partition=where.partition
        )

    def _seek(self, where: TopicPartition, offset: int) -> None:
        part = self._part(where, offset)
        try:
            # Given up and taken again: `seek` fails on one not being fetched yet.
            self._library.incremental_unassign([part])
            self._library.incremental_assign([part])
        except KafkaException as error:
            raise translate(error) from error

    def _committed(self, where: TopicPartition) -> int:
        try:
            (part,) = self._library.committed([self._part(where)], timeout=PROBE_S)
        except KafkaException as error:
            raise translate(error) from error
        return int(part.offset)

    def _oldest(self, where: TopicPartition) -> int:
        try:
            oldest, _end = self._library.get_watermark_offsets(
                self._part(where), timeout=PROBE_S
            )
        except KafkaException as error:
            raise translate(error) from error
        return int(oldest)

    def _forget(self, places: Sequence[TopicPartition]) -> None:
        for where in places:
            self._owned.pop(where, None)
            self._floor.pop(where, None)
            if self._waiting.pop(where, None) is not None:
                self._unstored.append(where)
        self._drop_ahead(places)

    def _drop_ahead(self, places: Sequence[TopicPartition] | Mapping[Any, Any]) -> None:
        kept = [m for m in self._ahead if self._place(m) not in places]
        self._ahead = deque(kept)
        self._ahead_bytes = sum(map(_size, kept))

    def _pause(self) -> None:
        if not self._paused:
            self._library.pause(self._library.assignment())
            self._paused = True

    def _resume(self) -> None:
        if self._paused and self._ahead_bytes <= MOST_AHEAD_BYTES:
            self._library.resume(self._library.assignment())
            self._paused = False

    def _check_open(self) -> None:
        if self._closed:
            raise EventLogClosedError

    def _check_reachable(self) -> None:
        """Find out whether nothing came because nothing answers."""
        if not self._trouble:
            return
        try:
            self._library.list_topics(timeout=PROBE_S)
        except KafkaException as error:
            raise translate(error) from error
        self._trouble = ""

    def _place(self, part: LibraryPartition | Message) -> TopicPartition:
        if isinstance(part, LibraryPartition):
            return TopicPartition(self._topics.own_name(part.topic), part.partition)
        topic = self._topics.own_name(part.topic() or "")
        return TopicPartition(topic, int(part.partition() or 0))

    def _part(self, where: TopicPartition, offset: int = -1001) -> LibraryPartition:
        name = self._topics.kafka_name(where.topic)
        return LibraryPartition(name, where.partition, offset)


def decode_headers(message: Message) -> tuple[tuple[str, bytes], ...]:
    """Return a message's headers."""
    headers: Any = message.headers() or ()
    return tuple((name, _bytes(value)) for name, value in headers)


def _offset(message: Message) -> int:
    return int(message.offset() or 0)


def _bytes(value: bytes | str | None) -> bytes:
    if value is None:
        return b""
    return value.encode() if isinstance(value, str) else value


def _size(message: Message) -> int:
    return len(message.value() or b"") + len(message.key() or b"")

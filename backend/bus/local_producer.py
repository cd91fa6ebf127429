"""Appending to the local event log: group commit.

`publish` puts a record into a queue and returns. One thread per process and log, the
appender, takes everything that waits and commits it in one LMDB transaction: one fsync
for all of them, however many callers and producers. While it waits for the disk the
next group gathers, so the groups grow with the load by themselves.

Limits: what is queued or being committed is bounded in bytes; beyond that `publish`
refuses. A group is at most `MAX_GROUP_BYTES`, so that consumers and other processes get
their turn at the one write lock.

A group is appended whole or not at all. When there is no room, the first record that
does not fit and all behind it are refused, so that none overtakes an earlier one of its
key.

Design note: docs/subsystems/eventlog.md#group-commit
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Any, Final

from typing_extensions import override

from backend.bus import local_format as fmt
from backend.bus.base import Producer, RecordPosition
from backend.bus.local_append import PROBE_TOPIC, Append, Pending
from backend.bus.local_environment import LocalEnvironment
from backend.bus.local_topics import get_topic
from backend.errors import (
    EventLogClosedError,
    EventLogError,
    EventLogFullError,
    EventLogUnavailableError,
    RecordTooLargeError,
)

logger = logging.getLogger(__name__)

MAX_GROUP_BYTES: Final = 16 << 20
MAX_GROUP_RECORDS: Final = 10_000
COMMIT_SPACING_S: Final = 0.003
"""Least time between two commits. A commit takes 150 µs of CPU (measured), whatever it
holds: on a disk that syncs at once, single records would otherwise cost one each."""

MAX_HEADERS: Final = 255
MAX_KEY_BYTES: Final = 65_535
MAX_NAME_BYTES: Final = 65_535


class Appender:
    """The committing thread of one process and log; see the module.

    Thread-safe. Futures are resolved on the appender's thread, outside every lock.

    Args:
        env: Where to append.
        max_bytes: Bound on the stored records, None for the disk's own.
        min_free_bytes: Disk space left to consumers, whose commits make room again.
        max_in_flight_bytes: Bound on what is queued or being committed.
        confirm_s: Records that wait longer are failed, and new ones refused.
        now_us: Clock that stamps the records.
        make_room: Called when `max_bytes` is reached; returns how many records it
            could delete.
    """

    def __init__(  # noqa: PLR0913 - each is one independent choice
        self,
        env: LocalEnvironment,
        *,
        max_bytes: int | None,
        min_free_bytes: int,
        max_in_flight_bytes: int,
        confirm_s: float,
        now_us: Callable[[], int],
        make_room: Callable[[], int],
    ) -> None:
        self._env = env
        self._max_bytes = max_bytes
        self._min_free_bytes = min_free_bytes
        self._max_in_flight_bytes = max_in_flight_bytes
        self._confirm_s = confirm_s
        self._now_us = now_us
        self._make_room = make_room
        self._topics: dict[str, fmt.TopicRow] = {}
        self._changed = threading.Condition()
        self._queue: deque[Pending] = deque()
        self._committing: list[Pending] = []
        self._in_flight_bytes = 0
        self._closed = False
        self._confirmed_s = float("-inf")
        self._committed_s = float("-inf")
        self._thread: threading.Thread | None = None

    def submit(
        self, topic: str, *, key: bytes, value: bytes, headers: fmt.Headers
    ) -> Future[RecordPosition]:
        """Queue a record; see `Producer.publish`."""
        self._check_size(topic, key=key, value=value, headers=headers)
        row = fmt.encode_record(
            key=key, value=value, time_us=self._now_us(), headers=headers
        )
        try:
            return self._enqueue(topic, key=key, row=row)
        except EventLogUnavailableError:
            self._fail_overdue(after_s=self._confirm_s)
            raise

    def is_closed(self) -> bool:
        """Return whether nothing can be appended (any more) in this process."""
        return self._closed or self._env.is_inherited()

    def probe(self, *, timeout_s: float) -> None:
        """Commit something durably through the same path as records.

        Raises:
            EventLogError: If that fails or takes longer than `timeout_s`.
        """
        if time.monotonic() - self._confirmed_s < timeout_s:
            return
        future = self._enqueue(PROBE_TOPIC, key=b"", row=b"")
        try:
            future.result(timeout_s)
        except TimeoutError:
            reason = f"no commit within {timeout_s} s"
            path = str(self._env.path)
            raise EventLogUnavailableError(path=path, reason=reason) from None

    def flush(self, *, timeout_s: float) -> bool:
        """Wait until nothing is in flight; return whether that was reached."""
        self._env.check_usable()
        self._fail_overdue(after_s=self._confirm_s)
        with self._changed:
            return self._changed.wait_for(self._is_idle, timeout_s)

    def close(self, *, timeout_s: float) -> bool:
        """Flush, then end the thread; return whether it ended in time.

        What is left is failed as unconfirmed.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
        self._fail_overdue(after_s=0.0)
        return self._thread is None or not self._thread.is_alive()

    def _check_size(
        self, topic: str, *, key: bytes, value: bytes, headers: fmt.Headers
    ) -> None:
        found = self._topics.get(topic)
        if found is None:
            found = self._env.read(lambda txn: get_topic(txn, self._env, topic))
            self._topics[topic] = found
        size = fmt.record_bytes(key, value, headers)
        if size > found.max_record_bytes:
            # The limit may have been raised by another process since.
            found = self._env.read(lambda txn: get_topic(txn, self._env, topic))
            self._topics[topic] = found
        limit = found.max_record_bytes
        named = all(len(name.encode()) <= MAX_NAME_BYTES for name, _value in headers)
        countable = len(key) <= MAX_KEY_BYTES and len(headers) <= MAX_HEADERS
        if size > limit or not (named and countable):
            raise RecordTooLargeError(topic=topic, size=size, limit=limit)

    def _enqueue(self, topic: str, *, key: bytes, row: bytes) -> Future[RecordPosition]:
        self._env.check_usable()
        pending = Pending(topic, key, row, time.monotonic())
        # A record cannot be taken back once queued: refuse to be cancelled.
        pending.future.set_running_or_notify_cancel()
        with self._changed:
            self._check_open()
            self._check_room(len(row))
            self._in_flight_bytes += len(row)
            self._queue.append(pending)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="event-log-appender", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()
        return pending.future

    def _check_open(self) -> None:
        if self._closed:
            raise EventLogClosedError(path=str(self._env.path))

    def _check_room(self, size: int) -> None:
        oldest = self._oldest()
        path = str(self._env.path)
        if oldest is not None:
            waited_s = time.monotonic() - oldest.queued_s
            if waited_s > self._confirm_s:
                reason = "earlier records are not confirmed"
                raise EventLogUnavailableError(
                    path=path, reason=reason, waited_s=waited_s
                )
        if self._in_flight_bytes and (
            self._in_flight_bytes + size > self._max_in_flight_bytes
        ):
            reason = "too much in flight"
            raise EventLogFullError(path=path, reason=reason)

    def _oldest(self) -> Pending | None:
        if self._committing:
            return self._committing[0]
        return self._queue[0] if self._queue else None

    def _is_idle(self) -> bool:
        return not self._queue and not self._committing

    def _run(self) -> None:
        while True:
            group = self._take()
            if not group:
                return
            try:
                self._commit(group)
            except EventLogError as error:
                _fail(group, error)
                logger.warning("eventlog.append_failed", extra={"reason": str(error)})
            except BaseException as error:
                _fail(group, EventLogUnavailableError(reason=repr(error)))
                logger.exception("eventlog.append_failed")
            _resolve(group)
            with self._changed:
                self._in_flight_bytes -= sum(len(p.row) for p in group)
                self._committing = []
                self._changed.notify_all()

    def _take(self) -> list[Pending]:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
        self._space_commits()
        with self._changed:
            group: list[Pending] = []
            size = 0
            while self._queue and len(group) < MAX_GROUP_RECORDS:
                size += len(self._queue[0].row)
                if group and size > MAX_GROUP_BYTES:
                    break
                group.append(self._queue.popleft())
            self._committing = group
            return group

    def _space_commits(self) -> None:
        time.sleep(max(0.0, self._committed_s + COMMIT_SPACING_S - time.monotonic()))
        self._committed_s = time.monotonic()

    def _commit(self, group: list[Pending]) -> None:
        if self._env.free_disk_bytes() < self._min_free_bytes:
            reason = "the disk is nearly full"
            raise EventLogFullError(path=str(self._env.path), reason=reason)
        refused = self._env.write(lambda txn: self._append(txn, group))
        if refused:
            self._append_again(group[-refused:])
        self._confirmed_s = time.monotonic()

    def _append_again(self, refused: list[Pending]) -> None:
        # What came before is durable already: a failure here is these records' alone.
        try:
            if self._make_room():
                self._env.write(lambda txn: self._append(txn, refused))
        except EventLogError as error:
            _fail(refused, error)

    def _append(self, txn: Any, group: list[Pending]) -> int:
        """Append what fits; return how many at the end of the group did not."""
        batch = Append(txn, self._env, self._max_bytes)
        taken = sum(1 for _ in itertools.takewhile(batch.add, group))
        batch.write()
        self._topics.update(batch.topics)
        reason = "the configured size is reached"
        full = EventLogFullError(path=str(self._env.path), reason=reason)
        _fail(group[:taken], None)
        _fail(group[taken:], full)
        return len(group) - taken

    def _fail_overdue(self, *, after_s: float) -> None:
        """Fail the futures of records that have waited too long for the disk."""
        with self._changed:
            limit = time.monotonic() - after_s
            overdue = [p for p in self._committing if p.queued_s <= limit]
            while self._queue and self._queue[0].queued_s <= limit:
                overdue.append(self._queue.popleft())
                self._in_flight_bytes -= len(overdue[-1].row)
        for pending in overdue:
            error = EventLogUnavailableError(reason="not confirmed in time")
            _settle(pending.future, None, error)


def _fail(group: Sequence[Pending], error: EventLogError | None) -> None:
    for pending in group:
        pending.error = error


def _resolve(group: Sequence[Pending]) -> None:
    for pending in group:
        _settle(pending.future, pending.position, pending.error)


def _settle(
    future: Future[Any], position: RecordPosition | None, error: EventLogError | None
) -> None:
    # A record that took too long has already been failed by another thread.
    try:
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(position)
    except InvalidStateError:
        logger.info("eventlog.confirmed_late")


class LocalProducer(Producer):
    """A producer of the local event log. All of a process share one appender."""

    def __init__(self, appender: Appender) -> None:
        self._appender = appender
        self._closed = False

    @override
    def publish(
        self,
        topic: str,
        *,
        key: bytes,
        value: bytes,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> Future[RecordPosition]:
        if self._closed:
            raise EventLogClosedError
        return self._appender.submit(topic, key=key, value=value, headers=headers)

    @override
    def flush(self, *, timeout_s: float) -> bool:
        return self._appender.flush(timeout_s=timeout_s)

    @override
    def close(self, *, timeout_s: float = 10.0) -> None:
        if not self._closed and not self._appender.is_closed():
            self._appender.flush(timeout_s=timeout_s)
        self._closed = True

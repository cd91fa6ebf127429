"""Commits of the embedded engine: checked, applied, and sharing one fsync.

A transaction waits in a queue. Whoever gets the turn commits all that wait in one LMDB
transaction, so while the disk works on one group the next one gathers. Each
transaction is first checked against what the group's LMDB transaction sees: if
something was committed since its snapshot, everything it read is read again and must
be equal. Equal reads give equal writes, so the transactions are serialisable in the
order of their commits.

Keys: 0xFF "commits" counts the versionstamps given; 0xFF "marks" + counter holds
      a range declared written (`add_write_conflict_range`), for a few seconds.

Design note: docs/subsystems/engines.md#the-embedded-engine
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Final, TypeAlias

import lmdb

from backend.errors import (
    CommitUnknownResultError,
    StoreError,
    StoreUnavailableError,
    TransactionConflictError,
)
from backend.storage.engine.base import KeyValue
from backend.storage.engine.embedded_buffer import Pending, WriteBuffer
from backend.storage.engine.embedded_env import (
    INTERNAL_PREFIX,
    Environment,
)
from backend.storage.engine.embedded_snapshot import scan_pairs
from backend.storage.engine.embedded_transaction import EmbeddedTransaction

_COUNTER_KEY: Final = INTERNAL_PREFIX + b"commits"
_MARKS: Final = INTERNAL_PREFIX + b"marks"
_MARKS_END: Final = INTERNAL_PREFIX + b"markt"
_COUNTER: Final = struct.Struct(">Q")
_MARK: Final = struct.Struct("<dHH")
_GROUP_BYTES: Final = 16_000_000

LmdbTransaction: TypeAlias = "lmdb.Transaction[bytes]"


class _Request:
    """One transaction waiting to be committed."""

    __slots__ = ("done", "error", "stamp", "transaction")

    def __init__(self, transaction: EmbeddedTransaction) -> None:
        self.transaction = transaction
        self.done = False
        self.error: StoreError | None = None
        self.stamp: bytes | None = None

    def finish(self, error: StoreError | None) -> None:
        self.error = error
        self.done = True


class Committer:
    """The way every write of a process takes to one environment. Thread-safe."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        # A declared write is remembered for longer than any transaction lives.
        self._mark_seconds = 10 * environment.options.patience_s
        self._waiting: list[_Request] = []
        self._turn = threading.Condition()
        self._leading = False

    def commit(
        self, transaction: EmbeddedTransaction, *, deadline_s: float
    ) -> bytes | None:
        """Commit, durably, and return the versionstamp if one was asked for.

        The caller is inside the gate and `transaction.writes`. On return its snapshot
        is no longer used.

        Raises:
            TransactionConflictError: If what was read has changed.
            StoreFullError: If there is no room.
            StoreUnavailableError: If the right to commit was not had by `deadline_s`
                on the monotonic clock; nothing was written.
            RecoveryNeededError: If the memory map has to change first.
        """
        request = _Request(transaction)
        if self._has_turn(request, deadline_s):
            self._lead(request, deadline_s)
        if request.error is not None:
            raise request.error
        return request.stamp

    def _has_turn(self, request: _Request, deadline_s: float) -> bool:
        """Wait until `request` may lead (True) or another has finished it (False)."""
        with self._turn:
            self._waiting.append(request)
            try:
                while self._leading and not request.done:
                    self._wait(request, deadline_s)
            except BaseException:
                if request in self._waiting:
                    self._waiting.remove(request)
                raise
            if request.done:
                return False
            self._leading = True
            return True

    def _wait(self, request: _Request, deadline_s: float) -> None:
        if request not in self._waiting:
            # Being committed right now: only the disk can delay the answer.
            self._turn.wait()
            return
        rest_s = deadline_s - time.monotonic()
        if rest_s <= 0:
            reason = "other transactions of this process took too long to commit"
            raise StoreUnavailableError(reason=reason)
        self._turn.wait(rest_s)

    def _lead(self, request: _Request, deadline_s: float) -> None:
        """Commit `request` and what else waits; gives up the lead."""
        lock = self._environment.writer_lock
        group = [request]
        try:
            lock.acquire(deadline_s=deadline_s)
            try:
                self._environment.maintain()
                group = self._take_group(request)
                self._commit_group(group)
            finally:
                lock.release()
        finally:
            with self._turn:
                if request in self._waiting:
                    self._waiting.remove(request)
                for taken in group:
                    if not taken.done:
                        taken.finish(CommitUnknownResultError())
                self._leading = False
                self._turn.notify_all()

    def _take_group(self, leader: _Request) -> list[_Request]:
        with self._turn:
            self._waiting.remove(leader)
            group = [leader]
            size = leader.transaction.approximate_size()
            for request in self._waiting:
                size += request.transaction.approximate_size()
                if size > _GROUP_BYTES:
                    break
                group.append(request)
            del self._waiting[: len(group) - 1]
            return group

    def _commit_group(self, group: Sequence[_Request]) -> None:
        try:
            self._write(group)
        except (StoreError, lmdb.Error) as error:
            if len(group) > 1:
                # One of them may be to blame; the others shall not suffer for it.
                for request in group:
                    if not request.done:
                        self._commit_group([request])
                return
            group[0].finish(self._translate(error, group[0]))

    def _translate(
        self, error: StoreError | lmdb.Error, request: _Request
    ) -> StoreError:
        if isinstance(error, StoreError):
            return error
        return self._environment.translate(
            error, only_clears=request.transaction.buffer.only_clears
        )

    def _write(self, group: Sequence[_Request]) -> None:
        applied: list[_Request] = []
        txn = self._environment.begin(write=True)
        try:
            base = txn.id() - 1
            for request in group:
                conflict = self._find_conflict(
                    request.transaction, txn, unchanged_since=None if applied else base
                )
                if conflict is not None:
                    request.finish(conflict)
                    continue
                request.stamp = self._apply(request.transaction, txn)
                applied.append(request)
            # Also when all conflicted: a commit of nothing writes nothing, while an
            # abort has to wait for other threads.
            txn.commit()
        except BaseException:
            # py-lmdb aborts a write only once no other thread is inside LMDB, which
            # readers that follow one another would put off for ever.
            with self._environment.gate.held():
                txn.abort()
            raise
        for request in applied:
            request.finish(None)
        if applied:
            self._environment.notify()

    # Conflicts

    def _find_conflict(
        self,
        transaction: EmbeddedTransaction,
        txn: LmdbTransaction,
        *,
        unchanged_since: int | None,
    ) -> StoreError | None:
        if not transaction.read_keys and not transaction.read_ranges:
            return None
        try:
            if transaction.snapshot.version() == unchanged_since:
                return None
            holds = self._still_holds(transaction, txn)
        except StoreError as error:
            # Its own snapshot is no good; the group goes on without it.
            return error
        return None if holds else TransactionConflictError()

    def _still_holds(
        self, transaction: EmbeddedTransaction, txn: LmdbTransaction
    ) -> bool:
        seen = transaction.snapshot
        return (
            all(seen.get(key) == txn.get(key) for key in transaction.read_keys)
            and all(
                _equal_pairs(seen.iterate(*item), scan_pairs(txn, *item))
                for item in transaction.read_ranges
            )
            and not self._is_marked(transaction, txn)
        )

    def _is_marked(
        self, transaction: EmbeddedTransaction, txn: LmdbTransaction
    ) -> bool:
        for key, mark in scan_pairs(txn, _MARKS, _MARKS_END):
            if transaction.snapshot.get(key) is not None:
                continue
            begin, end = _unpack_mark(mark)
            if any(begin <= key < end for key in transaction.read_keys) or any(
                first < end and begin < last for first, last in transaction.read_ranges
            ):
                return True
        return False

    # Writing

    def _apply(
        self, transaction: EmbeddedTransaction, txn: LmdbTransaction
    ) -> bytes | None:
        buffer = transaction.buffer
        for begin, end in buffer.cleared:
            _delete_range(txn, begin, end)
        _put_entries(txn, buffer)
        if transaction.write_ranges:
            self._put_marks(txn, transaction.write_ranges)
        if transaction.stamp is None:
            return None
        stamp = _COUNTER.pack(_next_count(txn)) + b"\x00\x00"
        for stamped in buffer.stamped:
            key = stamped.key(stamp)
            if key is not None:
                txn.put(key, stamped.value)
        return stamp

    def _put_marks(
        self, txn: LmdbTransaction, ranges: Sequence[tuple[bytes, bytes]]
    ) -> None:
        now_s = time.monotonic()
        for key, mark in list(scan_pairs(txn, _MARKS, _MARKS_END)):
            # From before a restart of the machine, the time lies in the future.
            if not now_s - self._mark_seconds <= _MARK.unpack_from(mark)[0] <= now_s:
                txn.delete(key)
        for begin, end in ranges:
            key = _MARKS + _COUNTER.pack(_next_count(txn))
            txn.put(key, _MARK.pack(now_s, len(begin), len(end)) + begin + end)


def _next_count(txn: LmdbTransaction) -> int:
    stored = txn.get(_COUNTER_KEY)
    count = _COUNTER.unpack(stored)[0] + 1 if stored else 1
    txn.put(_COUNTER_KEY, _COUNTER.pack(count))
    return int(count)


def _unpack_mark(mark: bytes) -> tuple[bytes, bytes]:
    _, begin_size, end_size = _MARK.unpack_from(mark)
    middle = _MARK.size + begin_size
    return mark[_MARK.size : middle], mark[middle : middle + end_size]


def _put_entries(txn: LmdbTransaction, buffer: WriteBuffer) -> None:
    # Ascending, which LMDB's tree likes best.
    for key, entry in buffer.items():
        if entry is None:
            txn.delete(key)
        elif isinstance(entry, Pending):
            txn.put(key, entry.apply(txn.get(key)))
        else:
            txn.put(key, entry)


def _delete_range(txn: LmdbTransaction, begin: bytes, end: bytes) -> None:
    cursor = txn.cursor()
    found = cursor.set_range(begin) if begin else cursor.first()
    while found and cursor.key() < end:
        # Deleting moves the cursor to the next pair.
        found = cursor.delete() and bool(cursor.key())
    cursor.close()


def _equal_pairs(one: Iterator[KeyValue], other: Iterator[KeyValue]) -> bool:
    return all(left == right for left, right in zip_longest(one, other))

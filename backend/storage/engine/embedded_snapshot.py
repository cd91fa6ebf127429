"""One version of the store, read through LMDB."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

import lmdb

from backend.errors import StoreError, TransactionTooOldError
from backend.storage.engine.base import KeyValue, Limits
from backend.storage.engine.embedded_env import Environment

_LONGEST_KEY: Final = 511


class Snapshot:
    """The store as it was at the first read.

    Holds a reader slot and keeps the pages of its version from being used again, so it
    ends soon: `close` it in every case. Not for several threads at a time.
    """

    __slots__ = ("_clock", "_environment", "_expires_s", "_limits", "_over", "_txn")

    def __init__(
        self, environment: Environment, limits: Limits, clock: Callable[[], float]
    ) -> None:
        self._environment = environment
        self._limits = limits
        self._clock = clock
        self._txn: lmdb.Transaction[bytes] | None = None
        self._expires_s = 0.0
        self._over = False

    @property
    def begun(self) -> bool:
        """Whether anything has been read."""
        return self._txn is not None

    def version(self) -> int:
        """Return the number of the last commit this snapshot sees."""
        try:
            return self._require().id()
        except lmdb.Error as error:
            raise self._environment.translate(error) from error

    def require_young(self) -> None:
        """Raise `TransactionTooOldError` when too long ago began to be read."""
        if self._txn is not None and self._clock() > self._expires_s:
            raise TransactionTooOldError(limit_seconds=self._limits.transaction_seconds)

    def get(self, key: bytes) -> bytes | None:
        """Return the value of `key`, None when there is none."""
        txn = self._require()
        if not 0 < len(key) <= _LONGEST_KEY:
            return None
        try:
            return txn.get(key)
        except lmdb.Error as error:
            raise self._environment.translate(error) from error

    def scan(
        self, begin: bytes, end: bytes, *, limit: int = 0, reverse: bool = False
    ) -> list[KeyValue]:
        """Return the pairs of [begin, end), at most `limit` unless 0."""
        txn = self._require()
        try:
            return _collect(txn, begin, end, limit=limit, reverse=reverse)
        except lmdb.Error as error:
            raise self._environment.translate(error) from error

    def iterate(
        self, begin: bytes, end: bytes, *, reverse: bool = False
    ) -> Iterator[KeyValue]:
        """Yield the pairs of [begin, end) one by one."""
        txn = self._require()
        try:
            yield from scan_pairs(txn, begin, end, reverse=reverse)
        except lmdb.Error as error:
            raise self._environment.translate(error) from error

    def close(self) -> None:
        """End the snapshot. May be called twice."""
        self._over = True
        txn, self._txn = self._txn, None
        if txn is not None:
            txn.abort()

    def _require(self) -> lmdb.Transaction[bytes]:
        if self._txn is None:
            return self._begin()
        if self._clock() > self._expires_s:
            self.require_young()
        return self._txn

    def _begin(self) -> lmdb.Transaction[bytes]:
        if self._over:
            raise StoreError(reason="the transaction is over")
        self._txn = self._environment.begin()
        self._expires_s = self._clock() + self._limits.transaction_seconds
        return self._txn


def scan_pairs(
    txn: lmdb.Transaction[bytes], begin: bytes, end: bytes, *, reverse: bool = False
) -> Iterator[KeyValue]:
    """Yield the pairs of [begin, end) in `txn`; raises LMDB's own errors."""
    for pair in _stepping(txn, begin, end, reverse=reverse):
        if pair[0] < begin if reverse else pair[0] >= end:
            return
        yield pair


def _collect(
    txn: lmdb.Transaction[bytes], begin: bytes, end: bytes, *, limit: int, reverse: bool
) -> list[KeyValue]:
    # Two loops without calls in them: this is the hottest path of all reads.
    pairs = _stepping(txn, begin, end, reverse=reverse)
    if limit:
        pairs = islice(pairs, limit)
    result: list[KeyValue] = []
    append = result.append
    if reverse:
        for pair in pairs:
            if pair[0] < begin:
                break
            append(pair)
    else:
        for pair in pairs:
            if pair[0] >= end:
                break
            append(pair)
    return result


def _stepping(
    txn: lmdb.Transaction[bytes], begin: bytes, end: bytes, *, reverse: bool
) -> Iterator[KeyValue]:
    """Return the pairs from one bound on, in the direction of the other and past it."""
    if begin >= end:
        return iter(())
    cursor = txn.cursor()
    if reverse:
        found = cursor.prev() if cursor.set_range(end) else cursor.last()
        return cursor.iterprev() if found else iter(())
    found = cursor.set_range(begin) if begin else cursor.first()
    return cursor.iternext() if found else iter(())

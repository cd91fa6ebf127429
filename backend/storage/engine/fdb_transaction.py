"""Transactions of the FoundationDB engine.

Reads of several keys or ranges are all under way before the first is waited for: a
round trip each, not one after the other. Reading one's own writes, conflicts and atomic
operations are FoundationDB's own.

Design note: docs/subsystems/engines.md#foundationdb
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from typing_extensions import override

from backend.errors import StoreError, TransactionTooOldError
from backend.storage.engine.base import (
    KeyRange,
    KeyValue,
    Limits,
    ReadTransaction,
    Transaction,
    Versionstamp,
    Watch,
)
from backend.storage.engine.bounds import (
    check_key,
    check_range,
    check_read_key,
    check_value,
)
from backend.storage.engine.fdb_native import Native, Patience, RangeRead
from backend.storage.engine.fdb_watch import FdbVersionstamp, FdbWatch

_IN_FLIGHT: Final = 1024
"""Reads asked for before the first is waited for."""

_WORD: Final = 1 << 64
_STAMP_PLACE: Final = bytes(10)


class _Over:
    """Stands for the native transaction once it has ended."""

    def __getattr__(self, name: str) -> NoReturn:
        raise StoreError(reason="the transaction is over")


class FdbReadTransaction(ReadTransaction):
    """Reads at one version; conflicts with nobody.

    Attributes:
        native: The binding's transaction.
    """

    def __init__(
        self,
        native: Native,
        patience: Patience,
        limits: Limits,
        clock: Callable[[], float],
    ) -> None:
        self.native = native
        self._patience = patience
        self._limits = limits
        self._clock = clock
        self._first_read_s: float | None = None

    def require_young(self) -> None:
        """Raise `TransactionTooOldError` when the first read is too long ago."""
        if self.age_s() > self._limits.transaction_seconds:
            raise TransactionTooOldError

    def age_s(self) -> float:
        """Return the seconds since the first read."""
        return 0 if self._first_read_s is None else self._clock() - self._first_read_s

    def end(self) -> None:
        """Make the transaction of no further use."""
        self.native = _Over()

    @override
    def get(self, key: bytes, *, snapshot: bool = False) -> bytes | None:
        self._begin_read()
        future = self._ask(key, snapshot=snapshot)
        return None if future is None else self._patience.bytes_of(future)

    @override
    def get_many(
        self, keys: Sequence[bytes], *, snapshot: bool = False
    ) -> list[bytes | None]:
        self._begin_read()
        found: list[bytes | None] = []
        for start in range(0, len(keys), _IN_FLIGHT):
            futures = [
                self._ask(key, snapshot=snapshot)
                for key in keys[start : start + _IN_FLIGHT]
            ]
            found += [
                None if item is None else self._patience.bytes_of(item)
                for item in futures
            ]
        return found

    @override
    def get_range(
        self,
        begin: bytes,
        end: bytes,
        *,
        limit: int = 0,
        reverse: bool = False,
        snapshot: bool = False,
    ) -> list[KeyValue]:
        item = KeyRange(begin, end, limit=limit, reverse=reverse)
        return self.get_ranges([item], snapshot=snapshot)[0]

    @override
    def get_ranges(
        self, ranges: Sequence[KeyRange], *, snapshot: bool = False
    ) -> list[list[KeyValue]]:
        for item in ranges:
            check_range(item.begin, item.end)
        self._begin_read()
        found: list[list[KeyValue]] = []
        for start in range(0, len(ranges), _IN_FLIGHT):
            reads = [
                RangeRead(self.native, item, snapshot=self._is_snapshot(snapshot))
                if item.begin < item.end
                else None
                for item in ranges[start : start + _IN_FLIGHT]
            ]
            found += [
                [] if read is None else read.pairs(self._patience) for read in reads
            ]
        return found

    def _ask(self, key: bytes, *, snapshot: bool) -> Native | None:
        """Return the future of `key`'s value, None if it cannot have one."""
        check_read_key(key)
        if not key or len(key) > self._limits.key_bytes:
            return None
        native = self.native
        source = native.snapshot if self._is_snapshot(snapshot) else native
        return source.get(key)

    def _begin_read(self) -> None:
        _ = self.native.tpointer  # refuses when the transaction is over
        if self._first_read_s is None:
            self._first_read_s = self._clock()
        else:
            self.require_young()

    def _is_snapshot(self, snapshot: bool) -> bool:  # noqa: FBT001 - as asked for
        # Nothing is committed that could conflict; the client keeps no conflict ranges.
        return True


class FdbTransaction(FdbReadTransaction, Transaction):
    """Reads and writes; see `Transaction`.

    Attributes:
        writes: Whether there is anything to commit.
    """

    def __init__(
        self,
        native: Native,
        patience: Patience,
        limits: Limits,
        clock: Callable[[], float],
        make_watch: Callable[[Native], FdbWatch],
    ) -> None:
        super().__init__(native, patience, limits, clock)
        self.writes = False
        self._make_watch = make_watch
        self._watches: list[FdbWatch] = []
        self._stamp: FdbVersionstamp | None = None
        self._stamp_future: Native | None = None

    @override
    def set(self, key: bytes, value: bytes) -> None:
        check_key(key, len(key), self._limits)
        check_value(value, self._limits)
        self.native.set(bytes(key), bytes(value))
        self.writes = True

    @override
    def clear(self, key: bytes) -> None:
        check_key(key, len(key), self._limits)
        self.native.clear(key)
        self.writes = True

    @override
    def clear_range(self, begin: bytes, end: bytes) -> None:
        check_range(begin, end)
        if begin < end:
            self.native.clear_range(begin, end)
            self.writes = True

    @override
    def add(self, key: bytes, amount: int) -> None:
        check_key(key, len(key), self._limits)
        self.native.add(key, _word(amount % _WORD))
        self.writes = True

    @override
    def max(self, key: bytes, value: int) -> None:
        check_key(key, len(key), self._limits)
        self.native.max(key, _word(value))
        self.writes = True

    @override
    def min(self, key: bytes, value: int) -> None:
        check_key(key, len(key), self._limits)
        self.native.min(key, _word(value))
        self.writes = True

    @override
    def set_versionstamped_key(
        self, prefix: bytes, suffix: bytes, value: bytes
    ) -> None:
        key = prefix + _STAMP_PLACE + suffix
        check_key(key, len(key), self._limits)
        check_value(value, self._limits)
        place = len(prefix).to_bytes(4, "little")
        self.native.set_versionstamped_key(key + place, bytes(value))
        self.writes = True

    @override
    def versionstamp(self) -> Versionstamp:
        if self._stamp is None:
            self._stamp = FdbVersionstamp()
        return self._stamp

    @override
    def add_read_conflict_range(self, begin: bytes, end: bytes) -> None:
        check_range(begin, end)
        if begin < end:
            self._begin_read()
            # Conflicts count from the version that the transaction reads.
            self._patience.result_of(self.native.get_read_version())
            self.native.add_read_conflict_range(begin, end)

    @override
    def add_write_conflict_range(self, begin: bytes, end: bytes) -> None:
        check_range(begin, end)
        if begin < end:
            self.native.add_write_conflict_range(begin, end)
            self.writes = True

    @override
    def watch(self, key: bytes) -> Watch:
        check_key(key, len(key), self._limits)
        watch = self._make_watch(self.native.watch(key))
        self._watches.append(watch)
        return watch

    @override
    def approximate_size(self) -> int:
        size: int = self._patience.result_of(self.native.get_approximate_size())
        return size

    def commit(self) -> None:
        """Commit. What waits for the commit is told by `committed`.

        Raises:
            StoreError: What FoundationDB answered.
        """
        if not self.writes and not self._watches:
            return
        if self._stamp is not None and self.writes:
            self._stamp_future = self.native.get_versionstamp()
        self._patience.result_of(self.native.commit())

    def committed(self) -> None:
        """Fulfil what waits for the commit."""
        if self._stamp is not None and self._stamp_future is not None:
            self._stamp.resolve(self._patience.bytes_of(self._stamp_future))
        for watch in self._watches:
            watch.activate()

    @override
    def _is_snapshot(self, snapshot: bool) -> bool:
        return snapshot


def _word(value: int) -> bytes:
    return value.to_bytes(8, "little")

"""Transactions of the embedded engine: a snapshot to read, a buffer to write.

Nothing a transaction writes reaches LMDB before its commit (`embedded_commit`), so a
transaction that runs for a second delays nobody. What it read is remembered, to find
out at the commit whether it still holds.

Design note: docs/subsystems/engines.md#the-embedded-engine
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from operator import itemgetter
from typing import Final

from typing_extensions import override

from backend.errors import TransactionTooLargeError
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
from backend.storage.engine.embedded_buffer import (
    UNKNOWN,
    Pending,
    StampedKey,
    WriteBuffer,
    adding,
    keeping_max,
    keeping_min,
)
from backend.storage.engine.embedded_snapshot import Snapshot
from backend.storage.engine.embedded_watch import EmbeddedVersionstamp, EmbeddedWatch

_MUTATION_OVERHEAD: Final = 36
_RANGE_OVERHEAD: Final = 24
"""What FoundationDB counts for a mutation and a conflict range besides their bytes."""

_STAMP_BYTES: Final = 10


class EmbeddedReadTransaction(ReadTransaction):
    """Reads of one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    @override
    def get(self, key: bytes, *, snapshot: bool = False) -> bytes | None:
        check_read_key(key)
        return self.snapshot.get(key)

    @override
    def get_many(
        self, keys: Sequence[bytes], *, snapshot: bool = False
    ) -> list[bytes | None]:
        return [self.get(key) for key in keys]

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
        check_range(begin, end)
        return self.snapshot.scan(begin, end, limit=limit, reverse=reverse)

    @override
    def get_ranges(
        self, ranges: Sequence[KeyRange], *, snapshot: bool = False
    ) -> list[list[KeyValue]]:
        return [
            self.get_range(item.begin, item.end, limit=item.limit, reverse=item.reverse)
            for item in ranges
        ]


class EmbeddedTransaction(Transaction):
    """Reads merged with its own writes; see `Transaction`.

    Attributes:
        snapshot: What it reads.
        buffer: What it writes.
        read_keys: Keys whose values it depends on.
        read_ranges: Ranges whose pairs it depends on.
        write_ranges: Ranges it declares written.
        stamp: Its versionstamp, when asked for.
        watches: Its watches, active once committed.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        limits: Limits,
        make_watch: Callable[[bytes, bytes | None], EmbeddedWatch],
    ) -> None:
        self.snapshot = snapshot
        self.buffer = WriteBuffer()
        self.read_keys: dict[bytes, None] = {}
        self.read_ranges: dict[tuple[bytes, bytes], None] = {}
        self.write_ranges: list[tuple[bytes, bytes]] = []
        self.stamp: EmbeddedVersionstamp | None = None
        self.watches: list[EmbeddedWatch] = []
        self._limits = limits
        self._make_watch = make_watch
        self._size = 0

    @property
    def writes(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self.buffer or self.write_ranges)

    # Reads

    @override
    def get(self, key: bytes, *, snapshot: bool = False) -> bytes | None:
        check_read_key(key)
        entry = self.buffer.find(key)
        if entry is UNKNOWN or isinstance(entry, Pending):
            if not snapshot:
                self._depend_on_key(key)
            stored = self.snapshot.get(key)
            return entry.apply(stored) if isinstance(entry, Pending) else stored
        return entry

    @override
    def get_many(
        self, keys: Sequence[bytes], *, snapshot: bool = False
    ) -> list[bytes | None]:
        return [self.get(key, snapshot=snapshot) for key in keys]

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
        check_range(begin, end)
        if begin >= end:
            return []
        if self.buffer.touches(begin, end):
            merged = self._merged(begin, end, reverse=reverse)
            pairs = list(islice(merged, limit or None))
        else:
            pairs = self.snapshot.scan(begin, end, limit=limit, reverse=reverse)
        if not snapshot:
            if limit and len(pairs) == limit:
                # Only what was seen can have mattered.
                last = pairs[-1][0]
                begin, end = (last, end) if reverse else (begin, last + b"\x00")
            for gap in self.buffer.gaps(begin, end):
                self._depend_on_range(*gap)
        return pairs

    @override
    def get_ranges(
        self, ranges: Sequence[KeyRange], *, snapshot: bool = False
    ) -> list[list[KeyValue]]:
        return [
            self.get_range(
                item.begin,
                item.end,
                limit=item.limit,
                reverse=item.reverse,
                snapshot=snapshot,
            )
            for item in ranges
        ]

    def _merged(self, begin: bytes, end: bytes, *, reverse: bool) -> Iterator[KeyValue]:
        own = list(self._own_pairs(begin, end))
        if reverse:
            own.reverse()
        stored = self._stored_pairs(begin, end, reverse=reverse)
        return heapq.merge(own, stored, key=itemgetter(0), reverse=reverse)

    def _own_pairs(self, begin: bytes, end: bytes) -> Iterator[KeyValue]:
        for key, entry in self.buffer.items_in(begin, end):
            if isinstance(entry, Pending):
                yield key, entry.apply(self.snapshot.get(key))
            elif entry is not None:
                yield key, entry

    def _stored_pairs(
        self, begin: bytes, end: bytes, *, reverse: bool
    ) -> Iterator[KeyValue]:
        gaps = list(self.buffer.gaps(begin, end))
        for gap in reversed(gaps) if reverse else gaps:
            for pair in self.snapshot.iterate(*gap, reverse=reverse):
                if pair[0] not in self.buffer.entries:
                    yield pair

    # Writes

    @override
    def set(self, key: bytes, value: bytes) -> None:
        check_key(key, len(key), self._limits)
        check_value(value, self._limits)
        self._count_mutation(len(key), len(value))
        # A mutable buffer could change before the commit.
        self.buffer.put(bytes(key), bytes(value))

    @override
    def clear(self, key: bytes) -> None:
        check_key(key, len(key), self._limits)
        self._count_mutation(len(key), len(key))
        self.buffer.put(key, None)

    @override
    def clear_range(self, begin: bytes, end: bytes) -> None:
        check_range(begin, end)
        if begin >= end:
            return
        self._size += 2 * (len(begin) + len(end)) + _MUTATION_OVERHEAD
        self.buffer.clear_range(begin, end)

    @override
    def add(self, key: bytes, amount: int) -> None:
        self._mutate(key, adding(amount))

    @override
    def max(self, key: bytes, value: int) -> None:
        self._mutate(key, keeping_max(value))

    @override
    def min(self, key: bytes, value: int) -> None:
        self._mutate(key, keeping_min(value))

    @override
    def set_versionstamped_key(
        self, prefix: bytes, suffix: bytes, value: bytes
    ) -> None:
        size = len(prefix) + _STAMP_BYTES + len(suffix)
        check_key(prefix or b"\x00", size, self._limits)
        check_value(value, self._limits)
        self._count_mutation(size, len(value))
        self.buffer.stamped.append(StampedKey(prefix, suffix, value))
        self._require_stamp()

    def _mutate(self, key: bytes, step: Callable[[bytes | None], bytes]) -> None:
        check_key(key, len(key), self._limits)
        self._count_mutation(len(key), 8)
        self.buffer.mutate(key, step)

    # Conflicts, stamps, watches

    @override
    def add_read_conflict_range(self, begin: bytes, end: bytes) -> None:
        check_range(begin, end)
        if begin < end:
            self.snapshot.version()
            self._depend_on_range(begin, end)

    @override
    def add_write_conflict_range(self, begin: bytes, end: bytes) -> None:
        check_range(begin, end)
        if begin < end:
            self.write_ranges.append((begin, end))
            self._size += len(begin) + len(end) + _RANGE_OVERHEAD

    @override
    def versionstamp(self) -> Versionstamp:
        return self._require_stamp()

    @override
    def watch(self, key: bytes) -> Watch:
        check_key(key, len(key), self._limits)
        watch = self._make_watch(key, self.get(key, snapshot=True))
        self.watches.append(watch)
        return watch

    @override
    def approximate_size(self) -> int:
        return self._size

    # Commit

    def require_fit(self) -> None:
        """Raise `TransactionTooLargeError` when it writes more than the limit."""
        limit = self._limits.transaction_bytes
        if self._size > limit:
            raise TransactionTooLargeError(size=self._size, limit=limit)

    def committed(self, stamp: bytes | None) -> None:
        """Fulfil what waits for the commit; `stamp` None: nothing was written."""
        if self.stamp is not None:
            self.stamp.resolve(stamp)
        for watch in self.watches:
            watch.activate()

    def _require_stamp(self) -> EmbeddedVersionstamp:
        if self.stamp is None:
            self.stamp = EmbeddedVersionstamp()
        return self.stamp

    def _depend_on_key(self, key: bytes) -> None:
        if key not in self.read_keys:
            self.read_keys[key] = None
            self._size += 2 * len(key) + 1 + _RANGE_OVERHEAD

    def _depend_on_range(self, begin: bytes, end: bytes) -> None:
        if (begin, end) not in self.read_ranges:
            self.read_ranges[begin, end] = None
            self._size += len(begin) + len(end) + _RANGE_OVERHEAD

    def _count_mutation(self, key_bytes: int, value_bytes: int) -> None:
        self._size += (
            3 * key_bytes + value_bytes + 1 + _MUTATION_OVERHEAD + _RANGE_OVERHEAD
        )

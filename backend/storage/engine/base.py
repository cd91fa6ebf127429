"""What a store engine promises: an ordered key space with serialisable transactions.

The shape is FoundationDB's. Two engines implement it, `embedded.py` (LMDB) and `fdb.py`
(FoundationDB); one conformance suite, written only against this file, runs on both.

Rules for callers:
- All access goes through `Engine.transact(fn)` and `Engine.read(fn)`. `fn` may run
  several times and the commit of an earlier attempt may in truth have happened: no side
  effects inside `fn`, and every write is such that applying it twice changes nothing.
  Nobody else retries.
- No transaction is held across a network wait or while a client reads slowly: read a
  batch, end the transaction, send, read the next.
- Keys and values are `bytes`. Keys order bytewise, have at least one byte and begin
  below 0xFF (`KeyOutsideRangeError`); the range from b"" to the
  single byte 0xFF holds all of them. The range [begin, end) never includes `end`.

Rules for engines: an `Engine` may be shared by threads; a `Transaction` may not. An
engine must not be used in a process forked after it was opened (`StoreClosedError`).

Design note: docs/subsystems/engines.md
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

KeyValue = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds every engine enforces; FoundationDB's own.

    Attributes:
        key_bytes: Largest key. The embedded engine allows 480 (LMDB's own bound is
            511); the key space keeps keys under 400 by construction.
        value_bytes: Largest value.
        transaction_bytes: Sum of keys and values written, and of conflict ranges.
        transaction_seconds: Age from the first read, after which reads and the commit
            raise `TransactionTooOldError`.
    """

    key_bytes: int = 480
    value_bytes: int = 100_000
    transaction_bytes: int = 10_000_000
    transaction_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class KeyRange:
    """A half-open range of keys with what to do about it.

    Attributes:
        begin: First key included.
        end: First key excluded.
        limit: Greatest number of pairs returned, 0 for no bound.
        reverse: Whether to return the last pairs first.
    """

    begin: bytes
    end: bytes
    limit: int = 0
    reverse: bool = False


class ReadTransaction(ABC):
    """Reads at one version of the store."""

    @abstractmethod
    def get(self, key: bytes, *, snapshot: bool = False) -> bytes | None:
        """Return the value of `key`, or None; a key over the limit has none.

        A `snapshot` read adds no read conflict. Inside `transact`, reads see the
        transaction's own writes.
        """

    @abstractmethod
    def get_many(
        self, keys: Sequence[bytes], *, snapshot: bool = False
    ) -> list[bytes | None]:
        """Return the values of `keys` in order, in one round trip."""

    @abstractmethod
    def get_range(
        self,
        begin: bytes,
        end: bytes,
        *,
        limit: int = 0,
        reverse: bool = False,
        snapshot: bool = False,
    ) -> list[KeyValue]:
        """Return the pairs with begin <= key < end in key order, at most `limit`.

        `limit` 0 means all. The result is one list: bound it by `limit` or by knowing
        the range. An empty or inverted range gives an empty list.
        """

    @abstractmethod
    def get_ranges(
        self, ranges: Sequence[KeyRange], *, snapshot: bool = False
    ) -> list[list[KeyValue]]:
        """Return each range's pairs, all ranges in one round trip."""


class Watch(ABC):
    """A one-shot wait for a key to change from the value its transaction saw."""

    @abstractmethod
    def wait(self, *, timeout_s: float) -> bool:
        """Block until the key changed (True) or `timeout_s` passed (False).

        A spurious True is allowed: re-read the key.
        """

    @abstractmethod
    def cancel(self) -> None:
        """Stop waiting and free the watch's resources. May be called twice."""


class Versionstamp(ABC):
    """The 10-byte commit version of a transaction, known once it has committed."""

    @abstractmethod
    def wait(self) -> bytes:
        """Return the stamp.

        Raises:
            StoreError: If the transaction did not commit.
        """


class Transaction(ReadTransaction):
    """Reads and writes, committed together when `fn` returns, or not at all."""

    @abstractmethod
    def set(self, key: bytes, value: bytes) -> None:
        """Store `value` at `key`.

        Raises:
            KeyTooLargeError: If the key is over the limit.
            KeyOutsideRangeError: If the key is empty or begins with 0xFF.
            ValueTooLargeError: If the value is over the limit.
        """

    @abstractmethod
    def clear(self, key: bytes) -> None:
        """Remove `key` if it exists."""

    @abstractmethod
    def clear_range(self, begin: bytes, end: bytes) -> None:
        """Remove every key with begin <= key < end."""

    @abstractmethod
    def add(self, key: bytes, amount: int) -> None:
        """Add to an 8-byte little-endian integer, missing counts as 0, no conflict.

        The sum wraps modulo 2**64. Not idempotent under an unknown commit result: use
        only where the same transaction also reads and writes what makes it so.
        """

    @abstractmethod
    def max(self, key: bytes, value: int) -> None:
        """Keep the greater of the stored and the given unsigned 8-byte integer."""

    @abstractmethod
    def min(self, key: bytes, value: int) -> None:
        """Keep the lesser of the stored and the given unsigned 8-byte integer.

        A missing key takes `value`.
        """

    @abstractmethod
    def set_versionstamped_key(
        self, prefix: bytes, suffix: bytes, value: bytes
    ) -> None:
        """Store `value` at prefix + the commit's 10-byte versionstamp + suffix.

        Stamps of later commits are greater. Such a key cannot be read back in the same
        transaction.
        """

    @abstractmethod
    def versionstamp(self) -> Versionstamp:
        """Return this transaction's stamp, to be waited for after the commit."""

    @abstractmethod
    def add_read_conflict_range(self, begin: bytes, end: bytes) -> None:
        """Conflict with any write into the range, as if it had been read."""

    @abstractmethod
    def add_write_conflict_range(self, begin: bytes, end: bytes) -> None:
        """Make others that read the range conflict, as if it had been written."""

    @abstractmethod
    def watch(self, key: bytes) -> Watch:
        """Return a watch on `key`, active once this transaction has committed."""

    @abstractmethod
    def approximate_size(self) -> int:
        """Return the bytes this transaction would write if it committed now."""


class Engine(ABC):
    """An open store."""

    limits: Limits

    @abstractmethod
    def transact(self, fn: Callable[[Transaction], T], *, timeout_s: float = 30.0) -> T:
        """Run `fn` in a transaction, commit, and return what `fn` returned.

        Conflicts, unknown commit results and too-old transactions are retried with
        back-off until `timeout_s` has passed. An exception from `fn` aborts the
        transaction and is raised unchanged.

        Raises:
            TransactionTooLargeError: If it writes more than the limit; not retried.
            StoreFullError: If there is no room; not retried.
            StoreUnavailableError: If the store did not answer within `timeout_s`.
            StoreError: The last retryable error, when time ran out.
        """

    @abstractmethod
    def read(self, fn: Callable[[ReadTransaction], T], *, timeout_s: float = 30.0) -> T:
        """Run `fn` on one version of the store and return what it returned.

        `fn` may run several times.

        Raises:
            StoreUnavailableError: If the store did not answer within `timeout_s`.
            TransactionTooOldError: If `fn` itself needs longer than the limit.
        """

    @abstractmethod
    def check(self) -> None:
        """Do a trivial read, within about a second.

        Raises:
            StoreError: If the store cannot serve.
        """

    @abstractmethod
    def size_bytes(self) -> int:
        """Return the bytes the store takes on disk, as far as the engine can tell."""

    @abstractmethod
    def close(self) -> None:
        """Release everything. May be called twice; later use raises."""

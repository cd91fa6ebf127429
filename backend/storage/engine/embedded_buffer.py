"""What a transaction of the embedded engine has written and not committed yet.

The buffer holds the outcome, not the history: at most one entry a key, and the ranges
cleared beneath them. Reads of the transaction are answered from it first.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Final

_WORD: Final = 8
_MODULUS: Final = 1 << 64


class Unknown(Enum):
    """The buffer does not decide the key: the store does."""

    UNKNOWN = 0


UNKNOWN: Final = Unknown.UNKNOWN


class Pending:
    """Atomic operations waiting for the value they apply to."""

    __slots__ = ("_steps",)

    def __init__(self, *steps: Callable[[bytes | None], bytes]) -> None:
        self._steps = steps

    def then(self, step: Callable[[bytes | None], bytes]) -> Pending:
        """Return these operations followed by `step`."""
        return Pending(*self._steps, step)

    def apply(self, value: bytes | None) -> bytes:
        """Return what becomes of `value`, None when the key is missing."""
        for step in self._steps:
            value = step(value)
        assert value is not None  # noqa: S101 - there is always a step
        return value


Entry = bytes | Pending | None
"""A value, operations on the stored value, or None for a cleared key."""


def adding(amount: int) -> Callable[[bytes | None], bytes]:
    """Return the operation that adds `amount` modulo 2**64."""
    return lambda value: _encode((_decode(value) + amount) % _MODULUS)


def keeping_max(other: int) -> Callable[[bytes | None], bytes]:
    """Return the operation that keeps the greater unsigned integer."""
    encoded = _encode(other)
    return lambda value: encoded if _decode(value) <= other else _word(value)


def keeping_min(other: int) -> Callable[[bytes | None], bytes]:
    """Return the operation that keeps the lesser unsigned integer."""
    encoded = _encode(other)
    return lambda value: (
        encoded if value is None or _decode(value) >= other else _word(value)
    )


def _word(value: bytes | None) -> bytes:
    # FoundationDB cuts or zero-extends the stored value to the operand's length.
    return (value or b"")[:_WORD].ljust(_WORD, b"\x00")


def _decode(value: bytes | None) -> int:
    return int.from_bytes(_word(value), "little")


def _encode(number: int) -> bytes:
    return number.to_bytes(_WORD, "little")


class StampedKey:
    """A write to a key known only at commit."""

    __slots__ = ("cleared_later", "prefix", "suffix", "value")

    def __init__(self, prefix: bytes, suffix: bytes, value: bytes) -> None:
        self.prefix = prefix
        self.suffix = suffix
        self.value = value
        self.cleared_later: list[tuple[bytes, bytes]] = []

    def key(self, stamp: bytes) -> bytes | None:
        """Return the key under `stamp`, None when a later `clear_range` took it."""
        key = self.prefix + stamp + self.suffix
        if any(begin <= key < end for begin, end in self.cleared_later):
            return None
        return key


class WriteBuffer:
    """Sets, clears and atomic operations of one transaction, read back in key order."""

    __slots__ = ("_begins", "_ends", "_keys", "_sorted", "entries", "stamped")

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.stamped: list[StampedKey] = []
        self._keys: list[bytes] = []
        self._sorted = True
        # Cleared ranges: disjoint, ascending, never touching.
        self._begins: list[bytes] = []
        self._ends: list[bytes] = []

    def __bool__(self) -> bool:
        return bool(self.entries or self._begins or self.stamped)

    @property
    def cleared(self) -> list[tuple[bytes, bytes]]:
        """The cleared ranges, ascending; entries lie above them."""
        return list(zip(self._begins, self._ends, strict=True))

    @property
    def only_clears(self) -> bool:
        """Whether committing this buffer can only make the store smaller."""
        return not self.stamped and not any(
            entry is not None for entry in self.entries.values()
        )

    def put(self, key: bytes, entry: Entry) -> None:
        """Replace what is known of `key`."""
        if key not in self.entries:
            self._keys.append(key)
            self._sorted = False
        self.entries[key] = entry

    def mutate(self, key: bytes, step: Callable[[bytes | None], bytes]) -> None:
        """Apply an atomic operation to `key`."""
        entry = self.find(key)
        if entry is UNKNOWN:
            self.put(key, Pending(step))
        elif isinstance(entry, Pending):
            self.put(key, entry.then(step))
        else:
            self.put(key, step(entry))

    def clear_range(self, begin: bytes, end: bytes) -> None:
        """Forget the entries in [begin, end) and cover the range."""
        first, last = self._span(begin, end)
        for key in self._keys[first:last]:
            del self.entries[key]
        del self._keys[first:last]
        for stamped in self.stamped:
            stamped.cleared_later.append((begin, end))
        # Every range that overlaps or touches [begin, end) melts into it.
        low = bisect_left(self._ends, begin)
        high = bisect_right(self._begins, end)
        if low < high:
            begin = min(begin, self._begins[low])
            end = max(end, self._ends[high - 1])
        self._begins[low:high] = [begin]
        self._ends[low:high] = [end]

    def find(self, key: bytes) -> Entry | Unknown:
        """Return what the buffer says of `key`."""
        entry = self.entries.get(key, UNKNOWN)
        if entry is UNKNOWN and self._begins and self._covers(key):
            return None
        return entry

    def touches(self, begin: bytes, end: bytes) -> bool:
        """Return whether anything in [begin, end) has been written."""
        if self._begins:
            index = bisect_right(self._ends, begin)
            if index < len(self._begins) and self._begins[index] < end:
                return True
        if not self.entries:
            return False
        first, last = self._span(begin, end)
        return first < last

    def items_in(self, begin: bytes, end: bytes) -> list[tuple[bytes, Entry]]:
        """Return the entries in [begin, end), ascending."""
        first, last = self._span(begin, end)
        return [(key, self.entries[key]) for key in self._keys[first:last]]

    def items(self) -> list[tuple[bytes, Entry]]:
        """Return all entries, ascending."""
        self._sort()
        return [(key, self.entries[key]) for key in self._keys]

    def gaps(self, begin: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the parts of [begin, end) that no `clear_range` covers, ascending."""
        index = bisect_right(self._ends, begin)
        while index < len(self._begins) and self._begins[index] < end:
            if begin < self._begins[index]:
                yield begin, self._begins[index]
            begin = self._ends[index]
            index += 1
        if begin < end:
            yield begin, end

    def _covers(self, key: bytes) -> bool:
        index = bisect_right(self._begins, key) - 1
        return index >= 0 and key < self._ends[index]

    def _span(self, begin: bytes, end: bytes) -> tuple[int, int]:
        self._sort()
        return bisect_left(self._keys, begin), bisect_left(self._keys, end)

    def _sort(self) -> None:
        if not self._sorted:
            # Appended keys mostly ascend already, which makes this nearly linear.
            self._keys.sort()
            self._sorted = True

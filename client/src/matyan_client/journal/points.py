"""Metric points on disk: fixed-size segments of columns, written through a mapping.

A segment holds `capacity` points as five columns behind one header page. A point is its
index across all segments; segment `i // capacity` holds it at `i % capacity`. The
series column is stored last and 0 means "no point here", so a process killed in the
middle of a store leaves no half point. Segments are full except the last.

Columns rather than records: a store of five items costs what one packed record costs
(85 ns), and a frame's columns are slices of the file.

Layout note: docs/subsystems/sdk.md#journal
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from array import array
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from matyan_client.journal import mapping
from matyan_wire.batch import AUTO_STEP

CAPACITY: Final = 32_768
"""Points per segment, 1.2 MB: two frames, so that space comes back soon."""

RETRY_S: Final = 0.5
"""After a failed allocation, how long points are dropped before the next try."""

_HEADER: Final = struct.Struct("<8sIIQ")
_MAGIC: Final = b"MATYANP1"
_ROW: Final = struct.Struct("<qqdd")
_PAGE: Final = 4096
_ITEM_BYTES: Final = (8, 8, 8, 8, 4)
_POINT_BYTES: Final = sum(_ITEM_BYTES)


class DamagedSegmentError(Exception):
    """A segment is shorter than it was made: someone cut it."""


class SeriesState:
    """What the writer keeps of one series.

    Attributes:
        number: Its 1-based number in the journal.
        next_step: Step of the next point that names none, or `AUTO_STEP` when the
            store is to choose.
        counts: Whether `next_step` is counted here.
    """

    __slots__ = ("counts", "next_step", "number")

    def __init__(self, number: int, *, counts: bool) -> None:
        self.number = number
        self.counts = counts
        self.next_step = 0 if counts else AUTO_STEP


@dataclass(frozen=True)
class Columns:
    """Points [start, stop) as raw columns; `series` are journal numbers."""

    count: int
    times_us: bytes
    steps: bytes
    values: bytes
    epochs: bytes
    series: bytes


def segment_bytes(capacity: int) -> int:
    """Return the size of a segment file."""
    return _PAGE + capacity * _POINT_BYTES


def segment_path(directory: Path, number: int) -> Path:
    """Return the path of segment `number`."""
    return directory / f"points-{number:08d}"


def spare_path(directory: Path, number: int) -> Path:
    """Return the path of segment `number` while it is allocated ahead."""
    return directory / f"spare-{number:08d}"


class _Segment:
    """A mapped segment and typed views of its columns."""

    __slots__ = ("epochs", "memory", "number", "series", "steps", "times", "values")

    def __init__(self, path: Path, number: int, capacity: int) -> None:
        self.number = number
        self.memory = mapping.create(path, segment_bytes(capacity))
        _HEADER.pack_into(self.memory, 0, _MAGIC, capacity, 0, number * capacity)
        view = memoryview(self.memory)
        wide = 8 * capacity
        self.times = view[_PAGE : _PAGE + wide].cast("q")
        self.steps = view[_PAGE + wide : _PAGE + 2 * wide].cast("q")
        self.values = view[_PAGE + 2 * wide : _PAGE + 3 * wide].cast("d")
        self.epochs = view[_PAGE + 3 * wide : _PAGE + 4 * wide].cast("d")
        self.series = view[_PAGE + 4 * wide :].cast("I")
        view.release()

    def close(self) -> None:
        for view in (self.times, self.steps, self.values, self.epochs, self.series):
            view.release()
        self.memory.close()


class PointWriter:
    """Appends points. Thread-safe; raises nothing for the disk's sake.

    A point that a signal handler or a finalizer appends in the middle of another one's
    store is put aside, and stored before the interrupted `append` returns.

    Args:
        directory: The journal, or None when there is none: every point is refused.
        budget: Shared with the journal's other logs; guarded by `lock`.
        lock: The journal's lock, held for stores only, never across input or output
            except to allocate a segment when `prepare` has not done so in time.
        capacity: Points per segment.

    Attributes:
        refused: Points there was no room for; `refusal` is the last reason.
        overflowed: Points beyond `mapping.MAX_NESTED` in the middle of one store.
    """

    def __init__(
        self,
        directory: Path | None,
        *,
        budget: mapping.Budget,
        lock: mapping.Lock,
        capacity: int = CAPACITY,
    ) -> None:
        self._directory = directory
        self._budget = budget
        self._lock = lock
        self._size = capacity
        self._segment: _Segment | None = None
        self._spare: _Segment | None = None
        self._base = 0
        self._slot = self._capacity = 0  # no room: the first point allocates
        self._retry_at = self._prepare_at = 0.0
        self._busy = self._draining = False
        self._nested: deque[tuple[SeriesState, int | None, float, float, int]] = deque()
        self.refused = self.overflowed = 0
        self.refusal: OSError | None = None

    @property
    def end(self) -> int:
        """Index after the last point."""
        with self._lock:
            return self._base + self._slot

    def append(
        self,
        series: SeriesState,
        step: int | None,
        value: float,
        epoch: float,
        time_us: int,
    ) -> None:
        """Store one point; it outlives the process as soon as this returns.

        Raises:
            TypeError: If an argument is no number.
            ValueError: If `step` does not fit 64 bits.
        """
        with self._lock:
            if self._busy:
                self._put_aside(series, step, value, epoch, time_us)
                return
            try:
                self._busy = True
                if step is None:
                    step = series.next_step
                elif step == AUTO_STEP:
                    raise _reserved(step)
                slot = self._slot
                if slot == self._capacity:
                    if not self._roll():
                        self.refused += 1
                        return
                    slot = 0
                try:
                    self._times[slot] = time_us
                    self._steps[slot] = step
                    self._values[slot] = value
                    self._epochs[slot] = epoch
                except (TypeError, ValueError) as error:
                    raise _misfit(step, epoch) from error
                self._series[slot] = series.number  # last: makes the point visible
                self._slot = slot + 1
                if series.counts and step >= series.next_step:
                    series.next_step = step + 1
            finally:
                self._busy = False
                if self._nested:
                    self._drain()

    def _put_aside(
        self,
        series: SeriesState,
        step: int | None,
        value: float,
        epoch: float,
        time_us: int,
    ) -> None:
        if step == AUTO_STEP:
            raise _reserved(step)
        try:  # here, or it would be raised into what was interrupted
            _ROW.pack(time_us, 0 if step is None else step, value, epoch)
        except (struct.error, TypeError, ValueError, OverflowError) as error:
            raise _misfit(step, epoch) from error
        if len(self._nested) < mapping.MAX_NESTED:
            self._nested.append((series, step, value, epoch, time_us))
        else:
            self.overflowed += 1

    def _drain(self) -> None:
        # Looked at again behind the flags: what comes in between is put aside too.
        while self._nested and not self._draining:
            try:
                self._draining = True
                with contextlib.suppress(IndexError):  # the last was taken meanwhile
                    while True:
                        self.append(*self._nested.popleft())
            finally:
                self._draining = False

    def prepare(self) -> None:
        """Allocate the next segment ahead of need; called by a background thread."""
        with self._lock:
            wanted = (
                self._segment is not None
                and self._spare is None
                and self._slot > self._capacity // 4
                and time.monotonic() >= self._prepare_at
            )
            number = self._base // self._size + 1
        directory = self._directory
        if not wanted or directory is None:
            return
        # Under a name of its own: a burst may need the segment before it is ready,
        # and then makes one itself.
        spare = self._allocate(spare_path(directory, number), number)
        if spare is None:
            self._prepare_at = time.monotonic() + RETRY_S
            return
        with self._lock:
            self._take_spare(spare)

    def _take_spare(self, spare: _Segment) -> None:
        if self._segment is None or self._base // self._size + 1 != spare.number:
            self._discard(spare)  # closed, or a burst got there first
        else:
            self._spare = spare

    def _discard(self, segment: _Segment) -> None:
        segment.close()
        if self._directory is not None:
            spare_path(self._directory, segment.number).unlink(missing_ok=True)
        self._budget.release(segment_bytes(self._size))

    def _allocate(self, path: Path, number: int) -> _Segment | None:
        size = segment_bytes(self._size)
        try:
            with self._lock:
                self._budget.reserve(size)
            try:
                return _Segment(path, number, self._size)
            except BaseException:
                with self._lock:
                    self._budget.release(size)
                raise
        except OSError as error:
            self.refusal = error
            return None

    def _roll(self) -> bool:
        """Go to the next segment; False if there is no room for it. Lock held."""
        if self._directory is None:
            self.refusal = FileNotFoundError("there is no journal")
            return False
        number = 0 if self._segment is None else self._base // self._size + 1
        segment = self._adopt_spare(self._directory, number)
        if segment is None:
            if time.monotonic() < self._retry_at:
                return False
            path = segment_path(self._directory, number)
            segment = self._allocate(path, number)
        if segment is None:
            self._retry_at = time.monotonic() + RETRY_S
            return False
        if self._segment is not None:
            self._segment.close()
        self._enter(segment)
        return True

    def _adopt_spare(self, directory: Path, number: int) -> _Segment | None:
        spare, self._spare = self._spare, None
        if spare is None:
            return None
        if spare.number != number:  # a finalizer rolled while it was taken
            self._discard(spare)
            return None
        try:
            spare_path(directory, spare.number).rename(
                segment_path(directory, spare.number)
            )
        except OSError as error:
            self.refusal = error
            self._discard(spare)
            return None
        return spare

    def _enter(self, segment: _Segment) -> None:
        self._segment = segment
        self._base = segment.number * self._size
        self._slot, self._capacity = 0, self._size
        self._times, self._steps = segment.times, segment.steps
        self._values, self._epochs = segment.values, segment.epochs
        self._series = segment.series

    def forget_before(self, index: int, *, first: int) -> int:
        """Delete segments holding only points before `index`; return the new first.

        Args:
            index: Points before it are no longer needed.
            first: Number of the first segment that may still exist.
        """
        if self._directory is None:
            return first
        with self._lock:
            last = self._base // self._size
        stop = min(index // self._size, last)
        for number in range(first, stop):
            segment_path(self._directory, number).unlink(missing_ok=True)
            with self._lock:
                self._budget.release(segment_bytes(self._size))
                self._retry_at = 0.0
        return max(first, stop)

    def close(self) -> None:
        """Unmap; further points are refused.

        In the middle of a store, by a signal handler, the mapping is left to it.
        """
        with self._lock:
            if self._busy:
                self._directory = None
                return
            try:
                self._busy = True
                if self._segment is not None:
                    self._base += self._slot
                    self._segment.close()
                if self._spare is not None:
                    self._discard(self._spare)
                self._segment = self._spare = None
                self._slot = self._capacity = 0
                self._directory = None
            finally:
                self._busy = False
                self._drain()


def _reserved(step: int) -> ValueError:
    return ValueError(f"step {step} is reserved")


def _misfit(step: object, epoch: object) -> Exception:
    if not isinstance(epoch, (int, float)):
        return TypeError(f"an epoch is a number, not {epoch!r}")
    return ValueError(f"step {step!r} does not fit 64 bits")


class PointReader:
    """Reads points of a journal, its own process's or another's.

    Args:
        directory: The journal.
        capacity: Points per segment, for a journal without any segment yet.
    """

    def __init__(self, directory: Path, *, capacity: int = CAPACITY) -> None:
        self._directory = directory
        self.capacity = self._stored_capacity() or capacity

    def _numbers(self) -> list[int]:
        names = [path.name for path in self._directory.glob("points-*")]
        return sorted(int(name.partition("-")[2]) for name in names)

    def _stored_capacity(self) -> int:
        for number in self._numbers():
            with segment_path(self._directory, number).open("rb") as file:
                header = file.read(_HEADER.size)
            if len(header) == _HEADER.size:
                magic, capacity, _, start = _HEADER.unpack(header)
                if magic == _MAGIC and capacity and start == number * capacity:
                    return int(capacity)
        return 0

    def find_start(self) -> int:
        """Return the index of the first point still on disk."""
        numbers = self._numbers()
        return numbers[0] * self.capacity if numbers else 0

    def find_end(self) -> int:
        """Return the index after the last whole point on disk."""
        for number in reversed(self._numbers()):
            try:
                series = self._column(number, 4, 0, self.capacity)
            except DamagedSegmentError:
                continue
            if stored := -(-len(series.rstrip(b"\0")) // 4):
                return number * self.capacity + stored
        return self.find_start()

    def segment_end(self, index: int) -> int:
        """Return where the segment of point `index` ends."""
        return (index // self.capacity + 1) * self.capacity

    def read(self, start: int, stop: int) -> Columns:
        """Return points [start, stop), which must lie in one segment.

        Raises:
            OSError: If the segment cannot be read.
            DamagedSegmentError: If it is too short.
        """
        number, low = divmod(start, self.capacity)
        high = low + stop - start
        columns = [self._column(number, column, low, high) for column in range(5)]
        return Columns(stop - start, *columns)

    def _column(self, number: int, column: int, low: int, high: int) -> bytes:
        item = _ITEM_BYTES[column]
        offset = _PAGE + self.capacity * 8 * column + low * item
        path = segment_path(self._directory, number)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.pread(descriptor, (high - low) * item, offset)
        finally:
            os.close(descriptor)
        if len(data) != (high - low) * item:
            raise DamagedSegmentError(str(path))
        return data


def numbers_of(series: bytes) -> array[int]:
    """Return the journal numbers in a series column."""
    numbers = array("I")
    numbers.frombytes(series)
    return numbers

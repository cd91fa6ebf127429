"""Checksummed records of any length, written through a mapping.

Segments are preallocated files `<name>-<index of the first record>`. A record is a
24-byte header (magic, length, CRC-32 of index and payload, index) and its payload,
padded to 8 bytes. The magic is stored last: a process killed in the middle of a store
leaves no half record. A damaged record is skipped, by looking for the next whole one,
and counted by the gap in the indexes.

Layout note: docs/subsystems/sdk.md#journal
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import pairwise
from mmap import mmap
from pathlib import Path
from typing import Final, NamedTuple
from zlib import crc32

from matyan_client.journal import mapping

SEGMENT_BYTES: Final = 256 * 1024
_ADOPTED_BYTES: Final = 16 * 1024

_HEADER: Final = struct.Struct("<IIIIQ")
_MAGIC: Final = 0x4D54524E
_MAGIC_BYTES: Final = struct.pack("<I", _MAGIC)
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_ALIGN: Final = 8


@dataclass(frozen=True)
class Record:
    """A stored record and its index in the log."""

    __slots__ = ("index", "payload")

    index: int
    payload: bytes


def _padded(length: int) -> int:
    return _HEADER.size + length + -length % _ALIGN


def _checksum(index: int, payload: bytes) -> int:
    return crc32(payload, crc32(_U64.pack(index)))


class _Entry(NamedTuple):
    """A record that has its index, `number`, and waits to be stored."""

    number: int
    encode: Callable[[], bytes]
    on_stored: Callable[[], None]


def _nothing() -> None:
    pass


class RecordWriter:
    """Appends records. Thread-safe.

    A record that a signal handler or a finalizer appends in the middle of another one's
    store gets its index at once, and is stored before the interrupted `append` returns.

    Args:
        directory: The journal, or None when there is none: every record is refused.
        name: Name of the log, the prefix of its files.
        budget: Shared with the journal's other logs; guarded by `lock`.
        lock: The journal's lock.
        segment_bytes: Size of a segment, unless one record needs more.
        end: Index of the first record, when an earlier writer's are there.
        on_refused: Called when there is no room for a record put aside: whoever
            appended it has gone on.

    Attributes:
        end: Index after the last record stored.
    """

    def __init__(  # noqa: PLR0913 - where it stands among a journal's logs
        self,
        directory: Path | None,
        name: str,
        *,
        budget: mapping.Budget,
        lock: mapping.Lock,
        segment_bytes: int = SEGMENT_BYTES,
        end: int = 0,
        on_refused: Callable[[OSError], None] = lambda _: None,
    ) -> None:
        self._directory = directory
        self._name = name
        self._budget = budget
        self._lock = lock
        self._segment_bytes = segment_bytes
        self._on_refused = on_refused
        self._memory: mmap | None = None
        self._offset = 0
        self._busy = False
        # Both are used by calls that nothing can interrupt: a handler's record in the
        # middle of one statement neither shares an index nor is lost.
        self._indices = itertools.count(end)
        self._waiting: list[_Entry] = []
        self.end = end

    def append(self, payload: bytes) -> int:
        """Store one record; it outlives the process. Return its index.

        Raises:
            OSError: If there is no room for it.
        """
        return self.append_encoded(lambda: payload)

    def append_encoded(
        self,
        encode: Callable[[], bytes],
        on_stored: Callable[[], None] = _nothing,
    ) -> int:
        """Store a record whose bytes depend on the records before it.

        Args:
            encode: Returns the bytes; called twice, the second time in the record's
                turn.
            on_stored: Called when it is stored. Both are called with the lock held, and
                no other record is encoded or stored meanwhile.

        Raises:
            OSError: If there is no room for it.
        """
        with self._lock:
            if self._busy:
                return self._put_aside(encode, on_stored)
            refusal: OSError | None = None
            try:
                self._busy = True
                # Before there is an index: one without a record would look like damage.
                self._room_for(_padded(len(encode())))
                index = next(self._indices)
                heappush(self._waiting, _Entry(index, encode, on_stored))
                refusal = self._store_waiting(index)
            finally:
                self._busy = False
                if self._waiting:
                    self._drain()
            if refusal is not None:
                raise refusal
            return index

    def _put_aside(
        self, encode: Callable[[], bytes], on_stored: Callable[[], None]
    ) -> int:
        encode()  # what is wrong is raised here, not into what was interrupted
        if len(self._waiting) >= mapping.MAX_NESTED:
            raise mapping.NestedOverflowError
        index = next(self._indices)
        heappush(self._waiting, _Entry(index, encode, on_stored))
        return index

    def _drain(self) -> None:
        # Looked at again behind the flag: what comes in between is put aside too.
        while self._waiting:
            try:
                self._busy = True
                self._store_waiting(None)
            finally:
                self._busy = False

    def _store_waiting(self, own: int | None) -> OSError | None:
        """Store what waits, in order; return why there was no room for `own`."""
        refusal: OSError | None = None
        while self._waiting:
            entry = self._waiting[0]
            try:
                self._store(entry.number, entry.encode())
                entry.on_stored()
            except OSError as error:
                if entry.number == own:
                    refusal = error
                else:
                    self._on_refused(error)
            heappop(self._waiting)  # what comes meanwhile sorts behind it
        return refusal

    def _store(self, index: int, payload: bytes) -> None:
        memory = self._room_for(_padded(len(payload)))
        offset = self._offset
        body = offset + _HEADER.size
        memory[body : body + len(payload)] = payload
        checksum = _checksum(index, payload)
        _HEADER.pack_into(memory, offset, 0, len(payload), checksum, 0, index)
        _U32.pack_into(memory, offset, _MAGIC)  # last: makes the record visible
        self._offset = offset + _padded(len(payload))
        self.end = index + 1

    def _room_for(self, size: int) -> mmap:
        memory = self._memory
        if memory is not None and self._offset + size <= len(memory):
            return memory
        fresh = self._allocate(max(self._segment_bytes, size))
        if memory is not None:
            memory.close()
        self._memory, self._offset = fresh, 0
        return fresh

    def _allocate(self, size: int) -> mmap:
        if self._directory is None:
            msg = "there is no journal"
            raise FileNotFoundError(msg)
        self._budget.reserve(size)
        try:
            return mapping.create(
                self._directory / f"{self._name}-{self.end:012d}", size
            )
        except BaseException:
            self._budget.release(size)
            raise

    def forget_before(self, index: int) -> None:
        """Delete segments holding only records before `index`."""
        if self._directory is None:
            return
        segments = _segments(self._directory, self._name)
        # A segment ends where the next one begins; the last is still written to.
        for (_, path), (following, _) in pairwise(segments):
            if following > index:
                break
            size = path.stat().st_size
            path.unlink(missing_ok=True)
            with self._lock:
                self._budget.release(size)

    def close(self) -> None:
        """Unmap; further records are refused.

        In the middle of a store, by a signal handler, the mapping is left to it.
        """
        with self._lock:
            self._directory = None
            if self._busy:
                return
            memory, self._memory = self._memory, None
            if memory is not None:
                memory.close()


def _segments(directory: Path, name: str) -> list[tuple[int, Path]]:
    paths = directory.glob(f"{name}-*")
    return sorted((int(path.name.rpartition("-")[2]), path) for path in paths)


def find_end(directory: Path, name: str, *, start: int = 0) -> int:
    """Return the index after the last whole record of a log nobody writes."""
    reader = RecordReader(directory, name, start=start)
    while reader.take() is not None:
        pass
    return reader.position


def adopt(directory: Path, name: str, *, end: int, lock: mapping.Lock) -> RecordWriter:
    """Return a writer that goes on behind the records of a dead one.

    Args:
        directory: The journal; its lock is held by this process.
        name: Name of the log.
        end: Index of the next record, at least `find_end`.
        lock: Guards the log from now on.
    """
    for first, path in _segments(directory, name):
        if first >= end:  # allocated, and nothing written into it
            path.unlink(missing_ok=True)
    budget = mapping.Budget(2**63)  # what is left was within bounds when it was made
    return RecordWriter(
        directory, name, budget=budget, lock=lock, segment_bytes=_ADOPTED_BYTES, end=end
    )


class RecordReader:
    """Reads a log's records in order, also while another thread appends.

    Args:
        directory: The journal.
        name: Name of the log.
        start: Index of the first record wanted.
        limit: The writer's `end`, when it is in this process: what lies beyond is not
            looked at, because a file read while it grows can miss what came first.

    Attributes:
        lost: Records that were damaged and have been skipped so far.
        position: Index of the next record.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        *,
        start: int = 0,
        limit: Callable[[], int] | None = None,
    ) -> None:
        self._directory = directory
        self._name = name
        self._limit = limit
        self._segment = -1
        self._data = b""
        self._offset = 0
        self._next: Record | None = None
        self.position = start
        self.lost = 0

    def peek(self) -> Record | None:
        """Return the next record without taking it; None when there is none yet."""
        if self._next is None and not (
            self._limit is not None and self.position >= self._limit()
        ):
            self._next = self._find()
        return self._next

    def take(self) -> Record | None:
        """Return the next record and go past it."""
        record = self.peek()
        if record is not None:
            self._next = None
            self.position = record.index + 1
        return record

    def _find(self) -> Record | None:
        while True:
            record = self._read_here()
            if record is None:
                if not self._enter_next_segment():
                    return None
            elif record.index >= self.position:
                self.lost += record.index - self.position
                self.position = record.index
                return record

    def _read_here(self) -> Record | None:
        """Return the next whole record of this segment; None past its last."""
        if self._segment < 0:
            return None
        record = self._record_at(self._offset)
        if record is None:  # not there when the file was last read, or damaged
            self._load()
            record = self._record_at(self._offset) or self._record_after()
        if record is not None:
            self._offset += _padded(len(record.payload))
        return record

    def _record_after(self) -> Record | None:
        """Go to the next whole record behind a damaged one."""
        at = self._data.find(_MAGIC_BYTES, self._offset + 1)
        while at >= 0:
            record = None if at % _ALIGN else self._record_at(at)
            if record is not None:
                self._offset = at
                return record
            at = self._data.find(_MAGIC_BYTES, at + 1)
        return None

    def _record_at(self, offset: int) -> Record | None:
        header = self._data[offset : offset + _HEADER.size]
        if len(header) < _HEADER.size:
            return None
        magic, length, checksum, _, index = _HEADER.unpack(header)
        start = offset + _HEADER.size
        payload = self._data[start : start + length] if magic == _MAGIC else b""
        if (
            magic != _MAGIC
            or len(payload) != length
            or _checksum(index, payload) != checksum
        ):
            return None
        return Record(index, payload)

    def _load(self) -> None:
        path = self._directory / f"{self._name}-{self._segment:012d}"
        try:
            self._data = path.read_bytes()
        except FileNotFoundError:
            self._data = b""

    def _enter_next_segment(self) -> bool:
        for first, _ in _segments(self._directory, self._name):
            if first > self._segment:
                self._segment, self._offset = first, 0
                self._load()
                return True
        return False

"""The frame ledger: which points and events each frame holds, and what is acked.

A frame's bounds are stored before it is first sent, so that after a crash the same
sequence number is sent again with the same content, and the store can tell a repeat
from something new. One 8 KiB file, mapped: two slots for the acknowledged position,
written in turn, and `WINDOW_SLOTS` slots for frames, by sequence number.

Every slot ends in a CRC-32. When a frame's bounds cannot be trusted, the writer starts
a new epoch behind what is acked and cuts again.

Layout note: docs/subsystems/sdk.md#journal
"""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Final, NamedTuple
from zlib import crc32

from matyan_client.journal import mapping

WINDOW_SLOTS: Final = 64
"""Frames that may be cut and not acknowledged; the sender's window is smaller."""

FILE_NAME: Final = "frames"

_SLOT_BYTES: Final = 64
_FRAMES_AT: Final = 4096
_SIZE: Final = _FRAMES_AT + WINDOW_SLOTS * _SLOT_BYTES
_SLOT: Final = struct.Struct("<IIQQQI")
_USED: Final = 1


class Cut(NamedTuple):
    """The end of a frame; it begins where the one before it ends.

    Attributes:
        epoch, seq: The frame's position in the writer's stream; seq 0 is the start.
        points: Index after its last point.
        events: Index after its last event.
    """

    epoch: int
    seq: int
    points: int
    events: int


class Ledger:
    """The ledger of one journal. Used by one thread.

    Args:
        directory: The journal.
        takeover: Whether the machine has restarted since the journal was written, so
            that what was on disk then is not certain: a new epoch begins.

    Raises:
        OSError: If the file cannot be opened or made.
    """

    def __init__(self, directory: Path, *, takeover: bool = False) -> None:
        path = directory / FILE_NAME
        if path.exists() and path.stat().st_size == _SIZE:
            self._memory = mapping.open_existing(path)
        else:
            path.unlink(missing_ok=True)
            self._memory = mapping.create(path, _SIZE)
        self._acked_slot = 0
        self._planned: list[Cut] = []
        self.acked = self._recover(takeover=takeover)
        self.last = self.acked
        if not self.acked.seq:
            self.acknowledge(self.acked)  # a raised epoch is never raised again

    def _recover(self, *, takeover: bool) -> Cut:
        slots = [self._read(number * _SLOT_BYTES) for number in range(2)]
        whole = [cut for cut in slots if cut is not None]
        frames = [self._frame(number) for number in range(WINDOW_SLOTS)]
        if not whole and not self._is_blank():
            epoch = max(
                (cut.epoch for cut in frames if cut), default=time.time_ns() // 10**9
            )
            return Cut(epoch + 1, 0, 0, 0)
        acked = max(whole, default=Cut(1, 0, 0, 0))
        if takeover:
            return acked._replace(epoch=acked.epoch + 1, seq=0)
        self._planned, sound = self._plan(acked)
        if not sound:
            self._planned = []
            return acked._replace(epoch=acked.epoch + 1, seq=0)
        return acked

    def _plan(self, acked: Cut) -> tuple[list[Cut], bool]:
        """Return the frames cut after `acked`, and whether all bounds are known."""
        planned: list[Cut] = []
        holes = 0
        for seq in range(acked.seq + 1, acked.seq + WINDOW_SLOTS):
            cut = self._frame(seq)
            if cut is not None and (cut.epoch, cut.seq) == (acked.epoch, seq):
                if holes:
                    return [], False
                planned.append(cut)
            elif cut is None and not self._is_blank(seq):
                holes += 1
            else:
                break
        return planned, not holes

    def _is_blank(self, seq: int | None = None) -> bool:
        if seq is None:
            return not any(self._memory[:])
        at = _FRAMES_AT + seq % WINDOW_SLOTS * _SLOT_BYTES
        return not any(self._memory[at : at + _SLOT_BYTES])

    def _frame(self, seq: int) -> Cut | None:
        return self._read(_FRAMES_AT + seq % WINDOW_SLOTS * _SLOT_BYTES)

    def _read(self, at: int) -> Cut | None:
        slot = self._memory[at : at + _SLOT.size]
        used, epoch, seq, points, events, checksum = _SLOT.unpack(slot)
        if used != _USED or crc32(slot[:-4]) != checksum:
            return None
        return Cut(epoch, seq, points, events)

    def _write(self, at: int, cut: Cut) -> None:
        slot = bytearray(_SLOT.size)
        _SLOT.pack_into(slot, 0, _USED, *cut, 0)
        struct.pack_into("<I", slot, _SLOT.size - 4, crc32(slot[:-4]))
        self._memory[at : at + _SLOT.size] = bytes(slot)

    @property
    def planned(self) -> Cut | None:
        """The next frame's bounds, when an earlier process has fixed them."""
        return self._planned[0] if self._planned else None

    @property
    def fixed(self) -> Cut:
        """The last frame whose bounds are known: nothing may be put before its end."""
        return self._planned[-1] if self._planned else self.last

    def cut(self, *, points: int, events: int) -> Cut:
        """Fix the next frame's bounds, or go past the planned ones."""
        if self._planned:
            self.last = self._planned.pop(0)
            return self.last
        cut = Cut(self.last.epoch, self.last.seq + 1, points, events)
        self._write(_FRAMES_AT + cut.seq % WINDOW_SLOTS * _SLOT_BYTES, cut)
        self.last = cut
        return cut

    def acknowledge(self, cut: Cut) -> None:
        """Record that every frame up to `cut` is acknowledged."""
        self._acked_slot ^= 1  # a torn write leaves the other slot
        self._write(self._acked_slot * _SLOT_BYTES, cut)
        self.acked = cut

    def close(self) -> None:
        """Unmap the file."""
        self._memory.close()

"""The bytes of a backup: a header and frames, each complete in itself.

    header   "MATYANBK", format version, JSON of (length, CRC-32, text)
    frame    section, length and CRC-32 of what follows: zstd of MessagePack
    …
    end      a frame of its own: how many frames, runs and keys there are

A file without the end frame is not whole. A file being written has only whole frames up
to some point; what follows the last complete run is cut off when writing goes on.

Design note: docs/subsystems/maintenance.md#back_up
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

import msgspec
import zstandard

from backend.errors import BackupDamagedError, FormatError
from backend.services.long_work import Observer, Step, nobody
from backend.storage.engine.base import KeyValue

MAGIC: Final = b"MATYANBK"
VERSION: Final = 1
MAX_FRAME_BYTES: Final = 64 << 20
SYNC_BYTES: Final = 64 << 20
_HEAD: Final = struct.Struct(">HII")
_FRAME: Final = struct.Struct(">BII")
_LEVEL: Final = 3
_MISSING: Final = "frames are missing, or too many"
_CUT: Final = "it ends too early: the backup was not finished, or was cut"


class Section(IntEnum):
    """What a frame holds. Permanent: a number is never reused."""

    RUN = 1
    SHARED = 2
    END = 3


@dataclass(frozen=True, slots=True)
class Frame:
    """Some pairs of one run, or of one subspace that belongs to no run.

    Attributes:
        section: Which.
        number: The run's number, or the subspace's.
        pairs: Keys and values.
        part: Counts from 0; with 0 begins all of the run, again if it came before.
        last: Whether the run is complete with it.
    """

    section: Section
    number: int
    pairs: list[KeyValue]
    part: int = 0
    last: bool = False


@dataclass(frozen=True, slots=True)
class Head:
    """What a whole backup says about itself.

    Attributes:
        stamp: Format stamp of the store.
        created_us: When it was begun, microseconds since the epoch.
        frames: Number of frames.
        runs: Number of runs.
        keys: Number of keys.
    """

    stamp: bytes
    created_us: int
    frames: int
    runs: int
    keys: int


_Body = tuple[int, int, bool, list[tuple[bytes, bytes]]]
_encoder: Final = msgspec.msgpack.Encoder()
_body_decoder: Final = msgspec.msgpack.Decoder(_Body)
_end_decoder: Final = msgspec.msgpack.Decoder(dict[str, int])


class BackupWriter:
    """Writes a backup, or goes on with one. A context manager; one thread's.

    Args:
        path: The file, made or gone on with; None writes nothing and only counts.
        stamp: Format stamp of the store.
        created_us: The present.

    Attributes:
        size: Bytes so far.
        last_run: Number of the last complete run that was there already, -1 if none.
        resumed_runs: How many complete runs were there already.
        resumed_keys: Their keys.

    Raises:
        FormatError: If `path` is no backup of this version.
    """

    def __init__(self, path: Path | None, *, stamp: bytes, created_us: int) -> None:
        self.size = 0
        self.last_run = -1
        self.resumed_runs = self.resumed_keys = 0
        self._frames = 0
        self._unsynced = 0
        self._packer = zstandard.ZstdCompressor(level=_LEVEL)
        self._file: IO[bytes] | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
            self._resume()
        if not self.size:
            head = {"stamp": stamp.decode(), "created_us": created_us}
            text = json.dumps(head).encode()
            self._put(MAGIC + _HEAD.pack(VERSION, len(text), zlib.crc32(text)) + text)

    def write(self, frame: Frame) -> None:
        """Append a frame."""
        body = (frame.number, frame.part, frame.last, frame.pairs)
        self._write(frame.section, _encoder.encode(body))

    def finish(self, *, runs: int, keys: int) -> None:
        """Make the backup whole, and durable."""
        end = {"frames": self._frames, "runs": runs, "keys": keys}
        self._write(Section.END, _encoder.encode(end))
        self._sync()

    def __enter__(self) -> BackupWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._sync()
            self._file.close()

    def _write(self, section: Section, body: bytes) -> None:
        packed = self._packer.compress(body)
        self._put(_FRAME.pack(section, len(packed), zlib.crc32(packed)) + packed)
        self._frames += 1

    def _put(self, data: bytes) -> None:
        if self._file is not None:
            self._file.write(data)
            self._unsynced += len(data)
            if self._unsynced >= SYNC_BYTES:
                self._sync()
        self.size += len(data)

    def _sync(self) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._unsynced = 0

    def _resume(self) -> None:
        """Find the last complete run and cut off what follows."""
        assert self._file is not None  # noqa: S101 - only called with a file
        if self._file.seek(0, os.SEEK_END) == 0:
            return
        self._file.seek(0)
        _read_head(self._file)
        self.size = self._file.tell()
        keys = 0
        for count, frame in enumerate(_iter_frames(self._file), start=1):
            if not isinstance(frame, Frame) or frame.section is not Section.RUN:
                break
            keys += len(frame.pairs)
            if frame.last:
                self.resumed_runs += frame.number != self.last_run
                self.last_run, self.size = frame.number, self._file.tell()
                self.resumed_keys, self._frames = keys, count
        self._file.seek(self.size)
        self._file.truncate()


class BackupReader:
    """Reads a backup.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def check(self, on_step: Observer = nobody) -> Head:
        """Read the file from end to end; return what it says about itself.

        Raises:
            BackupDamagedError: If it is damaged, or not whole.
            FormatError: If it is of another version.
            OSError: If it cannot be read.
        """
        with ExitStack() as stack:
            file = stack.enter_context(self._path.open("rb"))
            head = _read_head(file)
            count = 0
            for frame in _iter_frames(file):
                if isinstance(frame, Frame):
                    count += 1
                    on_step(Step(count, note="checking"))
                    continue
                if frame.get("frames") != count or file.read(1):
                    raise self._bad(_MISSING)
                return Head(
                    str(head["stamp"]).encode(),
                    int(head["created_us"]),
                    count,
                    frame.get("runs", 0),
                    frame.get("keys", 0),
                )
        raise self._bad(_CUT)

    def frames(self) -> Iterator[Frame]:
        """Yield the frames of a file that has been checked."""
        with self._path.open("rb") as file:
            _read_head(file)
            for frame in _iter_frames(file):
                if isinstance(frame, Frame):
                    yield frame

    def _bad(self, reason: str) -> BackupDamagedError:
        return BackupDamagedError(path=str(self._path), reason=reason)


def _read_head(file: IO[bytes]) -> dict[str, Any]:
    begin = file.read(len(MAGIC) + _HEAD.size)
    if len(begin) < len(MAGIC) + _HEAD.size or not begin.startswith(MAGIC):
        raise BackupDamagedError(path=file.name, reason="not a backup")
    version, length, crc = _HEAD.unpack(begin[len(MAGIC) :])
    if version != VERSION:
        raise FormatError(path=file.name, found=version, supported=VERSION)
    text = file.read(min(length, MAX_FRAME_BYTES))
    if zlib.crc32(text) != crc:
        raise BackupDamagedError(path=file.name, reason="its header is damaged")
    head: dict[str, Any] = json.loads(text)
    return head


def _iter_frames(file: IO[bytes]) -> Iterator[Frame | dict[str, int]]:
    """Yield frames and, as a dict, the end; stop at what is not whole.

    Raises:
        BackupDamagedError: If a frame that is followed by others is damaged.
    """
    unpacker = zstandard.ZstdDecompressor()
    while True:
        head = file.read(_FRAME.size)
        if len(head) < _FRAME.size:
            return
        section, length, crc = _FRAME.unpack(head)
        body = file.read(min(length, MAX_FRAME_BYTES))
        if len(body) < length:
            return
        if zlib.crc32(body) != crc:
            raise BackupDamagedError(
                path=file.name,
                reason="a part of it is damaged",
                offset=file.tell() - length,
            )
        plain = unpacker.decompress(body, max_output_size=4 * MAX_FRAME_BYTES)
        if section == Section.END:
            yield _end_decoder.decode(plain)
            return
        number, part, last, pairs = _body_decoder.decode(plain)
        yield Frame(Section(section), number, pairs, part=part, last=last)

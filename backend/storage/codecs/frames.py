"""The envelope of every bulk value, and its cutting into parts that fit the engine.

A frame is: kind (1 byte), codec version (1 byte), CRC-32 of the body (4 bytes,
little-endian), body. A frame that does not check raises `FormatError` naming its key,
so that one rotten value is found and reported instead of crashing a reader.

Design note: docs/subsystems/storage.md#codecs
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Final

from backend.errors import FormatError

MAX_PART_BYTES: Final = 90_000
HEADER_BYTES: Final = 6

_HEADER: Final = struct.Struct("<BBI")

# LMDB keeps a value of more than about 2,000 bytes in whole pages of its own, the first
# with a 16-byte header. Cutting a value where such pages are full, and keeping the rest
# as a small value, stores a chunk of 1,000 points in 4.7 kB instead of 8 kB. To
# FoundationDB the cut makes no difference.
_PAGE: Final = 4096
_PAGE_HEADER: Final = 16
_INLINE: Final = 1900
_FULL_PART: Final = MAX_PART_BYTES // _PAGE * _PAGE - _PAGE_HEADER


class FrameKind(IntEnum):
    """What a frame holds. Permanent numbers."""

    METRIC_CHUNK = 1
    OBJECT_CHUNK = 2
    METRIC_TAIL = 3
    OBJECT_TAIL = 4
    PAYLOADS = 5


VERSION: Final = 1


def encode_frame(kind: FrameKind, *body: bytes) -> bytes:
    """Return a frame around the joined `body`."""
    crc = 0
    for piece in body:
        crc = zlib.crc32(piece, crc)
    return b"".join((_HEADER.pack(kind, VERSION, crc), *body))


def frame_kind(value: bytes) -> int:
    """Return the kind byte of a frame, 0 for an empty value."""
    return value[0] if value else 0


def check_frame(value: bytes, kind: FrameKind, *, key: bytes) -> int:
    """Verify a frame and return where its body begins.

    Raises:
        FormatError: If it is of another kind or version, or its checksum is wrong.
    """
    if len(value) < HEADER_BYTES:
        raise corrupt(key, "value is cut short")
    found, version, crc = _HEADER.unpack_from(value)
    if found != kind or version != VERSION:
        raise FormatError(
            key=key.hex(), found=[found, version], supported=[int(kind), VERSION]
        )
    if zlib.crc32(memoryview(value)[HEADER_BYTES:]) != crc:
        raise corrupt(key, "checksum does not match")
    return HEADER_BYTES


def corrupt(key: bytes, reason: str) -> FormatError:
    """Return the error for a value that is not what was written."""
    return FormatError(key=key.hex(), reason=reason)


def split_parts(value: bytes) -> list[bytes]:
    """Return `value` in parts of at most `MAX_PART_BYTES`, at least one."""
    if len(value) <= _INLINE:
        return [value]
    parts = []
    start = 0
    while len(value) - start > _FULL_PART:
        parts.append(value[start : start + _FULL_PART])
        start += _FULL_PART
    rest = len(value) - start
    pages = (rest + _PAGE_HEADER) // _PAGE
    whole = pages * _PAGE - _PAGE_HEADER
    if pages and 0 < rest - whole <= _INLINE:
        parts.append(value[start : start + whole])
        start += whole
    if start < len(value):
        parts.append(value[start:])
    return parts


def join_parts(parts: Sequence[bytes] | Iterable[bytes]) -> bytes:
    """Return the value that `split_parts` cut."""
    pieces = list(parts)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)

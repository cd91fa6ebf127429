"""A sealed chunk of an object series, and packed payloads, <-> bytes.

Object chunk, frame body: count (4 bytes, little-endian); columns steps (int64),
times_us (int64), epochs (float64) and payload lengths (int64); then the payloads,
joined and compressed with zstd. Payloads are MessagePack values, stored as they came.

Design note: docs/subsystems/storage.md#codecs
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from threading import local
from typing import Final

import numpy as np
import zstandard

from backend.domain.series import Int64s, ObjectPoints
from backend.storage.codecs.columns import (
    ColumnError,
    as_int64,
    decode_columns,
    encode_column,
)
from backend.storage.codecs.frames import FrameKind, check_frame, corrupt, encode_frame

TARGET_POINTS: Final = 1024
TARGET_BYTES: Final = 256 * 1024
"""An object chunk is cut where either is reached; one payload is never cut."""

_COUNT: Final = struct.Struct("<I")
_DTYPES: Final = (np.int64, np.int64, np.float64, np.int64)
_CHUNK_LEVEL: Final = 6
_TAIL_LEVEL: Final = 1


class _Compressors(local):
    """zstd contexts are not for sharing between threads."""

    def __init__(self) -> None:
        self.chunk = zstandard.ZstdCompressor(level=_CHUNK_LEVEL)
        self.tail = zstandard.ZstdCompressor(level=_TAIL_LEVEL)
        self.decompressor = zstandard.ZstdDecompressor()


_zstd = _Compressors()


def encode_object_chunk(points: ObjectPoints) -> bytes:
    """Return the bytes of a non-empty chunk."""
    return encode_frame(
        FrameKind.OBJECT_CHUNK,
        _COUNT.pack(len(points)),
        encode_column(points.steps),
        encode_column(points.times_us),
        encode_column(points.epochs),
        encode_column(payload_lengths(points.payloads)),
        _zstd.chunk.compress(b"".join(points.payloads)),
    )


def decode_object_chunk(value: bytes, *, key: bytes) -> ObjectPoints:
    """Return the points of a chunk; the arrays may be read-only.

    Raises:
        FormatError: If the value is not an intact chunk.
    """
    offset = check_frame(value, FrameKind.OBJECT_CHUNK, key=key)
    try:
        (count,) = _COUNT.unpack_from(value, offset)
        columns, end = decode_columns(value, offset + _COUNT.size, count, _DTYPES)
    except (struct.error, ColumnError) as error:
        raise corrupt(key, str(error)) from error
    steps, times_us, epochs, lengths = columns
    payloads = _decompress(value[end:], lengths, key)
    return ObjectPoints(steps, times_us, epochs, payloads)


def encode_payloads(payloads: Sequence[bytes]) -> bytes:
    """Return the payloads of a tail block, compressed fast."""
    return encode_frame(FrameKind.PAYLOADS, _zstd.tail.compress(b"".join(payloads)))


def decode_payloads(value: bytes, lengths: Int64s, *, key: bytes) -> list[bytes]:
    """Return the payloads of a tail block, whose lengths are in its columns.

    Raises:
        FormatError: If the value is not intact or does not fit the lengths.
    """
    offset = check_frame(value, FrameKind.PAYLOADS, key=key)
    return _decompress(value[offset:], lengths, key)


def payload_lengths(payloads: Sequence[bytes]) -> Int64s:
    """Return the length of each payload."""
    return as_int64([len(payload) for payload in payloads])


def _decompress(packed: bytes, lengths: Int64s, key: bytes) -> list[bytes]:
    try:
        joined = _zstd.decompressor.decompress(packed, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise corrupt(key, "payloads do not decompress") from error
    ends = np.cumsum(lengths).tolist()
    if not ends or ends[-1] != len(joined) or bool((lengths < 0).any()):
        raise corrupt(key, "payloads do not fit their lengths")
    starts = [0, *ends[:-1]]
    return [joined[start:end] for start, end in zip(starts, ends, strict=True)]

"""A sealed chunk of a metric series <-> bytes.

Frame body: count (4 bytes, little-endian), then the columns steps (int64), values
(float64), times_us (int64), epochs (float64, constant NaN when absent). Points ascend
by step, one per step. At `MAX_POINTS` even incompressible columns fit one part.

Design note: docs/subsystems/storage.md#codecs
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np

from backend.domain.series import Points
from backend.storage.codecs.columns import ColumnError, decode_columns, encode_column
from backend.storage.codecs.frames import FrameKind, check_frame, corrupt, encode_frame

TARGET_POINTS: Final = 2048
"""Points of a full chunk."""

MAX_POINTS: Final = 2700
"""Points a chunk may grow to by late ones before it is split."""

_COUNT: Final = struct.Struct("<I")
_DTYPES: Final = (np.int64, np.float64, np.int64, np.float64)


def encode_chunk(points: Points) -> bytes:
    """Return the bytes of a non-empty chunk."""
    return encode_frame(
        FrameKind.METRIC_CHUNK,
        _COUNT.pack(len(points)),
        encode_column(points.steps),
        encode_column(points.values),
        encode_column(points.times_us),
        encode_column(points.epochs),
    )


def decode_chunk(value: bytes, *, key: bytes) -> Points:
    """Return the points of a chunk; the arrays may be read-only.

    Args:
        value: All parts, joined.
        key: Where it was found, for the error.

    Raises:
        FormatError: If the value is not an intact chunk.
    """
    offset = check_frame(value, FrameKind.METRIC_CHUNK, key=key)
    try:
        (count,) = _COUNT.unpack_from(value, offset)
        columns, end = decode_columns(value, offset + _COUNT.size, count, _DTYPES)
    except (struct.error, ColumnError) as error:
        raise corrupt(key, str(error)) from error
    if end != len(value):
        raise corrupt(key, "bytes after the last column")
    return Points(*columns)

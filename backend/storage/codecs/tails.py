"""A tail block <-> bytes: the points of one or a few batches of a run, all series.

Frame body: number of series and of points (4 bytes each, little-endian); columns series
numbers (ascending) and points of each (int64); then the columns of the points, grouped
by series, in the order they were tracked within a series: steps, values, times_us and
epochs for metrics; steps, times_us, epochs and payload lengths for objects. The
payloads stand under keys of their own (`keyspace.pack_tail_payload`), so that listing a
run does not read its images.

Grouping by series makes one series a slice of the block and its numbers nearly free.

Design note: docs/subsystems/storage.md#codecs
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np

from backend.domain.series import Float64s, Int64s
from backend.storage.codecs.columns import ColumnError, decode_columns, encode_column
from backend.storage.codecs.frames import (
    FrameKind,
    check_frame,
    corrupt,
    encode_frame,
    frame_kind,
)

_COUNTS: Final = struct.Struct("<II")
_METRIC: Final = (np.int64, np.float64, np.int64, np.float64)
_OBJECT: Final = (np.int64, np.int64, np.float64, np.int64)


@dataclass(frozen=True, slots=True)
class TailBlock:
    """Points of several series in columns, grouped by series.

    Attributes:
        series: Series numbers, ascending.
        counts: Points of each.
        steps: n × int64.
        times_us: n × int64.
        epochs: n × float64, NaN where unknown.
        values: n × float64 for metrics, None for objects.
        lengths: n payload lengths for objects, None for metrics.
    """

    series: Int64s
    counts: Int64s
    steps: Int64s
    times_us: Int64s
    epochs: Float64s
    values: Float64s | None = None
    lengths: Int64s | None = None

    def slice_of(self, series_no: int) -> slice | None:
        """Return where the points of a series stand, None if it has none here."""
        at = int(np.searchsorted(self.series, series_no))
        if at == len(self.series) or int(self.series[at]) != series_no:
            return None
        start = int(self.counts[:at].sum())
        return slice(start, start + int(self.counts[at]))


def encode_tail(block: TailBlock) -> bytes:
    """Return the bytes of a non-empty block with either values or lengths."""
    head = (
        _COUNTS.pack(len(block.series), len(block.steps)),
        encode_column(block.series),
        encode_column(block.counts),
        encode_column(block.steps),
    )
    times, epochs = encode_column(block.times_us), encode_column(block.epochs)
    if block.values is not None:
        values = encode_column(block.values)
        return encode_frame(FrameKind.METRIC_TAIL, *head, values, times, epochs)
    if block.lengths is None:
        msg = "A tail block has values or lengths"
        raise ValueError(msg)
    lengths = encode_column(block.lengths)
    return encode_frame(FrameKind.OBJECT_TAIL, *head, times, epochs, lengths)


def decode_tail(value: bytes, *, key: bytes) -> TailBlock:
    """Return the block in `value` (all parts, joined).

    Raises:
        FormatError: If the value is not an intact block.
    """
    is_object = frame_kind(value) == FrameKind.OBJECT_TAIL
    kind = FrameKind.OBJECT_TAIL if is_object else FrameKind.METRIC_TAIL
    offset = check_frame(value, kind, key=key)
    try:
        n_series, n_points = _COUNTS.unpack_from(value, offset)
        (series, counts), offset = decode_columns(
            value, offset + _COUNTS.size, n_series, (np.int64, np.int64)
        )
        columns, offset = decode_columns(
            value, offset, n_points, _OBJECT if is_object else _METRIC
        )
    except (struct.error, ColumnError) as error:
        raise corrupt(key, str(error)) from error
    if offset != len(value) or int(counts.sum()) != n_points:
        raise corrupt(key, "columns do not add up")
    if is_object:
        steps, times_us, epochs, lengths = columns
        return TailBlock(series, counts, steps, times_us, epochs, lengths=lengths)
    steps, values, times_us, epochs = columns
    return TailBlock(series, counts, steps, times_us, epochs, values=values)

"""At most n points of each of many series of a run, in a fixed number of round trips.

Series of few points are read whole, neighbours with one range read. Of a long series
only the chunks that hold a chosen point are read: the choice is made on the counts in
the chunk summaries. Late points still in the tail of such a series do not move the
choice.

Measured on one core: 1,000 steps of one series in about 60 µs, decoding included.

Design note: docs/subsystems/storage.md#sampling
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from backend.domain.series import Int64s, Points
from backend.storage import keyspace
from backend.storage.codecs.series_records import SeriesRecord
from backend.storage.codecs.summaries import Rows
from backend.storage.engine.base import KeyRange, KeyValue, ReadTransaction
from backend.storage.keyspace import Subspace
from backend.storage.repositories.series_chunks import (
    covering_ranges,
    decode_columns_of,
    join_chunks,
    rows_of,
)
from backend.storage.repositories.series_columns import Columns, concat, group
from backend.storage.repositories.series_dictionary import read_records
from backend.storage.repositories.series_tail import Tail, parse_tail, tail_ranges

WHOLE_POINTS: Final = 8192
"""A series of at most this many sealed points, or 4 × max_points, is read whole."""

FEW_SERIES: Final = 8
"""Up to this many series are looked up in the tail one by one."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What is asked of each series.

    Attributes:
        max_points: Greatest number of points, at least 1.
        start: Least step, None for no bound.
        stop: First step not wanted, None for no bound.
    """

    max_points: int
    start: int | None = None
    stop: int | None = None


def sample_many(
    tr: ReadTransaction, run_number: int, numbers: Sequence[int], sample: Sample
) -> dict[int, Points]:
    """Return the sampled points of each metric series of `numbers` that exists.

    Raises:
        FormatError: If a stored value is not intact.
    """
    records = {
        number: record
        for number, record in zip(
            numbers, read_records(tr, run_number, numbers), strict=True
        )
        if record is not None and not record.is_object
    }
    short, long = _sort_out(records, sample)
    spans = _spans(short)
    ranges = tail_ranges(run_number)
    ranges += [
        KeyRange(*keyspace.series_span(Subspace.CHUNK, run_number, first, last))
        for first, last in spans
    ]
    row_ranges = [
        covering_ranges(
            Subspace.CHUNK_SUMMARY,
            run_number,
            number,
            start=sample.start,
            stop=sample.stop,
        )
        for number in long
    ]
    ranges += [one for some in row_ranges for one in some]
    found = tr.get_ranges(ranges)
    tail = parse_tail(run_number, found[:1])
    result = _sample_short(found[1 : 1 + len(spans)], short, tail, sample)
    rest = iter(found[1 + len(spans) :])
    for number, some in zip(long, row_ranges, strict=True):
        rows = rows_of([pair for _ in some for pair in next(rest)])
        late = tail.series_points(number, is_object=False)
        late = late.between(sample.start, sample.stop)
        chosen = _sample_long(tr, run_number, number, rows, late, sample)
        result[number] = chosen.to_points()
    return {number: result[number] for number in records}


def pick(points: Columns, max_points: int) -> Columns:
    """Return at most `max_points`, spread evenly, first and last included."""
    if len(points) <= max_points:
        return points
    return points.take(even(len(points), max_points))


@lru_cache(maxsize=1024)
def even(count: int, wanted: int) -> Int64s:
    """Return at most `wanted` indices below `count`, spread evenly, ends included."""
    # By index, not by step: steps can be sparse, and a chart wants an even number of
    # points per pixel.
    if wanted <= 1:
        return np.zeros(1, np.int64)
    return np.unique(np.rint(np.linspace(0, count - 1, wanted)).astype(np.int64))


def _sort_out(
    records: Mapping[int, SeriesRecord], sample: Sample
) -> tuple[list[int], list[int]]:
    bound = max(WHOLE_POINTS, 4 * sample.max_points)
    short: list[int] = []
    long: list[int] = []
    for number, record in records.items():
        count = int.from_bytes(record.summary[:8], "little")
        (long if count > bound else short).append(number)
    return sorted(short), long


def _spans(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return runs of consecutive numbers as (first, last)."""
    spans: list[tuple[int, int]] = []
    for number in numbers:
        if spans and spans[-1][1] == number - 1:
            spans[-1] = (spans[-1][0], number)
        else:
            spans.append((number, number))
    return spans


def _sample_short(
    found: list[list[KeyValue]], numbers: Sequence[int], tail: Tail, sample: Sample
) -> dict[int, Points]:
    chunks: dict[int, list[Columns]] = {number: [] for number in numbers}
    for pairs in found:
        for number, key, value in join_chunks(pairs):
            chunks[number].append(decode_columns_of(value, key, is_object=False))
    result = {}
    tail_points = _tail_points(tail, numbers)
    for number, pieces in chunks.items():
        if (late := tail_points.get(number)) is not None and len(late):
            pieces.append(late)
        points = concat(pieces).last_wins() if len(pieces) > 1 else concat(pieces)
        points = points.between(sample.start, sample.stop)
        result[number] = pick(points, sample.max_points).to_points()
    return result


def _tail_points(tail: Tail, numbers: Sequence[int]) -> dict[int, Columns]:
    """Return the tail's points of the wanted series, perhaps of others too."""
    if not tail.blocks:
        return {}
    if len(numbers) <= FEW_SERIES:
        return {no: tail.series_points(no, is_object=False) for no in numbers}
    # One sort of the whole tail: looking a series up in every block costs more as
    # soon as there are several.
    columns = tail.columns(is_object=False)
    return dict(group(columns.series, columns.points).items())


def _sample_long(  # noqa: PLR0913, PLR0917 - one series of one sample
    tr: ReadTransaction,
    run_number: int,
    number: int,
    rows: Rows,
    late: Columns,
    sample: Sample,
) -> Columns:
    """Choose by index over the chunks' counts, then read the chunks chosen from."""
    if not len(rows):
        return pick(late, sample.max_points)
    behind = int(np.searchsorted(late.steps, rows["last_step"][-1], side="right"))
    ends = np.cumsum(np.append(rows["count"], len(late) - behind))
    wanted = even(int(ends[-1]), sample.max_points)
    owner = np.searchsorted(ends, wanted, side="right")
    local = wanted - np.append(0, ends)[owner]
    # With a range, the first chunk may end before it: the second then has the first
    # point.
    needed = np.unique(np.append(owner, [0, 1, len(rows) - 1]))
    needed = needed[needed < len(rows)]
    segments = _read_segments(
        tr, (run_number, number), rows, needed, late.take(slice(0, behind))
    )
    segments.append((len(rows), late.take(slice(behind, None))))
    filled = [
        (at, some)
        for at, some in (
            (at, points.between(sample.start, sample.stop)) for at, points in segments
        )
        if len(some)
    ]
    pieces = []
    for position, (at, points) in enumerate(filled):
        index = np.minimum(local[owner == at], len(points) - 1)
        if position == 0:
            index = np.append(index, 0)
        if position == len(filled) - 1:
            index = np.append(index, len(points) - 1)
        pieces.append(points.take(np.unique(index)))
    return pick(concat(pieces), sample.max_points)


def _read_segments(
    tr: ReadTransaction,
    series: tuple[int, int],
    rows: Rows,
    needed: Int64s,
    late: Columns,
) -> list[tuple[int, Columns]]:
    """Return the chunks at the places `needed`, late points laid over them."""
    firsts = rows["first_step"].tolist()
    found = tr.get_ranges(
        [
            KeyRange(
                *keyspace.chunk_range(
                    Subspace.CHUNK, *series, start=firsts[at], stop=firsts[at] + 1
                )
            )
            for at in needed.tolist()
        ]
    )
    segments = []
    for at, pairs in zip(needed.tolist(), found, strict=True):
        points = concat(
            [
                decode_columns_of(value, key, is_object=False)
                for _, key, value in join_chunks(pairs)
            ]
        )
        if len(late):
            begin = firsts[at] if at else None
            end = firsts[at + 1] if at + 1 < len(firsts) else None
            points = concat([points, late.between(begin, end)]).last_wins()
        segments.append((at, points))
    return segments

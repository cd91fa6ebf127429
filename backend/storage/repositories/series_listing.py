"""Series with their summaries, those of the points still in the tail included.

Where the tail only continues a series, its summary is that of the chunks merged with
that of the tail. Where it repeats or precedes stored steps (a resumed run, a late
writer), the chunks it meets are read and merged as a seal would, so that no point
counts twice; this costs such series, and only them, two more round trips, shared by
all.

Design note: docs/subsystems/storage.md#summaries
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from backend.domain.series import Int64s, Series, Summary
from backend.storage import keyspace
from backend.storage.codecs.series_records import SeriesRecord, decode_series_record
from backend.storage.codecs.summaries import (
    Rows,
    empty_rows,
    fold,
    merge_pairs,
    row_to_summary,
)
from backend.storage.engine.base import KeyRange, KeyValue, ReadTransaction
from backend.storage.keyspace import Subspace
from backend.storage.repositories.series_chunks import (
    decode_columns_of,
    join_chunks,
    rows_of,
)
from backend.storage.repositories.series_columns import (
    Columns,
    Grouped,
    concat,
    group,
    sizes_of,
    summarise_groups,
)
from backend.storage.repositories.series_merging import Merge, plan_merges, untouched
from backend.storage.repositories.series_tail import (
    Tail,
    TailColumns,
    parse_tail,
    tail_ranges,
)

Records = Mapping[int, SeriesRecord]
Summaries = dict[int, Summary | None]


@dataclass(slots=True)
class _Overlap:
    """A series whose tail meets its chunks."""

    run_number: int
    number: int
    points: Columns
    is_object: bool
    rows: Rows = field(default_factory=lambda: empty_rows(0))
    merges: list[Merge] = field(default_factory=list)


def list_many(
    tr: ReadTransaction, run_numbers: Sequence[int]
) -> dict[int, list[Series]]:
    """Return all series of each run, in order of number.

    One round trip, and two more for all series whose tail meets their chunks.

    Raises:
        FormatError: If a stored value is not intact.
    """
    ranges = []
    for run_number in run_numbers:
        ranges.append(KeyRange(*keyspace.run_range(Subspace.SERIES, run_number)))
        ranges.extend(tail_ranges(run_number))
    found = tr.get_ranges(ranges)
    records: dict[int, Records] = {}
    tails: dict[int, Tail] = {}
    for index, run_number in enumerate(run_numbers):
        records[run_number] = _parse_records(found[2 * index])
        tails[run_number] = parse_tail(run_number, found[2 * index + 1 : 2 * index + 2])
    return describe(tr, records, tails)


def describe(
    tr: ReadTransaction, records: Mapping[int, Records], tails: Mapping[int, Tail]
) -> dict[int, list[Series]]:
    """Return the series of `records`, by run, their summaries joined with the tails'.

    Raises:
        FormatError: If a stored value is not intact.
    """
    overlaps: list[_Overlap] = []
    summaries: dict[int, Summaries] = {}
    for run_number, of_run in records.items():
        summaries[run_number] = {n: record.sealed() for n, record in of_run.items()}
        tail = tails.get(run_number)
        if tail is not None and tail.blocks:
            for is_object in (False, True):
                overlaps += _add_tail(
                    summaries[run_number], of_run, tail, is_object=is_object
                )
    _resolve(tr, overlaps, summaries)
    return {
        run_number: [
            record.to_series(run_number, number, summaries[run_number][number])
            for number, record in of_run.items()
        ]
        for run_number, of_run in records.items()
    }


def _parse_records(pairs: list[KeyValue]) -> Records:
    return {
        keyspace.unpack_series(key)[1]: decode_series_record(value, key=key)
        for key, value in pairs
    }


def _add_tail(
    summaries: Summaries, records: Records, tail: Tail, *, is_object: bool
) -> list[_Overlap]:
    """Join the tail's summaries with the sealed ones; return what needs the chunks."""
    columns = tail.columns(is_object=is_object)
    if not len(columns):
        return []
    grouped = _unsealed(columns, records)
    if not len(grouped.numbers):
        return []
    new = summarise_groups(grouped.points, grouped.starts)
    sealed = np.concatenate([records[n].row() for n in grouped.numbers.tolist()])
    meets = (sealed["count"] > 0) & (new["first_step"] <= sealed["last_step"])
    joined = merge_pairs(sealed, new)
    overlaps = []
    ends = np.append(grouped.starts[1:], len(grouped.points))
    for index, number in enumerate(grouped.numbers.tolist()):
        if meets[index]:
            where = slice(int(grouped.starts[index]), int(ends[index]))
            points = grouped.points.take(where)
            overlaps.append(_Overlap(tail.run_number, number, points, is_object))
        else:
            summaries[number] = row_to_summary(joined[index], is_object=is_object)
    return overlaps


def _unsealed(columns: TailColumns, records: Records) -> Grouped:
    """Return the tail's points that are wanted and not in chunks already."""
    numbers = np.unique(columns.series)
    upto: Int64s = np.array(
        [
            records[number].sealed_upto if number in records else np.iinfo(np.int64).max
            for number in numbers.tolist()
        ]
    )
    keep: npt.NDArray[np.bool_] = (
        columns.tails >= upto[np.searchsorted(numbers, columns.series)]
    )
    if bool(keep.all()):
        return group(columns.series, columns.points)
    return group(columns.series[keep], columns.points.take(keep))


def _resolve(
    tr: ReadTransaction, overlaps: list[_Overlap], summaries: dict[int, Summaries]
) -> None:
    if not overlaps:
        return
    found = tr.get_ranges(
        [
            KeyRange(
                *keyspace.chunk_range(
                    Subspace.CHUNK_SUMMARY, overlap.run_number, overlap.number
                )
            )
            for overlap in overlaps
        ]
    )
    ranges: list[KeyRange] = []
    for overlap, pairs in zip(overlaps, found, strict=True):
        overlap.rows = rows_of(pairs)
        overlap.merges = plan_merges(
            overlap.rows, overlap.points.steps, is_object=overlap.is_object
        )
        ranges += [_chunk_range(overlap, merge) for merge in overlap.merges]
    chunks = iter(tr.get_ranges(ranges))
    for overlap in overlaps:
        summaries[overlap.run_number][overlap.number] = _merged(overlap, chunks)


def _chunk_range(overlap: _Overlap, merge: Merge) -> KeyRange:
    rows = overlap.rows
    if merge.first == merge.last:
        return KeyRange(b"", b"")
    stop = int(rows["first_step"][merge.last]) if merge.last < len(rows) else None
    return KeyRange(
        *keyspace.chunk_range(
            Subspace.CHUNK,
            overlap.run_number,
            overlap.number,
            start=int(rows["first_step"][merge.first]),
            stop=stop,
        )
    )


def _merged(overlap: _Overlap, found: Iterator[list[KeyValue]]) -> Summary | None:
    pieces = [untouched(overlap.rows, overlap.merges)]
    for merge in overlap.merges:
        old = [
            _without_payloads(
                decode_columns_of(value, key, is_object=overlap.is_object)
            )
            for _, key, value in join_chunks(next(found))
        ]
        new = overlap.points.take(slice(merge.start, merge.stop))
        pieces.append(concat([*old, new]).last_wins().summarise())
    return row_to_summary(fold(np.concatenate(pieces))[0], is_object=overlap.is_object)


def _without_payloads(points: Columns) -> Columns:
    if points.values.dtype != object:
        return points
    lengths = sizes_of(points.values)
    return Columns(points.steps, lengths, points.times_us, points.epochs)

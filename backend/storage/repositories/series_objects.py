"""At most n points of each of many object series of a run, in bounded pieces.

Objects are large, so nothing is read that is not sent, and no more than a few chunks
are in memory at a time. Small series are read whole, many in one transaction that reads
the tail once. Of a larger one only the chunks that hold a chosen point are read, each
in a transaction of its own; the choice is made on the counts in the chunk summaries.

Design note: docs/subsystems/storage.md#sampling
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from backend.domain.series import Int64s, ObjectPoints
from backend.storage.codecs.series_records import SeriesRecord
from backend.storage.codecs.summaries import Rows
from backend.storage.engine.base import Engine, KeyRange, ReadTransaction
from backend.storage.keyspace import Subspace, chunk_range
from backend.storage.repositories.series_chunks import (
    decode_columns_of,
    join_chunks,
    read_rows,
)
from backend.storage.repositories.series_columns import Columns, concat
from backend.storage.repositories.series_dictionary import read_records
from backend.storage.repositories.series_sampling import Sample, even, pick
from backend.storage.repositories.series_tail import (
    parse_tail,
    read_tail,
    tail_ranges,
)

GROUP_SERIES: Final = 64
GROUP_BYTES: Final = 1024 * 1024
"""Series, and their sealed payload bytes, read whole in one transaction."""

ReadObjects = Callable[
    [ReadTransaction, int, int, int | None, int | None], ObjectPoints
]
"""Of (tr, run number, series number, start, stop), a window's points."""


@dataclass(frozen=True, slots=True)
class ObjectSample:
    """One sampling of a run's object series.

    Attributes:
        engine: Where they are.
        run_number: The run.
        sample: What is asked of each series.
        read_objects: Reads a window of one series.
    """

    engine: Engine
    run_number: int
    sample: Sample
    read_objects: ReadObjects

    def pieces(self, numbers: Sequence[int]) -> Iterator[tuple[int, ObjectPoints]]:
        """Yield (series number, points): each series' non-empty pieces, ascending.

        Series come in the order of `numbers`; what is no object series is left out.

        Raises:
            FormatError: If a stored value is not intact.
        """
        start, stop = self.sample.start, self.sample.stop
        if start is not None and stop is not None and stop <= start:
            return
        records = self.engine.read(
            lambda tr: dict(
                zip(numbers, read_records(tr, self.run_number, numbers), strict=True)
            )
        )
        for group in _groups(records):
            if _sealed_bytes(records[group[0]]) > GROUP_BYTES:
                yield from self._large(group[0])
            else:
                yield from self._small(group)

    # --- series read whole -----------------------------------------------------------

    def _small(self, numbers: Sequence[int]) -> Iterator[tuple[int, ObjectPoints]]:
        found = self.engine.read(lambda tr: self._read_small(tr, numbers))
        for number in numbers:
            if len(found[number]):
                yield number, found[number].to_object_points()

    def _read_small(
        self, tr: ReadTransaction, numbers: Sequence[int]
    ) -> dict[int, Columns]:
        ranges = tail_ranges(self.run_number, payloads=True)
        tails = len(ranges)
        ranges += [
            KeyRange(*chunk_range(Subspace.CHUNK, self.run_number, number))
            for number in numbers
        ]
        found = tr.get_ranges(ranges)
        tail = parse_tail(self.run_number, found[:tails])
        result = {}
        for number, pairs in zip(numbers, found[tails:], strict=True):
            pieces = [
                decode_columns_of(value, key, is_object=True)
                for _, key, value in join_chunks(pairs)
            ]
            pieces.append(tail.series_points(number, is_object=True))
            points = concat(pieces, is_object=True).last_wins()
            points = points.between(self.sample.start, self.sample.stop)
            result[number] = pick(points, self.sample.max_points)
        return result

    # --- series read by chunks -------------------------------------------------------

    def _large(self, number: int) -> Iterator[tuple[int, ObjectPoints]]:
        starts, counts = self.engine.read(lambda tr: self._windows(tr, number))
        if not len(counts):
            return
        if int(counts.sum()) <= self.sample.max_points:
            yield from self._whole(number, starts)
            return
        ends = np.cumsum(counts)
        wanted = even(int(ends[-1]), self.sample.max_points)
        owner = np.searchsorted(ends, wanted, side="right")
        local = wanted - np.append(0, ends)[owner]
        for at in np.unique(owner).tolist():
            points = self._read_window(number, starts, at)
            if not len(points):
                continue  # deleted meanwhile
            index = np.minimum(local[owner == at], len(points) - 1)
            if at == len(counts) - 1 and len(wanted) > 1:
                # Late points may have made the last window longer than was counted.
                index[-1] = len(points) - 1
            yield number, _take(points, np.unique(index))

    def _whole(
        self, number: int, starts: Sequence[int | None]
    ) -> Iterator[tuple[int, ObjectPoints]]:
        for at in range(len(starts) - 1):
            points = self._read_window(number, starts, at)
            if len(points):
                yield number, points

    def _read_window(
        self, number: int, starts: Sequence[int | None], at: int
    ) -> ObjectPoints:
        start, stop = starts[at], starts[at + 1]
        return self.engine.read(
            lambda tr: self.read_objects(tr, self.run_number, number, start, stop)
        )

    def _windows(
        self, tr: ReadTransaction, number: int
    ) -> tuple[list[int | None], Int64s]:
        """Return where windows of about a chunk begin and end, and their counts.

        The first and the last window may hold less than their chunk, and are counted
        by reading them; points that came late to the others are not counted.
        """
        start, stop = self.sample.start, self.sample.stop
        rows = read_rows(tr, self.run_number, number, start=start, stop=stop)
        starts: list[int | None] = [start, *rows["first_step"][1:].tolist(), stop]
        counts = rows["count"].astype(np.int64) if len(rows) else np.zeros(1, np.int64)
        if _is_cut(rows, start, stop):
            edges = {0, len(counts) - 1}
            for at in edges:
                counts[at] = len(
                    self.read_objects(
                        tr, self.run_number, number, starts[at], starts[at + 1]
                    )
                )
        else:
            tail = read_tail(tr, self.run_number)
            late = tail.series_points(number, is_object=True).between(start, stop)
            counts[-1] += int((late.steps > rows["last_step"][-1]).sum())
        return starts, counts if counts.sum() else np.empty(0, np.int64)


def _is_cut(rows: Rows, start: int | None, stop: int | None) -> bool:
    """Return whether the range may cut through the first or the last chunk."""
    return (
        not len(rows)
        or (start is not None and int(rows["first_step"][0]) < start)
        or (stop is not None and int(rows["last_step"][-1]) >= stop)
    )


def _take(points: ObjectPoints, index: Int64s) -> ObjectPoints:
    return ObjectPoints(
        points.steps[index],
        points.times_us[index],
        points.epochs[index],
        [points.payloads[at] for at in index.tolist()],
    )


def _sealed_bytes(record: SeriesRecord | None) -> int:
    if record is None or not record.is_object:
        return 0
    total = float(record.row()["sum"][0])  # of objects: their payloads' bytes
    return 0 if np.isnan(total) else int(total)


def _groups(records: Mapping[int, SeriesRecord | None]) -> Iterator[list[int]]:
    """Yield the object series in groups to be read together; large ones alone."""
    group: list[int] = []
    size = 0
    for number, record in records.items():
        if record is None or not record.is_object:
            continue
        more = _sealed_bytes(record)
        if group and (size + more > GROUP_BYTES or len(group) == GROUP_SERIES):
            yield group
            group, size = [], 0
        group.append(number)
        size += more
    if group:
        yield group

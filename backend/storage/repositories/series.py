"""Series repository: append points to a run's series, read, sample, list and seal them.

Keys:   see the modules it joins: `series_dictionary` (names and records), `series_tail`
        (what is not sealed yet), `series_chunks` (what is).
Reads:  see the tail and the chunks at one version: an applied point is readable at
once,
        and each step of a series has one point, the last written.

Every method takes the transaction first and opens none, except `iter_points`,
`iter_objects`, `sample_objects` and `seal`, which take the engine because they need
several.

Design note: docs/subsystems/storage.md#series
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

from backend.domain.series import Int64s, ObjectPoints, Points, Series
from backend.storage.codecs.run_states import RunState
from backend.storage.codecs.series_records import SeriesRecord
from backend.storage.codecs.summaries import Rows
from backend.storage.engine.base import Engine, KeyRange, ReadTransaction, Transaction
from backend.storage.keyspace import Subspace, chunk_range
from backend.storage.repositories.run_state import get_run_state, seal_is_due
from backend.storage.repositories.series_chunks import (
    covering_ranges,
    decode_columns_of,
    join_chunks,
    read_rows,
    rows_of,
)
from backend.storage.repositories.series_columns import Columns, concat
from backend.storage.repositories.series_dictionary import (
    create_series,
    find_numbers,
    read_names,
    read_records,
)
from backend.storage.repositories.series_listing import describe, list_many
from backend.storage.repositories.series_memory import Numbers, SeriesMemory
from backend.storage.repositories.series_objects import ObjectSample
from backend.storage.repositories.series_sampling import Sample, sample_many
from backend.storage.repositories.series_sealing import seal_run
from backend.storage.repositories.series_tail import (
    append_block,
    parse_tail,
    read_tail,
    tail_ranges,
)
from matyan_wire.batch import SeriesRef

METRIC_CHUNKS_PER_READ: Final = 32
OBJECT_CHUNKS_PER_READ: Final = 4

LOOK_UPS_AT_ONCE: Final = 2_048
MAX_LOOK_UPS: Final = 8 * LOOK_UPS_AT_ONCE
"""Series looked up by one transaction: FoundationDB answers about 13,000 a second on
two busy cores (measured), and a transaction has five seconds."""

SeriesList = list[Series]
Refs = list[SeriesRef]


class SeriesRepository:
    """Series and their points. Any thread may use it.

    Attributes:
        memory: What this process knows of the runs it writes.
    """

    def __init__(self) -> None:
        self.memory = SeriesMemory()

    # --- listing ---------------------------------------------------------------------

    def list(
        self,
        tr: ReadTransaction,
        run_number: int,
        *,
        kinds: Collection[str] | None = None,
    ) -> SeriesList:
        """Return the run's series in order of first appearance.

        Summaries include the tail. Empty for a run that does not exist.

        Raises:
            FormatError: If a stored value is not intact.
        """
        return self.list_many(tr, [run_number], kinds=kinds)[run_number]

    def list_many(
        self,
        tr: ReadTransaction,
        run_numbers: Sequence[int],
        *,
        kinds: Collection[str] | None = None,
    ) -> dict[int, SeriesList]:
        """Return the series of each run, in one round trip (three with late points).

        Raises:
            FormatError: If a stored value is not intact.
        """
        listed = list_many(tr, run_numbers)
        if kinds is None:
            return listed
        return {
            number: [series for series in found if series.kind in kinds]
            for number, found in listed.items()
        }

    def find(
        self,
        tr: ReadTransaction,
        run_number: int,
        *,
        kind: str,
        name: str,
        context_text: str = "{}",
    ) -> Series | None:
        """Return one series of the run, or None.

        Raises:
            FormatError: If a stored value is not intact.
        """
        ref = SeriesRef(kind, name, context_text)
        return self.find_many(tr, run_number, [ref]).get(ref)

    def find_many(
        self, tr: ReadTransaction, run_number: int, refs: Sequence[SeriesRef]
    ) -> dict[SeriesRef, Series]:
        """Return those of `refs` that the run has, in three round trips.

        Raises:
            FormatError: If a stored value is not intact.
        """
        numbers = find_numbers(tr, run_number, refs)
        records = self._records(tr, run_number, numbers.values())
        tail = read_tail(tr, run_number)
        described = describe(tr, {run_number: records}, {run_number: tail})
        by_number = {series.number: series for series in described[run_number]}
        return {
            ref: by_number[number]
            for ref, number in numbers.items()
            if number in by_number
        }

    def names(self, tr: ReadTransaction) -> Refs:
        """Return every (kind, name, context) the project has used, sorted.

        Names of deleted runs stay.
        """
        return read_names(tr)

    # --- points ----------------------------------------------------------------------

    def read_points(
        self,
        tr: ReadTransaction,
        run_number: int,
        series_number: int,
        *,
        start: int | None = None,
        stop: int | None = None,
    ) -> Points:
        """Return a metric's points with start <= step < stop, all in memory.

        For series of unknown length use `iter_points` or `sample_points`.

        Raises:
            FormatError: If a stored value is not intact.
        """
        found = _read(tr, run_number, series_number, start, stop, is_object=False)
        return found.to_points()

    def read_objects(
        self,
        tr: ReadTransaction,
        run_number: int,
        series_number: int,
        *,
        start: int | None = None,
        stop: int | None = None,
    ) -> ObjectPoints:
        """Return an object series' points with start <= step < stop, all in memory.

        Raises:
            FormatError: If a stored value is not intact.
        """
        found = _read(tr, run_number, series_number, start, stop, is_object=True)
        return found.to_object_points()

    def sample_points(  # noqa: PLR0913 - a range is two
        self,
        tr: ReadTransaction,
        run_number: int,
        series_numbers: Sequence[int],
        *,
        max_points: int,
        start: int | None = None,
        stop: int | None = None,
    ) -> dict[int, Points]:
        """Return at most `max_points` of each metric, evenly spread by index.

        The first and the last point of the range are included (for max_points >= 2).
        Numbers that are no metric of the run are left out. Three round trips, and one
        more for each series of more than 8,192 points.

        Raises:
            FormatError: If a stored value is not intact.
        """
        sample = Sample(max(1, max_points), start, stop)
        return sample_many(tr, run_number, series_numbers, sample)

    def summaries(
        self,
        tr: ReadTransaction,
        run_number: int,
        series_number: int,
        *,
        start: int | None = None,
        stop: int | None = None,
    ) -> Rows:
        """Return the sealed chunks' summaries as rows of `codecs.summaries.SUMMARY`.

        Those that may hold steps in [start, stop): the first may begin before `start`.
        The tail is not in them.

        Raises:
            FormatError: If a stored value is not intact.
        """
        return read_rows(tr, run_number, series_number, start=start, stop=stop)

    def iter_points(
        self,
        engine: Engine,
        run_number: int,
        series_number: int,
        *,
        start: int | None = None,
        stop: int | None = None,
    ) -> Iterator[Points]:
        """Yield a metric's points in batches of about 65,000, ascending.

        Each batch is a transaction of its own: points written meanwhile may appear in
        later batches, and every step that stood at the beginning is yielded once.

        Raises:
            FormatError: If a stored value is not intact.
        """
        windows = _windows(
            engine, run_number, series_number, start, stop, METRIC_CHUNKS_PER_READ
        )
        for begin, end in windows:

            def read(
                tr: ReadTransaction, start: int | None = begin, stop: int | None = end
            ) -> Points:
                return self.read_points(
                    tr, run_number, series_number, start=start, stop=stop
                )

            points = engine.read(read)
            if len(points):
                yield points

    def iter_objects(
        self,
        engine: Engine,
        run_number: int,
        series_number: int,
        *,
        start: int | None = None,
        stop: int | None = None,
    ) -> Iterator[ObjectPoints]:
        """Yield an object series' points in batches of about 1 MB, ascending.

        Raises:
            FormatError: If a stored value is not intact.
        """
        windows = _windows(
            engine, run_number, series_number, start, stop, OBJECT_CHUNKS_PER_READ
        )
        for begin, end in windows:

            def read(
                tr: ReadTransaction, start: int | None = begin, stop: int | None = end
            ) -> ObjectPoints:
                return self.read_objects(
                    tr, run_number, series_number, start=start, stop=stop
                )

            points = engine.read(read)
            if len(points):
                yield points

    def sample_objects(  # noqa: PLR0913 - a range is two
        self,
        engine: Engine,
        run_number: int,
        series_numbers: Sequence[int],
        *,
        max_points: int,
        start: int | None = None,
        stop: int | None = None,
    ) -> Iterator[tuple[int, ObjectPoints]]:
        """Yield (series number, points): at most `max_points` of each object series.

        Evenly spread by index; the first and the last point of the range are included
        (for max_points >= 2). The points of a series come in one or several pieces,
        each of about a chunk or, of small series, less than 1 MB; a series without
        points is not mentioned. Reads begin with the first `next`.

        Raises:
            FormatError: If a stored value is not intact.
        """
        sampling = ObjectSample(
            engine,
            run_number,
            Sample(max(1, max_points), start, stop),
            lambda tr, run, number, begin, end: self.read_objects(
                tr, run, number, start=begin, stop=end
            ),
        )
        return sampling.pieces(series_numbers)

    # --- writing ---------------------------------------------------------------------

    def resolve(
        self,
        tr: Transaction,
        run_number: int,
        state: RunState,
        refs: Sequence[SeriesRef],
        *,
        limit: int,
    ) -> Numbers:
        """Return the number of each ref, creating the series the run has not.

        One round trip, none when all are known to this process. `state` moves on; the
        caller stores it, and gives the result to `memory` once the transaction has
        committed. At most `limit` series are created and `MAX_LOOK_UPS` looked up:
        refs beyond either are left out.
        """
        known = self.memory.numbers((run_number, state.incarnation))
        numbers = {ref: known[ref] for ref in refs if ref in known}
        unknown = [ref for ref in dict.fromkeys(refs) if ref not in numbers]
        new: list[SeriesRef] = []
        for start in range(0, min(len(unknown), MAX_LOOK_UPS), LOOK_UPS_AT_ONCE):
            asked = unknown[start : start + LOOK_UPS_AT_ONCE]
            found = find_numbers(tr, run_number, asked)
            numbers |= found
            new += [ref for ref in asked if ref not in found]
            if len(new) >= limit:
                break
        if new:
            numbers |= create_series(tr, run_number, state, new[:limit])
        return numbers

    def append_batch(
        self,
        tr: Transaction,
        run_number: int,
        state: RunState,
        series: Int64s,
        points: Columns,
    ) -> None:
        """Store points of several series as one tail block; `state` moves on.

        Args:
            tr: The transaction.
            run_number: The run.
            state: The run's state, which the caller stores.
            series: Series number of each point.
            points: The points, in log order: metrics, or objects, not both; at most
                `series_tail.MAX_BLOCK_POINTS`.
        """
        append_block(tr, run_number, state, series, points)

    def last_steps(
        self, tr: ReadTransaction, run_number: int, numbers: Sequence[int]
    ) -> dict[int, int]:
        """Return the greatest step of each series that has points, in two round trips.

        Raises:
            FormatError: If a stored value is not intact.
        """
        records = self._records(tr, run_number, numbers)
        found = read_tail(tr, run_number).last_steps(records)
        for number, record in records.items():
            sealed = record.sealed()
            if sealed is not None:
                found[number] = max(
                    found.get(number, sealed.last_step), sealed.last_step
                )
        return found

    def seal_is_due(self, tr: ReadTransaction, run_number: int) -> bool:
        """Return whether the run's tail has grown enough to be worth sealing."""
        return seal_is_due(get_run_state(tr, run_number, snapshot=True))

    def seal(self, engine: Engine, run_number: int, *, final: bool = False) -> int:
        """Move the run's tail into chunks; return the number of points moved.

        Several transactions of about 1 MB. May be called at any time by anyone, and
        again after a failure. With `final`, small chunks at the end of each series are
        merged, as is worth it when a run has finished.

        Raises:
            StoreError: If the store fails; what has been sealed stays sealed.
            FormatError: If a stored value is not intact.
        """
        return seal_run(engine, run_number, compact=final)

    def _records(
        self, tr: ReadTransaction, run_number: int, numbers: Iterable[int]
    ) -> dict[int, SeriesRecord]:
        wanted = sorted(numbers)
        found = read_records(tr, run_number, wanted)
        return {
            number: record
            for number, record in zip(wanted, found, strict=True)
            if record is not None
        }


def _read(  # noqa: PLR0913 - one series, one range
    tr: ReadTransaction,
    run_number: int,
    series_number: int,
    start: int | None,
    stop: int | None,
    *,
    is_object: bool,
) -> Columns:
    """Return the points of one series in two round trips (one without `start`)."""
    ranges = tail_ranges(run_number, payloads=is_object)
    first = None
    if start is not None:
        floor = covering_ranges(
            Subspace.CHUNK_SUMMARY, run_number, series_number, start=start, stop=None
        )[0]
        *tail_pairs, below = tr.get_ranges([*ranges, floor])
        first = int(rows_of(below)[0]["first_step"]) if below else None
        (pairs,) = tr.get_ranges([_chunks(run_number, series_number, first, stop)])
    else:
        *tail_pairs, pairs = tr.get_ranges(
            [*ranges, _chunks(run_number, series_number, first, stop)]
        )
    pieces = [
        decode_columns_of(value, key, is_object=is_object)
        for _, key, value in join_chunks(pairs)
    ]
    tail = parse_tail(run_number, tail_pairs)
    late = tail.series_points(series_number, is_object=is_object)
    if len(late):
        pieces.append(late)
    points = concat(pieces, is_object=is_object)
    if len(late):
        points = points.last_wins()
    return points.between(start, stop)


def _chunks(
    run_number: int, series_number: int, first: int | None, stop: int | None
) -> KeyRange:
    return KeyRange(
        *chunk_range(Subspace.CHUNK, run_number, series_number, start=first, stop=stop)
    )


def _windows(  # noqa: PLR0913, PLR0917 - one series, one range
    engine: Engine,
    run_number: int,
    series_number: int,
    start: int | None,
    stop: int | None,
    chunks: int,
) -> Iterator[tuple[int | None, int | None]]:
    """Yield step ranges that partition [start, stop), each of about `chunks` chunks."""
    begin = start
    while True:

        def find_end(tr: ReadTransaction, begin: int | None = begin) -> int | None:
            return _window_end(tr, run_number, series_number, begin, chunks)

        end = engine.read(find_end)
        if end is None or (stop is not None and end >= stop):
            yield begin, stop
            return
        yield begin, end
        begin = end


def _window_end(
    tr: ReadTransaction,
    run_number: int,
    series_number: int,
    begin: int | None,
    chunks: int,
) -> int | None:
    """Return the first step of the chunk after the next `chunks` ones, None if none."""
    above = chunk_range(
        Subspace.CHUNK_SUMMARY,
        run_number,
        series_number,
        start=None if begin is None else begin + 1,
    )
    pairs = tr.get_range(*above, limit=chunks + 1)
    rows = rows_of(pairs)
    return int(rows[chunks]["first_step"]) if len(rows) > chunks else None

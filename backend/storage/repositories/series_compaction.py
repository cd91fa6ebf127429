"""Compaction: neighbouring small chunks of a series become few full ones.

Sealing leaves small chunks where points came slowly, or late. In a run that nobody
writes to any more they can be merged once and for all. What is read does not change,
nor does the summary in the series' record.

Safe beside readers, appends and seals: each merge is one transaction that reads the
chunks it replaces. May stop anywhere, and finds less to do the next time.

Design note: docs/subsystems/maintenance.md#compact_chunks
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from backend.storage import keyspace
from backend.storage.codecs import chunks, objects
from backend.storage.codecs.summaries import Rows, encode_summaries
from backend.storage.engine.base import Engine, KeyValue, ReadTransaction, Transaction
from backend.storage.keyspace import Subspace
from backend.storage.repositories.series_chunks import (
    clear_chunk,
    decode_columns_of,
    encode_columns_of,
    join_chunks,
    put_chunk,
    rows_of,
)
from backend.storage.repositories.series_columns import concat
from backend.storage.repositories.series_dictionary import read_records
from backend.storage.repositories.series_merging import cut

ROWS_PER_READ: Final = 2_000
MAX_GROUP: Final = 16
MAX_POINTS: Final = 65_536
MAX_BYTES: Final = 1024 * 1024
_NEARLY_FULL: Final = 0.75


@dataclass(slots=True)
class Compacted:
    """What a compaction did.

    Attributes:
        groups: Groups of neighbouring chunks merged.
        before: Chunks there were in them.
        after: Chunks they are now; an estimate where nothing is written.
    """

    groups: int = 0
    before: int = 0
    after: int = 0


@dataclass(frozen=True, slots=True)
class _Group:
    """Neighbouring small chunks of one series, by their first steps, ascending."""

    series_no: int
    is_object: bool
    first_steps: tuple[int, ...]
    points: int
    bytes: int


def compact_run(
    engine: Engine,
    run_number: int,
    *,
    dry_run: bool = False,
    between: Callable[[], None] = lambda: None,
) -> Compacted:
    """Merge what small chunks a run has; return what was done.

    Args:
        engine: The store's engine.
        run_number: The run; one that is not written to.
        dry_run: Only count.
        between: Called between transactions; what it raises ends the work there.

    Raises:
        StoreError: If the store fails; what is merged stays merged.
        FormatError: If a chunk is not intact.
    """
    done = Compacted()
    for groups in _iter_groups(engine, run_number):
        for some in _portions(groups):
            between()
            if dry_run:
                for group in some:
                    _count(done, group, after=_chunks_needed(group))
                continue

            def merge(tr: Transaction, some: Sequence[_Group] = some) -> list[int]:
                return [_merge(tr, run_number, group) for group in some]

            for group, after in zip(some, engine.transact(merge), strict=True):
                if after:
                    _count(done, group, after=after)
    return done


def _count(done: Compacted, group: _Group, *, after: int) -> None:
    done.groups += 1
    done.before += len(group.first_steps)
    done.after += after


def _iter_groups(engine: Engine, run_number: int) -> Iterator[list[_Group]]:
    """Yield what can be merged, for some series at a time."""
    begin, end = keyspace.run_range(Subspace.CHUNK_SUMMARY, run_number)
    while True:

        def read(
            tr: ReadTransaction, begin: bytes = begin
        ) -> tuple[bytes | None, list[_Group]]:
            pairs = tr.get_range(begin, end, limit=ROWS_PER_READ, snapshot=True)
            pairs, following = _whole_series(pairs)
            return following, _groups_in(tr, run_number, pairs)

        following, groups = engine.read(read)
        if groups:
            yield groups
        if following is None:
            return
        begin = following


def _whole_series(pairs: list[KeyValue]) -> tuple[list[KeyValue], bytes | None]:
    """Return the rows of series that are complete, and the key to go on from."""
    if len(pairs) < ROWS_PER_READ:
        return pairs, None
    last = _series_of(pairs[-1][0])
    whole = [pair for pair in pairs if _series_of(pair[0]) != last]
    if whole:
        return whole, pairs[len(whole)][0]
    return pairs, pairs[-1][0] + b"\x00"


def _series_of(key: bytes) -> int:
    return keyspace.unpack_chunk_summary(key)[1]


def _groups_in(
    tr: ReadTransaction, run_number: int, pairs: list[KeyValue]
) -> list[_Group]:
    by_series = {
        number: rows_of(list(rows))
        for number, rows in groupby(pairs, key=lambda pair: _series_of(pair[0]))
    }
    wanted = [number for number, rows in by_series.items() if len(rows) > 1]
    records = read_records(tr, run_number, wanted)
    return [
        group
        for number, record in zip(wanted, records, strict=True)
        if record is not None
        for group in _groups_of(number, by_series[number], is_object=record.is_object)
    ]


def _groups_of(number: int, rows: Rows, *, is_object: bool) -> Iterator[_Group]:
    counts, steps = rows["count"].tolist(), rows["first_step"].tolist()
    # Of objects the sum is that of their payloads' bytes.
    sizes = rows["sum"].tolist() if is_object else [16 * count for count in counts]
    start = 0
    for stop in range(1, len(rows) + 1):
        ended = (
            stop == len(rows)
            or not _is_small(counts[stop], sizes[stop], is_object=is_object)
            or stop - start >= MAX_GROUP
            or sum(sizes[start : stop + 1]) > MAX_BYTES
        )
        if not ended:
            continue
        group = _Group(
            number,
            is_object,
            tuple(steps[start:stop]),
            sum(counts[start:stop]),
            round(sum(sizes[start:stop])),
        )
        first_small = _is_small(counts[start], sizes[start], is_object=is_object)
        if first_small and _chunks_needed(group) < stop - start:
            yield group
        start = stop


def _is_small(count: int, size: float, *, is_object: bool) -> bool:
    if is_object:
        return (
            count <= _NEARLY_FULL * objects.TARGET_POINTS
            and size <= _NEARLY_FULL * objects.TARGET_BYTES
        )
    return count <= _NEARLY_FULL * chunks.TARGET_POINTS


def _chunks_needed(group: _Group) -> int:
    if not group.is_object:
        return -(-group.points // chunks.TARGET_POINTS)
    return max(
        -(-group.points // objects.TARGET_POINTS),
        -(-group.bytes // objects.TARGET_BYTES),
    )


def _portions(groups: list[_Group]) -> Iterator[list[_Group]]:
    """Yield the groups in lists that each make up one transaction."""
    portion: list[_Group] = []
    for group in groups:
        portion.append(group)
        if (
            sum(g.points for g in portion) >= MAX_POINTS
            or sum(g.bytes for g in portion) >= MAX_BYTES
        ):
            yield portion
            portion = []
    if portion:
        yield portion


def _merge(tr: Transaction, run_number: int, group: _Group) -> int:
    """Merge a group; return how many chunks it is now, 0 if it has changed since."""
    first, last = group.first_steps[0], group.first_steps[-1]
    summaries = tr.get_range(
        *keyspace.chunk_range(
            Subspace.CHUNK_SUMMARY,
            run_number,
            group.series_no,
            start=first,
            stop=last + 1,
        )
    )
    steps = tuple(rows_of(summaries)["first_step"].tolist()) if summaries else ()
    if steps != group.first_steps or tr.get(keyspace.pack_run(run_number)) is None:
        return 0
    stored = tr.get_range(
        *keyspace.chunk_range(
            Subspace.CHUNK, run_number, group.series_no, start=first, stop=last + 1
        )
    )
    points = concat(
        [
            decode_columns_of(value, key, is_object=group.is_object)
            for _, key, value in join_chunks(stored)
        ]
    )
    for step in steps:
        clear_chunk(tr, run_number, group.series_no, step)
    written = 0
    for chunk in cut(points, is_append=True):
        step = int(chunk.steps[0])
        value = encode_columns_of(chunk, is_object=group.is_object)
        put_chunk(tr, run_number, group.series_no, step, value)
        (summary,) = encode_summaries(chunk.summarise())
        tr.set(keyspace.pack_chunk_summary(run_number, group.series_no, step), summary)
        written += 1
    return written

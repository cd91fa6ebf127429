"""Sealing: a run's tail blocks become chunks of its series.

A seal takes the blocks that exist when it begins, merges them (the last write of each
step counts), and writes the result series by series in transactions of about 1 MB. It
may stop anywhere and be begun again, by anyone:

- The blocks stay until the last transaction, which removes them only after every series
  in them is in chunks. Until then a reader that lays the blocks over the chunks sees
  each point once, whatever part has been sealed: the blocks are the newest suffix of
  the log, so for each step they hold the value that the chunks hold or a newer one.
- The first transaction of a seal notes up to which block it goes; each transaction of
  another from an older view finds that and writes nothing, so an older value cannot
  replace a newer one of a series half sealed. A series' record says up to which block
  all of it is sealed, so that what is done is not done again.
- All writes of a transaction follow from what it read in the same transaction.
- Appends never touch the keys sealing reads, apart from the last transaction, which is
  tiny. Deleting a run clears its record first, which every transaction here reads.

Design note: docs/subsystems/storage.md#sealing
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from backend.storage import keyspace
from backend.storage.codecs.series_records import SeriesRecord
from backend.storage.codecs.summaries import (
    Rows,
    encode_summaries,
    fold,
    merge_pairs,
)
from backend.storage.engine.base import Engine, KeyRange, ReadTransaction, Transaction
from backend.storage.keyspace import Subspace
from backend.storage.repositories.run_state import (
    get_run_state,
    get_sealing_upto,
    put_run_state,
    put_sealing_upto,
)
from backend.storage.repositories.series_chunks import (
    clear_chunk,
    decode_columns_of,
    encode_columns_of,
    join_chunks,
    put_chunk,
    rows_of,
)
from backend.storage.repositories.series_columns import (
    Columns,
    concat,
    group,
    sizes_of,
    summarise_groups,
)
from backend.storage.repositories.series_dictionary import put_record, read_records
from backend.storage.repositories.series_merging import (
    MAX_MERGE_BYTES,
    TRAILING_ROWS,
    Merge,
    cut,
    plan_merges,
    untouched,
)
from backend.storage.repositories.series_tail import Tail, clear_tail, read_tail

MAX_BYTES: Final = 1024 * 1024
"""What a transaction writes before it stops and the next goes on."""

MAX_SERIES: Final = 512
MAX_POINTS: Final = 65_536
MAX_CHUNKS_READ: Final = 128
MAX_BYTES_READ: Final = 8 * 1024 * 1024
"""Of chunks of objects, as their summaries tell; one merge's are read in any case."""


@dataclass(slots=True)
class _Work:
    """One series' new points, ascending, of which `done` are sealed."""

    number: int
    points: Columns
    is_object: bool
    done: int = 0

    def rest(self, limit: int) -> Columns:
        return self.points.take(slice(self.done, self.done + limit))


@dataclass(slots=True)
class _Plan:
    """One series' share of one transaction."""

    work: _Work
    record: SeriesRecord
    points: Columns
    rows: Rows
    is_append: bool
    merges: list[Merge] = field(default_factory=list)
    old: list[list[Columns]] = field(default_factory=list)
    taken: int = 0


@dataclass(slots=True)
class _Output:
    """Chunks to be written, collected so that their summaries are made at once."""

    keys: list[tuple[int, int]] = field(default_factory=list)
    chunks: list[Columns] = field(default_factory=list)
    written: int = 0


def seal_run(engine: Engine, run_number: int, *, compact: bool = False) -> int:
    """Seal what is in the run's tail now; return the number of points sealed.

    0 also where another seal, begun later, has the same blocks in hand.

    Idempotent, resumable, and safe beside appends, readers and other seals of the run.

    Args:
        engine: The store's engine.
        run_number: The run.
        compact: Whether to merge small trailing chunks, as when a run finishes.

    Raises:
        StoreError: If the store fails; what has been sealed stays sealed.
        FormatError: If a stored value is not intact.
    """
    tail = engine.read(lambda tr: _read_whole_tail(tr, run_number))
    if not tail.blocks:
        return 0
    upto = max(tail.blocks) + 1
    for is_object in (False, True):
        columns = tail.columns(is_object=is_object)
        if not len(columns):
            continue
        queue = [
            _Work(number, points, is_object)
            for number, points in group(columns.series, columns.points).items()
        ]
        if not _seal_queue(engine, run_number, queue, upto=upto, compact=compact):
            return 0
    sizes = {tail_no: len(block.steps) for tail_no, block in tail.blocks.items()}
    engine.transact(lambda tr: _finish(tr, run_number, sizes))
    return sum(sizes.values())


def _read_whole_tail(tr: ReadTransaction, run_number: int) -> Tail:
    return read_tail(tr, run_number, payloads=True)


def _seal_queue(
    engine: Engine, run_number: int, queue: list[_Work], *, upto: int, compact: bool
) -> bool:
    at = 0
    while at < len(queue):
        some = _portion(queue, at)

        def seal(tr: Transaction, some: list[_Work] = some) -> list[int] | None:
            return _seal_some(tr, run_number, some, upto=upto, compact=compact)

        done = engine.transact(seal)
        if done is None:
            return False
        # Progress is noted only here, after the commit: the function may run again.
        for work, count in zip(some, done, strict=True):
            work.done = count
        while at < len(queue) and queue[at].done >= len(queue[at].points):
            at += 1
    return True


def _portion(queue: list[_Work], at: int) -> list[_Work]:
    points, stop = 0, at
    while stop < len(queue) and stop - at < MAX_SERIES and points < MAX_POINTS:
        points += len(queue[stop].points) - queue[stop].done
        stop += 1
    return queue[at:stop]


def _seal_some(
    tr: Transaction, run_number: int, some: list[_Work], *, upto: int, compact: bool
) -> list[int] | None:
    """Seal as much of `some` as fits; return how many points of each are now done.

    None if the run is gone, or a seal begun later has taken over.
    """
    if tr.get(keyspace.pack_run(run_number)) is None:
        return None
    newest = get_sealing_upto(tr, run_number)
    if newest > upto:
        return None
    if newest < upto:
        put_sealing_upto(tr, run_number, upto)
    plans = _plan_all(tr, run_number, some, upto=upto, compact=compact)
    _read_old_chunks(tr, run_number, plans)
    output = _Output()
    for plan in plans:
        if output.written > MAX_BYTES:
            break
        _merge_one(tr, run_number, plan, output)
    _write_summaries(tr, run_number, plans, output, upto=upto)
    done = {plan.work.number: plan.work.done + plan.taken for plan in plans}
    # A series without a plan is sealed already: somebody else was faster.
    return [done.get(work.number, len(work.points)) for work in some]


def _plan_all(
    tr: Transaction, run_number: int, some: list[_Work], *, upto: int, compact: bool
) -> list[_Plan]:
    records = read_records(tr, run_number, [work.number for work in some])
    plans = []
    for work, record in zip(some, records, strict=True):
        if record is None or record.sealed_upto >= upto:
            continue
        points = work.rest(_point_limit(work))
        row = record.row()[0]
        is_append = not row["count"] or int(points.steps[0]) > int(row["last_step"])
        plans.append(_Plan(work, record, points, record.row()[:0], is_append))
    _read_rows(tr, run_number, plans)
    _choose_merges(plans, compact=compact)
    return plans


def _choose_merges(plans: list[_Plan], *, compact: bool) -> None:
    """Plan merges until enough is to be read: a series' first when it is its turn."""
    chunks, size = 0, 0
    for plan in plans:
        is_object = plan.work.is_object
        merges = plan_merges(
            plan.rows,
            plan.points.steps,
            is_object=is_object,
            compact=compact,
            sizes=sizes_of(plan.points.values) if is_object else None,
        )
        for merge in merges:
            count = merge.last - merge.first
            old = plan.rows["sum"][merge.first : merge.last].sum() if is_object else 0
            full = chunks + count > MAX_CHUNKS_READ or size + old > MAX_BYTES_READ
            if chunks and full:
                chunks = MAX_CHUNKS_READ + 1
                break
            chunks += count
            size += old
            plan.merges.append(merge)


def _point_limit(work: _Work) -> int:
    if not work.is_object:
        return MAX_POINTS // 2
    sizes = np.cumsum(sizes_of(work.points.values[work.done :]))
    return max(1, int(np.searchsorted(sizes, MAX_BYTES)))


def _read_rows(tr: Transaction, run_number: int, plans: list[_Plan]) -> None:
    known = [plan for plan in plans if plan.record.row()[0]["count"]]
    ranges = []
    for plan in known:
        begin, end = keyspace.chunk_range(
            Subspace.CHUNK_SUMMARY, run_number, plan.work.number
        )
        limit = TRAILING_ROWS if plan.is_append else 0
        ranges.append(KeyRange(begin, end, limit=limit, reverse=True))
    for plan, pairs in zip(known, tr.get_ranges(ranges), strict=True):
        plan.rows = rows_of(pairs[::-1])


def _read_old_chunks(tr: Transaction, run_number: int, plans: list[_Plan]) -> None:
    ranges = []
    for plan in plans:
        firsts = plan.rows["first_step"]
        for merge in plan.merges:
            if merge.first == merge.last:
                continue
            stop = int(firsts[merge.last]) if merge.last < len(firsts) else None
            ranges.append(
                KeyRange(
                    *keyspace.chunk_range(
                        Subspace.CHUNK,
                        run_number,
                        plan.work.number,
                        start=int(firsts[merge.first]),
                        stop=stop,
                    )
                )
            )
    found = iter(tr.get_ranges(ranges))
    for plan in plans:
        for merge in plan.merges:
            pairs = [] if merge.first == merge.last else next(found)
            plan.old.append(
                [
                    decode_columns_of(value, key, is_object=plan.work.is_object)
                    for _, key, value in join_chunks(pairs)
                ]
            )


def _merge_one(tr: Transaction, run_number: int, plan: _Plan, output: _Output) -> None:
    number = plan.work.number
    for merge, old in zip(plan.merges, plan.old, strict=True):
        if output.written > MAX_BYTES:
            return
        new = plan.points.take(slice(merge.start, merge.stop))
        merged = concat([*old, new]).last_wins() if old else new
        chunks = list(cut(merged, is_append=merge.last == len(plan.rows)))
        kept = _unchanged(chunks, old)
        written = [chunk for chunk in chunks if int(chunk.steps[0]) not in kept]
        most = sum(_most_bytes(chunk) for chunk in written)
        if output.written and output.written + most > MAX_MERGE_BYTES:
            return
        for first_step in plan.rows["first_step"][merge.first : merge.last].tolist():
            if first_step not in kept:
                clear_chunk(tr, run_number, number, first_step)
        for chunk in written:
            value = encode_columns_of(chunk, is_object=plan.work.is_object)
            put_chunk(tr, run_number, number, int(chunk.steps[0]), value)
            output.written += len(value) + 200
        output.keys += [(number, int(chunk.steps[0])) for chunk in chunks]
        output.chunks += chunks
        plan.taken = merge.stop


def _unchanged(chunks: list[Columns], old: list[Columns]) -> frozenset[int]:
    """Return the first steps of the chunks of objects that are in the store already.

    A late point beside an object of some megabytes must not write that again.
    """
    before = {int(chunk.steps[0]): chunk for chunk in old}
    return frozenset(
        first_step
        for chunk in chunks
        if (known := before.get(first_step := int(chunk.steps[0]))) is not None
        and chunk.values.dtype == object
        and _is_same(chunk, known)
    )


def _is_same(one: Columns, other: Columns) -> bool:
    return (
        np.array_equal(one.steps, other.steps)
        and np.array_equal(one.times_us, other.times_us)
        and np.array_equal(one.epochs, other.epochs, equal_nan=True)
        and one.values.tolist() == other.values.tolist()
    )


def _most_bytes(chunk: Columns) -> int:
    columns = 24 * len(chunk) + 200
    if chunk.values.dtype != object:
        return columns + 8 * len(chunk)
    return columns + int(sizes_of(chunk.values).sum())


def _write_summaries(
    tr: Transaction, run_number: int, plans: list[_Plan], output: _Output, *, upto: int
) -> None:
    if not output.chunks:
        return
    rows = _summarise(output.chunks)
    prefix = keyspace.run_prefix(Subspace.CHUNK_SUMMARY, run_number)
    for (number, first_step), value in zip(
        output.keys, encode_summaries(rows), strict=True
    ):
        key = prefix + keyspace.pack_int(number) + keyspace.pack_int(first_step)
        tr.set(key, value)
    _write_records(tr, run_number, plans, output, rows, upto=upto)


def _write_records(  # noqa: PLR0913 - one transaction's outcome
    tr: Transaction,
    run_number: int,
    plans: list[_Plan],
    output: _Output,
    rows: Rows,
    *,
    upto: int,
) -> None:
    taken = [plan for plan in plans if plan.taken]
    appended = [plan for plan in taken if plan.is_append]
    totals: dict[int, Rows] = {}
    if appended:
        # Nothing old is changed by an append: its summary joins the series' own.
        new = _summarise([plan.points.take(slice(0, plan.taken)) for plan in appended])
        sealed = np.concatenate([plan.record.row() for plan in appended])
        merged = merge_pairs(sealed, new)
        for index, plan in enumerate(appended):
            totals[plan.work.number] = merged[index : index + 1]
    numbers = np.array([number for number, _ in output.keys])
    for plan in taken:
        if not plan.is_append:
            done = [merge for merge in plan.merges if merge.stop <= plan.taken]
            kept = untouched(plan.rows, done)
            totals[plan.work.number] = fold(
                np.concatenate([kept, rows[numbers == plan.work.number]])
            )
        record = plan.record
        record.summary = totals[plan.work.number].tobytes()
        if plan.work.done + plan.taken >= len(plan.work.points):
            record.sealed_upto = upto
        put_record(tr, run_number, plan.work.number, record)


def _summarise(pieces: list[Columns]) -> Rows:
    lengths = np.array([len(piece) for piece in pieces])
    return summarise_groups(concat(pieces), np.cumsum(lengths) - lengths)


def _finish(tr: Transaction, run_number: int, sizes: dict[int, int]) -> None:
    """Remove the blocks now sealed, those of them that are still there."""
    if tr.get(keyspace.pack_run(run_number)) is None:
        return
    state = get_run_state(tr, run_number)
    upto = max(sizes) + 1
    if state.first_tail >= upto:
        return
    gone = sum(size for tail_no, size in sizes.items() if tail_no >= state.first_tail)
    share = min(1.0, gone / max(state.tail_points, 1))
    state.tail_points = max(0, state.tail_points - gone)
    # Which part of the bytes is gone is known near enough: they only time the next
    # seal.
    state.tail_bytes = round(state.tail_bytes * (1.0 - share))
    state.first_tail = upto
    clear_tail(tr, run_number, upto=upto)
    put_run_state(tr, run_number, state)

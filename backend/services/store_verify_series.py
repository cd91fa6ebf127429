"""What must be true of series: their dictionary and the tails of their runs.

Every function looks at one window of a subspace; see `store_walk`.

Design note: docs/subsystems/engines.md#verifying-a-store
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final

import msgspec

from backend.services.store_walk import (
    UNREADABLE,
    Expectation,
    Must,
    Owners,
    Problem,
    Walk,
    Window,
    first_rows,
    of_living,
    read_rows,
    reason_of,
    unmet,
)
from backend.storage import keyspace
from backend.storage.codecs.frames import join_parts
from backend.storage.codecs.objects import decode_payloads
from backend.storage.codecs.run_states import RunState, decode_run_state
from backend.storage.codecs.series_records import SeriesRecord, decode_series_record
from backend.storage.codecs.tails import TailBlock, decode_tail
from backend.storage.engine.base import KeyRange, ReadTransaction
from backend.storage.indexes import Index, series_name_term
from backend.storage.keyspace import Subspace
from backend.storage.repositories.run_state import decode_sealing
from matyan_wire.batch import SeriesRef

Record = tuple[int, int, SeriesRecord]


# The dictionary


def check_series(tr: ReadTransaction, window: Window) -> Iterator[Problem]:
    """Each record is known by its hash and name, to its run's state and its chunks."""
    found, problems = read_rows(window.rows, read_series)
    yield from problems
    living, orphans = of_living(tr, found, lambda item: item[0])
    yield from orphans
    wanted = [item for key, record in living for item in _names_of(key, record)]
    yield from unmet(tr, wanted)
    states = _states(tr, (item[0] for _, item in living))
    for key, (run_no, series_no, record) in living:
        state = states.get(run_no)
        if state is None:
            continue  # reported with the state, or below
        if series_no >= state.next_series:
            yield Problem(key, "its number is not yet given out by the run's state")
        if record.sealed_upto > state.next_tail:
            yield Problem(key, "says that more is sealed than the run has stored")
    yield from _without_chunks(tr, living)


def read_series(key: bytes, value: bytes) -> Record:
    """Return run, series number and record of a row of SERIES."""
    run_no, series_no = keyspace.unpack_series(key)
    return run_no, series_no, decode_series_record(value, key=key)


def _names_of(key: bytes, item: Record) -> Iterator[Expectation]:
    run_no, series_no, record = item
    digest = keyspace.series_hash(record.kind, record.name, record.context_text)
    yield Expectation(
        key,
        keyspace.pack_series_id(run_no, digest),
        keyspace.pack_int(series_no),
        "its hash does not lead to it",
    )
    yield Expectation(
        key,
        keyspace.pack_series_name(digest),
        Must.EXIST,
        "is missing among the project's series names",
    )
    index, values = series_name_term(record.kind, record.name)
    yield Expectation(
        key,
        keyspace.pack_index(index, values, run_no),
        b"",
        "its run is not in the index SERIES_NAME under it",
    )
    yield Expectation(
        key,
        keyspace.pack_index(Index.RUN_SERIES, (run_no, *values), run_no),
        b"",
        "is not in the index RUN_SERIES",
    )


def _without_chunks(
    tr: ReadTransaction, living: Sequence[tuple[bytes, Record]]
) -> Iterator[Problem]:
    """Yield the series that say they have chunks and have no summary."""
    sealed = [(key, item) for key, item in living if item[2].row()[0]["count"]]
    rows = first_rows(
        tr,
        (
            keyspace.chunk_range(Subspace.CHUNK_SUMMARY, run_no, series_no)
            for _, (run_no, series_no, _) in sealed
        ),
    )
    for (key, _), row in zip(sealed, rows, strict=True):
        if row is None:
            yield Problem(key, "has a summary of chunks that do not exist")


def check_series_ids(tr: ReadTransaction, window: Window) -> Iterator[Problem]:
    """Each hash leads to the series it is the hash of."""
    found, problems = read_rows(
        window.rows,
        lambda key, value: (
            *keyspace.unpack_series_id(key),
            keyspace.unpack_ints(value, 0)[0],
        ),
    )
    yield from problems
    living, orphans = of_living(tr, found, lambda item: item[0])
    yield from orphans
    records = series_records(
        tr, [(run_no, number) for _, (run_no, _, number) in living]
    )
    for key, (run_no, digest, number) in living:
        record = records.get((run_no, number))
        if record is None:
            yield Problem(key, f"leads to series {number}, which does not exist")
        elif digest != keyspace.series_hash(
            record.kind, record.name, record.context_text
        ):
            yield Problem(key, f"leads to series {number}, which has another name")


def check_series_names(_: ReadTransaction, window: Window) -> Iterator[Problem]:
    """Each name of the project stands under its hash."""
    found, problems = read_rows(
        window.rows,
        lambda key, value: (
            keyspace.unpack_series_name(key),
            msgspec.msgpack.decode(value, type=SeriesRef),
        ),
    )
    yield from problems
    for key, (digest, ref) in found:
        if digest != keyspace.series_hash(ref.kind, ref.name, ref.context):
            yield Problem(key, f"stands under another name than its own, {ref.name!r}")


# The tail


def check_states(tr: ReadTransaction, window: Window) -> Iterator[Problem]:
    """Each run's state can be read, and the ends of its tail are there."""
    found, problems = read_rows(
        window.rows,
        lambda key, value: (
            keyspace.unpack_run_state(key),
            decode_run_state(value, key=key),
        ),
    )
    yield from problems
    living, orphans = of_living(tr, found, lambda item: item[0])
    yield from orphans
    yield from unmet(
        tr,
        [
            Expectation(
                key,
                keyspace.pack_tail(run_no, block, 0),
                Must.EXIST,
                f"tail block {block} is missing",
            )
            for key, (run_no, state) in living
            if state.first_tail < state.next_tail
            for block in sorted({state.first_tail, state.next_tail - 1})
        ],
    )


def check_seals(tr: ReadTransaction, window: Window) -> Iterator[Problem]:
    """Each note of a seal can be read, and is of blocks that the run has had."""
    found, problems = read_rows(
        window.rows,
        lambda key, value: (
            keyspace.unpack_sealing(key),
            decode_sealing(value, key=key),
        ),
    )
    yield from problems
    living, orphans = of_living(tr, found, lambda item: item[0])
    yield from orphans
    states = _states(tr, (run_no for _, (run_no, _) in living))
    for key, (run_no, upto) in living:
        state = states.get(run_no)
        if state is not None and upto > state.next_tail:
            yield Problem(key, f"goes up to block {upto} of {state.next_tail}")


def check_tails(tr: ReadTransaction, window: Window) -> Iterator[Problem]:
    """Each block of a run's tail is intact, and together they are what it says."""
    found, problems = read_rows(window.rows, lambda key, _: keyspace.unpack_tail(key))
    yield from problems
    values = dict(window.rows)
    owners = Owners(tr, (item[0] for _, item in found))
    states = _states(tr, (item[0] for _, item in found))
    wanted: list[Expectation] = []
    for run_no, rows in groupby(found, key=lambda item: item[1][0]):
        first = keyspace.pack_tail(run_no, 0, 0)
        blocks: dict[int, TailBlock] = {}
        for tail_no, parts in groupby(rows, key=lambda item: item[1][1]):
            keys = [key for key, _ in parts]
            first = min(first, keys[0])
            try:
                value = join_parts([values[key] for key in keys])
                blocks[tail_no] = decode_tail(value, key=keys[0])
            except UNREADABLE as error:
                yield Problem(keys[0], reason_of(error))
        orphan = owners.judge(first, run_no)
        if orphan is not None:
            yield orphan
        elif owners.is_there(run_no):
            yield from _check_tail(run_no, blocks, states.get(run_no))
            wanted += _needs_of_tail(run_no, blocks)
    yield from unmet(tr, wanted)


def _check_tail(
    run_no: int, blocks: dict[int, TailBlock], state: RunState | None
) -> Iterator[Problem]:
    if state is None:
        yield Problem(keyspace.pack_run_state(run_no), "is missing or cannot be read")
        return
    for tail_no, block in blocks.items():
        key = keyspace.pack_tail(run_no, tail_no, 0)
        if not state.first_tail <= tail_no < state.next_tail:
            yield Problem(
                key,
                f"lies outside the run's tail, {state.first_tail} to "
                f"{state.next_tail - 1}",
            )
        if len(block.series) and int(block.series.max()) >= state.next_series:
            yield Problem(key, "holds a series that the run does not have")
    expected = set(range(state.first_tail, state.next_tail))
    points = sum(len(block.steps) for block in blocks.values())
    if blocks.keys() == expected and points != state.tail_points:
        yield Problem(
            keyspace.pack_run_state(run_no),
            f"says that the tail has {state.tail_points} points; it has {points}",
        )
    for tail_no in sorted(expected - blocks.keys()):
        key = keyspace.pack_tail(run_no, tail_no, 0)
        yield Problem(key, "is missing from the run's tail, or cannot be read")


def _needs_of_tail(run_no: int, blocks: dict[int, TailBlock]) -> Iterator[Expectation]:
    numbers: dict[int, int] = {}
    for tail_no, block in blocks.items():
        for number in block.series.tolist():
            numbers.setdefault(number, tail_no)
        if block.lengths is not None:
            yield Expectation(
                keyspace.pack_tail(run_no, tail_no, 0),
                keyspace.pack_tail_payload(run_no, tail_no, 0),
                Must.EXIST,
                "its payloads are missing",
            )
    for number, tail_no in numbers.items():
        yield Expectation(
            keyspace.pack_tail(run_no, tail_no, 0),
            keyspace.pack_series(run_no, number),
            Must.EXIST,
            f"holds points of series {number}, which has no record",
        )


def check_payloads(tr: ReadTransaction, window: Window) -> Iterator[Problem]:
    """Each block's payloads are intact and fit its columns."""
    found, problems = read_rows(
        window.rows, lambda key, _: keyspace.unpack_tail_payload(key)
    )
    yield from problems
    living, orphans = of_living(tr, found, lambda item: item[0])
    yield from orphans
    values = dict(window.rows)
    blocks = [
        (run_no, tail_no, join_parts([values[key] for key, _ in parts]))
        for (run_no, tail_no), parts in groupby(living, key=lambda item: item[1][:2])
    ]
    columns = tr.get_ranges(
        [
            KeyRange(*keyspace.tail_range(run_no, tail_no, tail_no + 1))
            for run_no, tail_no, _ in blocks
        ],
        snapshot=True,
    )
    for (run_no, tail_no, packed), rows in zip(blocks, columns, strict=True):
        key = keyspace.pack_tail_payload(run_no, tail_no, 0)
        if not rows:
            yield Problem(key, "their block is missing")
            continue
        try:
            block = decode_tail(join_parts([value for _, value in rows]), key=key)
        except UNREADABLE:
            continue  # reported with the block
        if block.lengths is None:
            yield Problem(key, "their block holds metrics")
            continue
        try:
            decode_payloads(packed, block.lengths, key=key)
        except UNREADABLE as error:
            yield Problem(key, reason_of(error))


# Shared


def series_records(
    tr: ReadTransaction, places: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], SeriesRecord]:
    """Return the records of (run, series), those left out that cannot be read."""
    wanted = sorted(set(places))
    keys = [keyspace.pack_series(*place) for place in wanted]
    values = tr.get_many(keys, snapshot=True)
    rows = [(k, v) for k, v in zip(keys, values, strict=True) if v is not None]
    return {
        (run_no, series_no): record
        for _, (run_no, series_no, record) in read_rows(rows, read_series)[0]
    }


def _states(tr: ReadTransaction, runs: Any) -> dict[int, RunState]:
    wanted = sorted(set(runs))
    keys = [keyspace.pack_run_state(run_no) for run_no in wanted]
    values = tr.get_many(keys, snapshot=True)
    rows = [(k, v) for k, v in zip(keys, values, strict=True) if v is not None]
    return {
        keyspace.unpack_run_state(key): state
        for key, state in read_rows(
            rows, lambda key, value: decode_run_state(value, key=key)
        )[0]
    }


def tail_of_run(key: bytes) -> bytes:
    """Return the prefix of one run's tail."""
    try:
        return keyspace.run_prefix(Subspace.TAIL, keyspace.unpack_tail(key)[0])
    except UNREADABLE:
        return key


def payloads_of_block(key: bytes) -> bytes:
    """Return the prefix of one block's payloads."""
    try:
        run_no, tail_no, _ = keyspace.unpack_tail_payload(key)
    except UNREADABLE:
        return key
    return keyspace.pack_tail_payload(run_no, tail_no, 0)[:-1]


WALKS: Final = (
    Walk("run states", Subspace.RUN_STATE, check_states),
    Walk("seals", Subspace.SEALING, check_seals),
    Walk("series", Subspace.SERIES, check_series),
    Walk("series hashes", Subspace.SERIES_ID, check_series_ids),
    Walk("series names", Subspace.SERIES_NAME, check_series_names),
    Walk("tails", Subspace.TAIL, check_tails, 64, tail_of_run),
    Walk("tail payloads", Subspace.TAIL_PAYLOAD, check_payloads, 64, payloads_of_block),
)

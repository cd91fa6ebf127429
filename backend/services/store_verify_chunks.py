"""What must be true of sealed chunks and of their summaries.

Every function looks at one window of a subspace; see `store_walk`.

Design note: docs/subsystems/engines.md#verifying-a-store
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any, Final

import numpy as np

from backend.services.store_verify_series import series_records
from backend.services.store_walk import (
    UNREADABLE,
    Owners,
    Problem,
    Walk,
    Window,
    read_rows,
    reason_of,
)
from backend.storage import keyspace
from backend.storage.codecs.frames import FrameKind, frame_kind
from backend.storage.codecs.series_records import SeriesRecord
from backend.storage.codecs.summaries import SUMMARY, decode_summaries, fold
from backend.storage.engine.base import KeyValue, ReadTransaction
from backend.storage.keyspace import Subspace
from backend.storage.repositories.series_chunks import decode_columns_of, join_chunks

_NOT_SUMMED: Final = tuple(name for name in SUMMARY.names or () if name != "sum")
SUM_PRECISION: Final = 1e-9
_CHUNKS: Final = 16
"""Chunks of a window; of objects they may be 256 kB and more each."""


def check_chunks(tr: ReadTransaction, window: Window) -> Iterator[Problem]:
    """Each chunk is intact, in order, and what its summary says; none lacks one."""
    rows, problems = read_rows(
        window.rows, lambda key, _: keyspace.unpack_chunk_summary(key)
    )
    yield from problems
    summaries = dict(window.rows)
    pairs = tr.get_range(
        _in_chunks(window.begin), _in_chunks(window.end), snapshot=True
    )
    chunks = {}
    for _, key, value in join_chunks(pairs):
        try:
            run_no, series_no, first_step, _ = keyspace.unpack_chunk(key)
        except UNREADABLE as error:
            yield Problem(key, reason_of(error))
            continue
        chunks[run_no, series_no, first_step] = key, value
    places = {place: key for key, place in rows}
    everywhere = sorted(places.keys() | chunks.keys())
    owners = Owners(tr, (place[0] for place in everywhere))
    records = series_records(tr, [place[:2] for place in everywhere])
    for index, place in enumerate(everywhere):
        key = places.get(place) or chunks[place][0]
        orphan = owners.judge(key, place[0])
        if orphan is not None:
            yield orphan
        elif place not in chunks:
            yield Problem(key, "its chunk is missing")
        elif place not in places:
            yield Problem(key, "its summary is missing")
        elif owners.is_there(place[0]):
            following = everywhere[index + 1 : index + 2]
            stop = _next_step(place, following, window.end)
            yield from _check_chunk(
                place, chunks[place], summaries[key], records.get(place[:2]), stop
            )


def _in_chunks(key: bytes) -> bytes:
    """Return the key at the same place among the chunks as `key` is in summaries."""
    old = keyspace.subspace_range(Subspace.CHUNK_SUMMARY)[0][:-1]
    new = keyspace.subspace_range(Subspace.CHUNK)[0][:-1]
    return new + key.removeprefix(old)


def _next_step(
    place: tuple[int, int, int], following: list[tuple[int, int, int]], end: bytes
) -> int | None:
    """Return the first step of the series' next chunk, None after the last."""
    if not following:
        try:
            following = [keyspace.unpack_chunk_summary(end)]
        except UNREADABLE:
            return None  # the end of all summaries
    return following[0][2] if following[0][:2] == place[:2] else None


def _check_chunk(
    place: tuple[int, int, int],
    chunk: KeyValue,
    summary: bytes,
    record: SeriesRecord | None,
    stop: int | None,
) -> Iterator[Problem]:
    key, value = chunk
    if record is None:
        yield Problem(key, "is of a series without a (readable) record")
        return
    is_object = frame_kind(value) == FrameKind.OBJECT_CHUNK
    if is_object != record.is_object:
        yield Problem(key, f"does not hold what a series of {record.kind} holds")
        return
    try:
        points = decode_columns_of(value, key, is_object=is_object)
    except UNREADABLE as error:
        yield Problem(key, reason_of(error))
        return
    steps = points.steps
    if not len(steps) or int(steps[0]) != place[2]:
        yield Problem(key, "does not begin with the step of its key")
        return
    if bool((steps[1:] <= steps[:-1]).any()):
        yield Problem(key, "its steps do not ascend")
        return
    if stop is not None and int(steps[-1]) >= stop:
        yield Problem(key, f"reaches into the next chunk, which begins at {stop}")
    summary_key = keyspace.pack_chunk_summary(*place)
    try:
        stored = decode_summaries([summary], key=summary_key)
    except UNREADABLE as error:
        yield Problem(summary_key, reason_of(error))
        return
    yield from _differences(summary_key, stored[0], points.summarise()[0], "its chunk")


def check_summaries(tr: ReadTransaction, window: Window) -> Iterator[Problem]:
    """Each series' record sums up its chunks' summaries."""
    found, _ = read_rows(window.rows, lambda key, _: keyspace.unpack_chunk_summary(key))
    values = dict(window.rows)
    records = series_records(tr, sorted({item[:2] for _, item in found}))
    for place, rows in groupby(found, key=lambda item: item[1][:2]):
        record = records.get(place)
        if record is None:
            continue  # reported with the chunks
        try:
            total = fold(decode_summaries([values[key] for key, _ in rows]))[0]
        except UNREADABLE:
            continue  # reported with the chunk
        key = keyspace.pack_series(*place)
        yield from _differences(key, record.row()[0], total, "all its chunks")


def summaries_of_series(key: bytes) -> bytes:
    """Return the prefix of one series' summaries."""
    try:
        run_no, series_no, _ = keyspace.unpack_chunk_summary(key)
    except UNREADABLE:
        return key
    return keyspace.chunk_range(Subspace.CHUNK_SUMMARY, run_no, series_no)[0][:-1]


def _differences(key: bytes, stored: Any, true: Any, of: str) -> Iterator[Problem]:
    wrong = [
        f"{name} {stored[name]} (it is {true[name]})"
        for name in _NOT_SUMMED
        if not _same(stored[name], true[name])
    ]
    if not _same_sum(stored, true):
        wrong.append(f"sum {stored['sum']} (it is {true['sum']})")
    if wrong:
        yield Problem(key, f"is no summary of {of}: {', '.join(wrong)}")


def _same_sum(stored: Any, true: Any) -> bool:
    # Sums are added up in another order each time, which rounds differently, by up to
    # a share of what the values would add up to without their signs.
    largest = np.nanmax(np.abs([true["min"], true["max"], 0.0]))
    rounding = SUM_PRECISION * true["count"] * largest if np.isfinite(largest) else 0.0
    return bool(
        np.isclose(
            stored["sum"],
            true["sum"],
            rtol=SUM_PRECISION,
            atol=rounding,
            equal_nan=True,
        )
    )


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) or bool(np.isnan(one) and np.isnan(other))


WALKS: Final = (
    Walk("chunks", Subspace.CHUNK_SUMMARY, check_chunks, _CHUNKS, lambda key: key),
    Walk(
        "series summaries",
        Subspace.CHUNK_SUMMARY,
        check_summaries,
        2_000,
        summaries_of_series,
    ),
)

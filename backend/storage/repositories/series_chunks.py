"""Sealed chunks of a series and their summaries.

Keys:   CHUNK (run_no, series_no, first_step, part) -> the points of one chunk
        CHUNK_SUMMARY (run_no, series_no, first_step) -> its summary, 104 bytes
Order:  chunk i of a series covers the steps from its own first step to the next
chunk's;
        the first also covers everything below. Within a chunk steps ascend, one each.

Design note: docs/subsystems/storage.md#chunks
"""

from __future__ import annotations

from collections.abc import Iterator

from backend.storage import keyspace
from backend.storage.codecs.chunks import decode_chunk, encode_chunk
from backend.storage.codecs.frames import join_parts, split_parts
from backend.storage.codecs.objects import decode_object_chunk, encode_object_chunk
from backend.storage.codecs.summaries import Rows, decode_summaries
from backend.storage.engine.base import KeyRange, KeyValue, ReadTransaction, Transaction
from backend.storage.keyspace import Subspace
from backend.storage.repositories.series_columns import (
    Columns,
    from_object_points,
    from_points,
)


def read_rows(
    tr: ReadTransaction,
    run_number: int,
    series_no: int,
    *,
    start: int | None = None,
    stop: int | None = None,
) -> Rows:
    """Return the summaries of the chunks that may hold steps start <= step < stop.

    Raises:
        FormatError: If a summary cannot be read.
    """
    ranges = covering_ranges(
        Subspace.CHUNK_SUMMARY, run_number, series_no, start=start, stop=stop
    )
    pairs = [pair for found in tr.get_ranges(ranges) for pair in found]
    return rows_of(pairs)


def rows_of(pairs: list[KeyValue]) -> Rows:
    """Return the summaries in pairs of CHUNK_SUMMARY.

    Raises:
        FormatError: If a summary cannot be read.
    """
    key = pairs[0][0] if pairs else b""
    return decode_summaries([value for _, value in pairs], key=key)


def covering_ranges(
    subspace: Subspace,
    run_number: int,
    series_no: int,
    *,
    start: int | None,
    stop: int | None,
) -> list[KeyRange]:
    """Return the ranges of the chunks' rows that may hold start <= step < stop.

    The first range is the one row at or below `start`: read in reverse, limit 1. Only
    for CHUNK_SUMMARY, where a chunk is one key.
    """
    begin, end = keyspace.chunk_range(subspace, run_number, series_no, stop=stop)
    if start is None:
        return [KeyRange(begin, end)]
    if stop is not None and stop <= start:
        return []
    prefix = keyspace.run_prefix(subspace, run_number)
    above = prefix + keyspace.pack_int(series_no) + keyspace.pack_int(start) + b"\x00"
    return [
        KeyRange(begin, above, limit=1, reverse=True),
        KeyRange(above, end),
    ]


def join_chunks(pairs: list[KeyValue]) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield (series number, key, joined value) of each chunk in pairs of CHUNK.

    The pairs are of one run, in key order, each chunk from its first part on.
    """
    base, first_key = b"", b""
    parts: list[bytes] = []
    for key, value in pairs:
        # The key of part 0 ends in one byte for the part; every key that starts with
        # what is before it belongs to the same chunk.
        if parts and key.startswith(base):
            parts.append(value)
            continue
        if parts:
            yield keyspace.unpack_chunk(first_key)[1], first_key, join_parts(parts)
        base, first_key, parts = key[:-1], key, [value]
    if parts:
        yield keyspace.unpack_chunk(first_key)[1], first_key, join_parts(parts)


def decode_columns_of(value: bytes, key: bytes, *, is_object: bool) -> Columns:
    """Return a chunk's points.

    Raises:
        FormatError: If the chunk is not intact.
    """
    if is_object:
        return from_object_points(decode_object_chunk(value, key=key))
    return from_points(decode_chunk(value, key=key))


def encode_columns_of(points: Columns, *, is_object: bool) -> bytes:
    """Return a chunk's bytes."""
    if is_object:
        return encode_object_chunk(points.to_object_points())
    return encode_chunk(points.to_points())


def put_chunk(
    tr: Transaction, run_number: int, series_no: int, first_step: int, value: bytes
) -> None:
    """Store a chunk's bytes; the keys must have been cleared of an older chunk."""
    for part, piece in enumerate(split_parts(value)):
        tr.set(keyspace.pack_chunk(run_number, series_no, first_step, part), piece)


def clear_chunk(
    tr: Transaction, run_number: int, series_no: int, first_step: int
) -> None:
    """Remove a chunk and its summary."""
    prefix = (
        keyspace.run_prefix(Subspace.CHUNK, run_number)
        + keyspace.pack_int(series_no)
        + keyspace.pack_int(first_step)
    )
    tr.clear_range(prefix, prefix + b"\xff")
    tr.clear(keyspace.pack_chunk_summary(run_number, series_no, first_step))

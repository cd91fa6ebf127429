"""The tail of a run: what has been stored and is not sealed into chunks yet.

Keys:   TAIL (run_no, tail_no, part) -> columns of one block, all series
        TAIL_PAYLOAD (run_no, tail_no, part) -> the payloads of an object block
Order:  blocks ascend in the order they were applied; within a block, the points of a
        series stand in the order they were tracked. Per step the last one counts.
Limits: a block has at most `MAX_BLOCK_POINTS` points, and at most `MAX_BLOCK_BYTES` of
        payloads unless a single one is larger; values are cut into parts of 90 kB.

Design note: docs/subsystems/storage.md#tail
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import numpy as np

from backend.domain.series import Int64s
from backend.storage import keyspace
from backend.storage.codecs.frames import corrupt, join_parts, split_parts
from backend.storage.codecs.objects import decode_payloads, encode_payloads
from backend.storage.codecs.run_states import RunState
from backend.storage.codecs.tails import TailBlock, decode_tail, encode_tail
from backend.storage.engine.base import KeyRange, KeyValue, ReadTransaction, Transaction
from backend.storage.keyspace import Subspace
from backend.storage.repositories.series_columns import (
    Columns,
    concat,
    empty,
    payload_array,
    sizes_of,
)

MAX_BLOCK_POINTS: Final = 32_768
MAX_BLOCK_BYTES: Final = 512 * 1024


@dataclass(frozen=True, slots=True)
class TailColumns:
    """Tail points of metrics, or of objects, in log order.

    Attributes:
        series: Series number of each point.
        tails: Tail number of each point.
        points: The points.
    """

    series: Int64s
    tails: Int64s
    points: Columns

    def __len__(self) -> int:
        return len(self.series)


@dataclass(frozen=True, slots=True)
class Tail:
    """A run's tail as read at one moment.

    Attributes:
        blocks: Tail number -> block, ascending.
        payloads: Tail number -> joined value of its payloads, where they were read.
        run_number: The run.
    """

    run_number: int
    blocks: Mapping[int, TailBlock]
    payloads: Mapping[int, bytes]

    def series_points(self, series_no: int, *, is_object: bool) -> Columns:
        """Return one series' points, ascending by step, the last write of each step.

        Raises:
            FormatError: If a block's payloads are not intact.
        """
        pieces = []
        for tail_no, block in self.blocks.items():
            where = block.slice_of(series_no)
            if where is not None:
                pieces.append(self._columns(tail_no, block).take(where))
        return concat(pieces, is_object=is_object).last_wins()

    def columns(self, *, is_object: bool) -> TailColumns:
        """Return the points of all metrics, or of all object series.

        Raises:
            FormatError: If a block's payloads are not intact.
        """
        chosen = [
            (tail_no, block)
            for tail_no, block in self.blocks.items()
            if (block.lengths is not None) == is_object
        ]
        if not chosen:
            nothing = np.empty(0, np.int64)
            return TailColumns(nothing, nothing, empty(is_object=is_object))
        return TailColumns(
            np.concatenate([np.repeat(b.series, b.counts) for _, b in chosen]),
            np.repeat(
                np.array([tail_no for tail_no, _ in chosen]),
                [len(b.steps) for _, b in chosen],
            ),
            concat([self._columns(tail_no, block) for tail_no, block in chosen]),
        )

    def last_steps(self, wanted: Iterable[int], *, since: int = 0) -> dict[int, int]:
        """Return the greatest step of each wanted series in blocks from `since` on."""
        found: dict[int, int] = {}
        wanted_set = set(wanted)
        for tail_no, block in self.blocks.items():
            if tail_no < since:
                continue
            ends = np.cumsum(block.counts)
            greatest = np.maximum.reduceat(block.steps, ends - block.counts)
            for number, step in zip(
                block.series.tolist(), greatest.tolist(), strict=True
            ):
                if number in wanted_set and step > found.get(number, step - 1):
                    found[number] = step
        return found

    def _columns(self, tail_no: int, block: TailBlock) -> Columns:
        if block.values is not None:
            return Columns(block.steps, block.values, block.times_us, block.epochs)
        lengths = block.lengths
        if lengths is None:
            msg = "A tail block has values or lengths"
            raise ValueError(msg)
        packed = self.payloads.get(tail_no)
        if packed is None:
            return Columns(block.steps, lengths, block.times_us, block.epochs)
        key = keyspace.pack_tail_payload(self.run_number, tail_no, 0)
        payloads = payload_array(decode_payloads(packed, lengths, key=key))
        return Columns(block.steps, payloads, block.times_us, block.epochs)


def append_block(
    tr: Transaction, run_number: int, state: RunState, series: Int64s, points: Columns
) -> None:
    """Store points, in log order, as the run's next tail block; `state` moves on.

    The points are all of metrics or all of objects (values of dtype object), and within
    the limits of a block. The caller stores `state`.
    """
    if not len(series):
        return
    if bool((series[1:] < series[:-1]).any()):
        order = np.argsort(series, kind="stable")
        series, points = series[order], points.take(order)
    numbers, counts = np.unique(series, return_counts=True)
    block = TailBlock(numbers, counts, points.steps, points.times_us, points.epochs)
    is_object = points.values.dtype == object
    written = 0
    if is_object:
        block = _with_lengths(block, sizes_of(points.values))
        packed = encode_payloads(points.values.tolist())
        written += _put_parts(
            tr, keyspace.pack_tail_payload, run_number, state.next_tail, packed
        )
    else:
        block = _with_values(block, points)
    written += _put_parts(
        tr, keyspace.pack_tail, run_number, state.next_tail, encode_tail(block)
    )
    state.next_tail += 1
    state.tail_points += len(series)
    state.tail_bytes += written


def read_tail(
    tr: ReadTransaction,
    run_number: int,
    *,
    first: int | None = None,
    payloads: bool = False,
) -> Tail:
    """Return the run's tail, from block `first` on, in one round trip.

    Raises:
        FormatError: If a block is not intact.
    """
    ranges = tail_ranges(run_number, first=first, payloads=payloads)
    return parse_tail(run_number, tr.get_ranges(ranges))


def tail_ranges(
    run_number: int, *, first: int | None = None, payloads: bool = False
) -> list[KeyRange]:
    """Return the ranges whose pairs `parse_tail` takes."""
    spaces = (Subspace.TAIL, Subspace.TAIL_PAYLOAD) if payloads else (Subspace.TAIL,)
    ranges = []
    for space in spaces:
        begin, end = keyspace.run_range(space, run_number)
        if first is not None:
            begin = keyspace.run_prefix(space, run_number) + keyspace.pack_int(first)
        ranges.append(KeyRange(begin, end))
    return ranges


def parse_tail(run_number: int, found: list[list[KeyValue]]) -> Tail:
    """Return the tail in the pairs of `tail_ranges`.

    Raises:
        FormatError: If a block is not intact.
    """
    blocks = {
        tail_no: decode_tail(value, key=keyspace.pack_tail(run_number, tail_no, 0))
        for tail_no, value in _join_blocks(found[0])
    }
    payloads = dict(_join_blocks(found[1])) if len(found) > 1 else {}
    if payloads.keys() != {
        tail_no
        for tail_no, block in blocks.items()
        if len(found) > 1 and block.lengths is not None
    }:
        raise corrupt(
            keyspace.run_prefix(Subspace.TAIL_PAYLOAD, run_number),
            "payloads and columns of the tail do not pair",
        )
    return Tail(run_number, blocks, payloads)


def clear_tail(tr: Transaction, run_number: int, *, upto: int) -> None:
    """Remove the run's blocks below `upto`."""
    for space in (Subspace.TAIL, Subspace.TAIL_PAYLOAD):
        tr.clear_range(*keyspace.tail_range(run_number, 0, upto, subspace=space))


def _join_blocks(pairs: list[KeyValue]) -> Iterator[tuple[int, bytes]]:
    numbered = (keyspace.unpack_tail(key)[1] for key, _ in pairs)
    for tail_no, parts in groupby(
        zip(numbered, pairs, strict=True), key=lambda item: item[0]
    ):
        yield tail_no, join_parts([value for _, (_, value) in parts])


def _put_parts(
    tr: Transaction,
    pack: Callable[[int, int, int], bytes],
    run_number: int,
    tail_no: int,
    value: bytes,
) -> int:
    for part, piece in enumerate(split_parts(value)):
        tr.set(pack(run_number, tail_no, part), piece)
    return len(value)


def _with_lengths(block: TailBlock, lengths: Int64s) -> TailBlock:
    return TailBlock(
        block.series,
        block.counts,
        block.steps,
        block.times_us,
        block.epochs,
        lengths=lengths,
    )


def _with_values(block: TailBlock, points: Columns) -> TailBlock:
    return TailBlock(
        block.series,
        block.counts,
        block.steps,
        block.times_us,
        block.epochs,
        values=points.values,
    )

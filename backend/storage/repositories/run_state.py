"""A run's hot record and its writers' positions.

Keys:   RUN_STATE (run_no), WRITER (run_no, hash16(writer)),
        SEALING (run_no) -> number of a tail block, packed as a key integer

Design note: docs/subsystems/storage.md#exactly-once
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from backend.storage import keyspace
from backend.storage.codecs.frames import corrupt
from backend.storage.codecs.run_states import (
    RunState,
    WriterState,
    decode_run_state,
    decode_writer_state,
    encode_run_state,
    encode_writer_state,
)
from backend.storage.engine.base import ReadTransaction, Transaction
from matyan_wire.limits import MAX_WRITER_CHARS

MIN_TAIL_POINTS: Final = 16_384
MAX_TAIL_POINTS: Final = 262_144
TAIL_POINTS_PER_SERIES: Final = 512
MAX_TAIL_BYTES: Final = 4 * 1024 * 1024
MAX_TAIL_BLOCKS: Final = 256


def get_run_state(
    tr: ReadTransaction, run_number: int, *, snapshot: bool = False
) -> RunState:
    """Return the run's state, a fresh one if nothing has been stored yet.

    Raises:
        FormatError: If the record cannot be read.
    """
    key = keyspace.pack_run_state(run_number)
    return decode_run_state(tr.get(key, snapshot=snapshot), key=key)


def get_run_states(
    tr: ReadTransaction, run_numbers: Sequence[int]
) -> dict[int, RunState]:
    """Return the states of runs in one round trip, as a snapshot.

    Raises:
        FormatError: If a record cannot be read.
    """
    keys = [keyspace.pack_run_state(number) for number in run_numbers]
    found = tr.get_many(keys, snapshot=True)
    return {
        number: decode_run_state(value, key=key)
        for number, key, value in zip(run_numbers, keys, found, strict=True)
    }


def put_run_state(tr: Transaction, run_number: int, state: RunState) -> None:
    """Store the run's state."""
    tr.set(keyspace.pack_run_state(run_number), encode_run_state(state))


def find_writer(
    tr: ReadTransaction, run_number: int, writer: str
) -> WriterState | None:
    """Return where `writer` stands in the run, None if nothing of it is stored.

    Raises:
        FormatError: If the record cannot be read.
    """
    if len(writer) > MAX_WRITER_CHARS:
        return None
    key = keyspace.pack_writer(run_number, writer)
    return decode_writer_state(tr.get(key), key=key)


def put_writer(
    tr: Transaction, run_number: int, writer: str, state: WriterState
) -> None:
    """Store where `writer` stands in the run."""
    tr.set(keyspace.pack_writer(run_number, writer), encode_writer_state(state))


def get_sealing_upto(tr: ReadTransaction, run_number: int) -> int:
    """Return up to which block the newest seal of the run goes, finished or not.

    0 if none has begun since this is kept.

    Raises:
        FormatError: If the value is not a number.
    """
    key = keyspace.pack_sealing(run_number)
    return decode_sealing(tr.get(key), key=key)


def decode_sealing(value: bytes | None, *, key: bytes) -> int:
    """Return the number of a block in `value`, 0 for None.

    Raises:
        FormatError: If it is not one.
    """
    if value is None:
        return 0
    try:
        (number,) = keyspace.unpack_ints(value, 0)
    except ValueError as error:
        raise corrupt(key, str(error)) from error
    return number


def put_sealing_upto(tr: Transaction, run_number: int, upto: int) -> None:
    """Note that a seal of the blocks below `upto` has begun."""
    tr.set(keyspace.pack_sealing(run_number), keyspace.pack_int(upto))


def seal_is_due(state: RunState) -> bool:
    """Return whether the run's tail has grown enough to be worth sealing.

    The bound on points grows with the number of series, so that each gets chunks worth
    having (512 points), between one that keeps reading the tail cheap for few series
    and one that keeps it bearable for many. The bound on blocks is for runs that send
    little at a time: each block costs a reader some 20 µs.
    """
    bound = TAIL_POINTS_PER_SERIES * state.next_series
    return (
        state.tail_points >= min(max(bound, MIN_TAIL_POINTS), MAX_TAIL_POINTS)
        or state.tail_bytes >= MAX_TAIL_BYTES
        or state.next_tail - state.first_tail >= MAX_TAIL_BLOCKS
    )

"""The series of a run: (kind, name, context) <-> small integer, and their records.

Keys:   SERIES (run_no, series_no) -> `SeriesRecord`
        SERIES_ID (run_no, hash16) -> series_no, packed as a key integer
        SERIES_NAME (hash16) -> kind, name, context text: what the project has ever used

A number, once committed, never changes within an incarnation of the run.

Design note: docs/subsystems/storage.md#dictionary
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from backend.storage import keyspace
from backend.storage.codecs.run_states import RunState
from backend.storage.codecs.series_records import (
    SeriesRecord,
    decode_series_record,
    encode_series_record,
)
from backend.storage.engine.base import ReadTransaction, Transaction
from backend.storage.indexes import index_series_name
from backend.storage.keyspace import Subspace
from backend.storage.repositories.series_memory import Numbers
from matyan_wire.batch import SeriesRef


def find_numbers(
    tr: ReadTransaction, run_number: int, refs: Sequence[SeriesRef]
) -> Numbers:
    """Return the numbers of those `refs` the run has, in one round trip."""
    keys = [keyspace.pack_series_id(run_number, _digest(ref)) for ref in refs]
    return {
        ref: keyspace.unpack_ints(value, 0)[0]
        for ref, value in zip(refs, tr.get_many(keys), strict=True)
        if value is not None
    }


def create_series(
    tr: Transaction, run_number: int, state: RunState, refs: Sequence[SeriesRef]
) -> Numbers:
    """Give numbers to `refs`, distinct and new to the run; `state` moves on.

    The caller has looked them up in this transaction and stores `state`.
    """
    created: Numbers = {}
    for kind, name in dict.fromkeys((ref.kind, ref.name) for ref in refs):
        index_series_name(tr, run_number, kind, name)
    for ref in refs:
        number = state.next_series
        state.next_series += 1
        digest = _digest(ref)
        tr.set(keyspace.pack_series_id(run_number, digest), keyspace.pack_int(number))
        tr.set(
            keyspace.pack_series(run_number, number),
            encode_series_record(SeriesRecord(ref.kind, ref.name, ref.context)),
        )
        tr.set(keyspace.pack_series_name(digest), msgspec.msgpack.encode(ref))
        created[ref] = number
    return created


def read_records(
    tr: ReadTransaction, run_number: int, numbers: Sequence[int]
) -> list[SeriesRecord | None]:
    """Return the records of `numbers`, None where there is none, in one round trip.

    Raises:
        FormatError: If a record cannot be read.
    """
    prefix = keyspace.run_prefix(Subspace.SERIES, run_number)
    keys = [prefix + keyspace.pack_int(number) for number in numbers]
    return [
        None if value is None else decode_series_record(value, key=key)
        for key, value in zip(keys, tr.get_many(keys), strict=True)
    ]


def put_record(
    tr: Transaction, run_number: int, number: int, record: SeriesRecord
) -> None:
    """Store a series' record."""
    tr.set(keyspace.pack_series(run_number, number), encode_series_record(record))


def read_names(tr: ReadTransaction) -> list[SeriesRef]:
    """Return every (kind, name, context) the project has used, even in deleted runs."""
    pairs = tr.get_range(*keyspace.subspace_range(Subspace.SERIES_NAME))
    decoder = msgspec.msgpack.Decoder(SeriesRef)
    return sorted(
        (decoder.decode(value) for _, value in pairs),
        key=lambda ref: (ref.kind, ref.name, ref.context),
    )


def _digest(ref: SeriesRef) -> bytes:
    return keyspace.series_hash(ref.kind, ref.name, ref.context)

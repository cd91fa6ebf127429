"""Every key of the store, in one file.

A key is an `fdb.tuple`: project id (0 for now, so that projects can share a cluster
later), `Subspace`, then what the subspace's functions below name. The functions build
the bytes by hand because keys are packed in loops of 10,000; they are byte-identical to
`tuples.pack` (golden bytes and a property test in tests/contract/test_keyspace.py).

Limits: every key is under 400 bytes. User text never enters a key without a bound:
names are hashed (`hash16`), ids are at most 128 characters (`MAX_ID_BYTES`).

Ranges are (begin, end) pairs, `end` excluded. `run_no` ascends with creation, so a span
of runs is one range of each per-run subspace.

Design note: backend/storage/README.md
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from backend.errors import KeyTooLargeError
from backend.storage import tuples

PROJECT: Final = 0
MAX_KEY_BYTES: Final = 400
MAX_ID_BYTES: Final = 128

Range = tuple[bytes, bytes]
IndexValue = int | str | bytes | float | bool


class Subspace(IntEnum):
    """First element after the project. Permanent: a number is never reused."""

    FORMAT = 1
    RUN_ID = 2
    RUN = 3
    ATTRIBUTES = 4
    SERIES = 5
    SERIES_ID = 6
    TAIL = 7
    CHUNK = 8
    CHUNK_SUMMARY = 9
    WRITER = 10
    RUN_STATE = 11
    TOMBSTONE = 12
    EXPERIMENT = 13
    EXPERIMENT_NAME = 14
    TAG = 15
    TAG_NAME = 16
    NOTE = 17
    ARTIFACT = 18
    INDEX = 19
    OUTBOX = 20
    DOCUMENT = 21
    PROJECT_PARAMS = 22
    TAIL_PAYLOAD = 23
    SERIES_NAME = 24
    COPY = 25
    BLOB = 26
    REACTION = 27
    SEALING = 28


RUN_SUBSPACES: Final = (
    Subspace.RUN,
    Subspace.ATTRIBUTES,
    Subspace.SERIES,
    Subspace.SERIES_ID,
    Subspace.TAIL,
    Subspace.TAIL_PAYLOAD,
    Subspace.CHUNK,
    Subspace.CHUNK_SUMMARY,
    Subspace.WRITER,
    Subspace.RUN_STATE,
    Subspace.ARTIFACT,
    Subspace.BLOB,
    Subspace.SEALING,
)
"""Subspaces whose first element is a run number: what deleting a run must clear."""


def hash16(*parts: str) -> bytes:
    """Return 16 bytes that stand for `parts` in a key: BLAKE2b of the joined text.

    Each part is preceded by its length, so no two different tuples give the same input.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        text = part.encode()
        digest.update(len(text).to_bytes(4, "big"))
        digest.update(text)
    return digest.digest()


def pack_int(value: int) -> bytes:
    """Return the tuple element of a signed integer of at most 8 bytes."""
    if value > 0:
        size = (value.bit_length() + 7) >> 3
        return _POSITIVE[size] + value.to_bytes(size, "big")
    if value == 0:
        return b"\x14"
    size = (value.bit_length() + 7) >> 3
    return _NEGATIVE[size] + (value + (1 << (size << 3)) - 1).to_bytes(size, "big")


def unpack_ints(key: bytes, offset: int) -> list[int]:
    """Return the integer elements of `key` from byte `offset` to the end.

    Raises:
        ValueError: If an element is not an integer of at most 8 bytes.
    """
    found = []
    while offset < len(key):
        code = key[offset]
        offset += 1
        if 0x14 <= code <= 0x1C:
            end = offset + code - 0x14
            found.append(int.from_bytes(key[offset:end], "big"))
        elif 0x0C <= code < 0x14:
            size = 0x14 - code
            end = offset + size
            number = int.from_bytes(key[offset:end], "big")
            found.append(number - (1 << (size << 3)) + 1)
        else:
            msg = "Not an integer element"
            raise ValueError(msg)
        offset = end
    return found


_POSITIVE: Final = tuple(bytes([0x14 + size]) for size in range(9))
_NEGATIVE: Final = tuple(bytes([0x14 - size]) for size in range(9))


def _prefix(subspace: Subspace) -> bytes:
    return pack_int(PROJECT) + pack_int(int(subspace))


_PREFIX: Final = {subspace: _prefix(subspace) for subspace in Subspace}
_PREFIX_BYTES: Final = 3


def _bytes(value: bytes) -> bytes:
    return b"\x01" + value.replace(b"\x00", b"\x00\xff") + b"\x00"


def _id(value: str) -> bytes:
    text = value.encode()
    if len(text) > MAX_ID_BYTES:
        raise KeyTooLargeError(size=len(text), limit=MAX_ID_BYTES)
    return b"\x02" + text.replace(b"\x00", b"\x00\xff") + b"\x00"


def _within(prefix: bytes) -> Range:
    return prefix + b"\x00", prefix + b"\xff"


def subspace_range(subspace: Subspace) -> Range:
    """Return the range of everything in `subspace`."""
    return _within(_PREFIX[subspace])


def run_data_ranges(run_no: int) -> list[Range]:
    """Return the ranges that hold all of a run apart from its id, notes and indexes.

    In the subspaces whose whole key is the run number the range is that one key.
    """
    number = pack_int(run_no)
    return [
        (_PREFIX[space] + number, _PREFIX[space] + number + b"\xff")
        for space in RUN_SUBSPACES
    ]


def run_prefix(subspace: Subspace, run_no: int) -> bytes:
    """Return what the run's keys in `subspace` begin with, for packing in loops."""
    return _PREFIX[subspace] + pack_int(run_no)


def run_range(subspace: Subspace, run_no: int) -> Range:
    """Return the range of the run's keys in `subspace`."""
    return _within(run_prefix(subspace, run_no))


def run_span(subspace: Subspace, first_no: int, last_no: int) -> Range:
    """Return the range of all keys of runs first_no to last_no, both included."""
    return run_prefix(subspace, first_no), run_prefix(subspace, last_no) + b"\xff"


# --- store ---------------------------------------------------------------------------


def pack_format() -> bytes:
    """Return the key of the store's format version."""
    return tuples.pack((PROJECT, int(Subspace.FORMAT), "format"))


def pack_copy() -> bytes:
    """Return the key that marks a store as a copy not finished yet."""
    return tuples.pack((PROJECT, int(Subspace.COPY), "copy"))


def pack_tombstone(run_id: str) -> bytes:
    """Return the key that marks a run id as deleted."""
    return _PREFIX[Subspace.TOMBSTONE] + _id(run_id)


def unpack_tombstone(key: bytes) -> str:
    """Return the run id in a key of `pack_tombstone`."""
    return _unpack_text(key)


def pack_outbox(time_us: int, digest: bytes) -> bytes:
    """Return the key of a control event to be published, in order of `time_us`.

    Stores of before have keys without the hash of the event's id.
    """
    return _PREFIX[Subspace.OUTBOX] + pack_int(time_us) + _bytes(digest)


def pack_reaction(digest: bytes) -> bytes:
    """Return the key of a control event still to be acted on; its id is hashed."""
    return _PREFIX[Subspace.REACTION] + _bytes(digest)


def unpack_reaction(key: bytes) -> bytes:
    """Return the event id's hash in a key of `pack_reaction`."""
    _, _, digest = tuples.unpack(key)
    found: bytes = digest
    return found


def pack_document(collection: str, document_id: str, part: int) -> bytes:
    """Return the key of one part of a document: a dashboard, a report, an app."""
    return (
        _PREFIX[Subspace.DOCUMENT] + _id(collection) + _id(document_id) + pack_int(part)
    )


def unpack_document(key: bytes) -> tuple[str, str, int]:
    """Return the collection, id and part in a key of `pack_document`."""
    _, _, collection, document_id, part = tuples.unpack(key)
    return collection, document_id, part


def document_range(collection: str, document_id: str | None = None) -> Range:
    """Return the range of a collection's documents, or of one document's parts."""
    prefix = _PREFIX[Subspace.DOCUMENT] + _id(collection)
    return _within(prefix if document_id is None else prefix + _id(document_id))


# --- runs ----------------------------------------------------------------------------


def pack_run_id(run_id: str) -> bytes:
    """Return the key that maps a run id to its number."""
    return _PREFIX[Subspace.RUN_ID] + _id(run_id)


def unpack_run_id(key: bytes) -> str:
    """Return the run id in a key of `pack_run_id`."""
    return _unpack_text(key)


def pack_run(run_no: int) -> bytes:
    """Return the key of a run's record."""
    return _PREFIX[Subspace.RUN] + pack_int(run_no)


def unpack_run(key: bytes) -> int:
    """Return the run number in a key of `pack_run`."""
    return unpack_ints(key, _PREFIX_BYTES)[0]


def pack_attributes(run_no: int, part: int) -> bytes:
    """Return the key of one part of a run's attribute tree."""
    return _PREFIX[Subspace.ATTRIBUTES] + pack_int(run_no) + pack_int(part)


def unpack_attributes(key: bytes) -> tuple[int, int]:
    """Return the run number and part in a key of `pack_attributes`."""
    run_no, part = unpack_ints(key, _PREFIX_BYTES)
    return run_no, part


def pack_artifact(run_no: int, path: str) -> bytes:
    """Return the key of a run's artifact; the path is hashed."""
    return _PREFIX[Subspace.ARTIFACT] + pack_int(run_no) + _bytes(hash16(path))


def unpack_artifact(key: bytes) -> tuple[int, bytes]:
    """Return the run number and path hash in a key of `pack_artifact`."""
    _, _, run_no, digest = tuples.unpack(key)
    return run_no, digest


def pack_blob(run_no: int, digest: bytes) -> bytes:
    """Return the key of the uploads of one path of a run; the path is hashed."""
    return _PREFIX[Subspace.BLOB] + pack_int(run_no) + _bytes(digest)


def unpack_blob(key: bytes) -> tuple[int, bytes]:
    """Return the run number and path digest in a key of `pack_blob`."""
    _, _, run_no, digest = tuples.unpack(key)
    return run_no, digest


def pack_run_state(run_no: int) -> bytes:
    """Return the key of the small record rewritten with each batch of the run."""
    return _PREFIX[Subspace.RUN_STATE] + pack_int(run_no)


def unpack_run_state(key: bytes) -> int:
    """Return the run number in a key of `pack_run_state`."""
    return unpack_ints(key, _PREFIX_BYTES)[0]


def pack_sealing(run_no: int) -> bytes:
    """Return the key of the tail block up to which the run's newest seal goes."""
    return _PREFIX[Subspace.SEALING] + pack_int(run_no)


def unpack_sealing(key: bytes) -> int:
    """Return the run number in a key of `pack_sealing`."""
    return unpack_ints(key, _PREFIX_BYTES)[0]


def pack_writer(run_no: int, writer: str) -> bytes:
    """Return the key of a writer's position in a run; the writer id is hashed."""
    return _PREFIX[Subspace.WRITER] + pack_int(run_no) + _bytes(hash16(writer))


def unpack_writer(key: bytes) -> tuple[int, bytes]:
    """Return the run number and writer hash in a key of `pack_writer`."""
    _, _, run_no, digest = tuples.unpack(key)
    return run_no, digest


# --- series --------------------------------------------------------------------------


def pack_series(run_no: int, series_no: int) -> bytes:
    """Return the key of a series record."""
    return _PREFIX[Subspace.SERIES] + pack_int(run_no) + pack_int(series_no)


def unpack_series(key: bytes) -> tuple[int, int]:
    """Return the run and series number in a key of `pack_series`."""
    run_no, series_no = unpack_ints(key, _PREFIX_BYTES)
    return run_no, series_no


def series_hash(kind: str, name: str, context_text: str) -> bytes:
    """Return the 16 bytes that stand for a series in `pack_series_id`."""
    return hash16(kind, name, context_text)


def pack_series_id(run_no: int, digest: bytes) -> bytes:
    """Return the key that maps `series_hash` to the series' number in the run."""
    return _PREFIX[Subspace.SERIES_ID] + pack_int(run_no) + _bytes(digest)


def unpack_series_id(key: bytes) -> tuple[int, bytes]:
    """Return the run number and hash in a key of `pack_series_id`."""
    _, _, run_no, digest = tuples.unpack(key)
    return run_no, digest


def pack_series_name(digest: bytes) -> bytes:
    """Return the key that notes a (kind, name, context) the project has used."""
    return _PREFIX[Subspace.SERIES_NAME] + _bytes(digest)


def unpack_series_name(key: bytes) -> bytes:
    """Return the hash in a key of `pack_series_name`."""
    digest: bytes = tuples.unpack(key)[2]
    return digest


def pack_tail(run_no: int, tail_no: int, part: int) -> bytes:
    """Return the key of one part of a tail block's columns."""
    return (
        _PREFIX[Subspace.TAIL] + pack_int(run_no) + pack_int(tail_no) + pack_int(part)
    )


def unpack_tail(key: bytes) -> tuple[int, int, int]:
    """Return run number, tail number and part in a key of `pack_tail`."""
    run_no, tail_no, part = unpack_ints(key, _PREFIX_BYTES)
    return run_no, tail_no, part


def pack_tail_payload(run_no: int, tail_no: int, part: int) -> bytes:
    """Return the key of one part of a tail block's object payloads."""
    return (
        _PREFIX[Subspace.TAIL_PAYLOAD]
        + pack_int(run_no)
        + pack_int(tail_no)
        + pack_int(part)
    )


def unpack_tail_payload(key: bytes) -> tuple[int, int, int]:
    """Return run number, tail number and part in a key of `pack_tail_payload`."""
    return unpack_tail(key)


def tail_range(
    run_no: int, first: int, stop: int, *, subspace: Subspace = Subspace.TAIL
) -> Range:
    """Return the range of tail blocks first <= tail_no < stop."""
    prefix = run_prefix(subspace, run_no)
    return prefix + pack_int(first), prefix + pack_int(stop)


def pack_chunk(run_no: int, series_no: int, first_step: int, part: int) -> bytes:
    """Return the key of one part of a sealed chunk."""
    return (
        _PREFIX[Subspace.CHUNK]
        + pack_int(run_no)
        + pack_int(series_no)
        + pack_int(first_step)
        + pack_int(part)
    )


def unpack_chunk(key: bytes) -> tuple[int, int, int, int]:
    """Return run, series, first step and part in a key of `pack_chunk`."""
    run_no, series_no, first_step, part = unpack_ints(key, _PREFIX_BYTES)
    return run_no, series_no, first_step, part


def pack_chunk_summary(run_no: int, series_no: int, first_step: int) -> bytes:
    """Return the key of a sealed chunk's summary."""
    return (
        _PREFIX[Subspace.CHUNK_SUMMARY]
        + pack_int(run_no)
        + pack_int(series_no)
        + pack_int(first_step)
    )


def unpack_chunk_summary(key: bytes) -> tuple[int, int, int]:
    """Return run, series and first step in a key of `pack_chunk_summary`."""
    run_no, series_no, first_step = unpack_ints(key, _PREFIX_BYTES)
    return run_no, series_no, first_step


def series_span(
    subspace: Subspace, run_no: int, first_series: int, last_series: int
) -> Range:
    """Return the keys of series first to last, both included, in `subspace`."""
    prefix = run_prefix(subspace, run_no)
    return prefix + pack_int(first_series), prefix + pack_int(last_series) + b"\xff"


def chunk_range(
    subspace: Subspace,
    run_no: int,
    series_no: int,
    start: int | None = None,
    stop: int | None = None,
) -> Range:
    """Return the keys of a series' chunks with start <= first step < stop.

    `subspace` is `CHUNK` or `CHUNK_SUMMARY`; None leaves that side open.
    """
    prefix = run_prefix(subspace, run_no) + pack_int(series_no)
    begin = prefix + (b"\x00" if start is None else pack_int(start))
    end = prefix + (b"\xff" if stop is None else pack_int(stop))
    return begin, end


# --- entities ------------------------------------------------------------------------


def pack_experiment(experiment_id: str) -> bytes:
    """Return the key of an experiment."""
    return _PREFIX[Subspace.EXPERIMENT] + _id(experiment_id)


def unpack_experiment(key: bytes) -> str:
    """Return the id in a key of `pack_experiment`."""
    return _unpack_text(key)


def pack_experiment_name(name: str) -> bytes:
    """Return the key that maps an experiment's name, hashed, to its id."""
    return _PREFIX[Subspace.EXPERIMENT_NAME] + _bytes(hash16(name))


def unpack_experiment_name(key: bytes) -> bytes:
    """Return the hash in a key of `pack_experiment_name`."""
    digest: bytes = tuples.unpack(key)[2]
    return digest


def pack_tag(tag_id: str) -> bytes:
    """Return the key of a tag."""
    return _PREFIX[Subspace.TAG] + _id(tag_id)


def unpack_tag(key: bytes) -> str:
    """Return the id in a key of `pack_tag`."""
    return _unpack_text(key)


def pack_tag_name(name: str) -> bytes:
    """Return the key that maps a tag's name, hashed, to its id."""
    return _PREFIX[Subspace.TAG_NAME] + _bytes(hash16(name))


def unpack_tag_name(key: bytes) -> bytes:
    """Return the hash in a key of `pack_tag_name`."""
    digest: bytes = tuples.unpack(key)[2]
    return digest


def pack_note(owner_kind: str, owner_id: str, note_id: str) -> bytes:
    """Return the key of a note on a run or an experiment."""
    return _PREFIX[Subspace.NOTE] + _id(owner_kind) + _id(owner_id) + _id(note_id)


def unpack_note(key: bytes) -> tuple[str, str, str]:
    """Return owner kind, owner id and note id in a key of `pack_note`."""
    _, _, owner_kind, owner_id, note_id = tuples.unpack(key)
    return owner_kind, owner_id, note_id


def note_range(owner_kind: str, owner_id: str) -> Range:
    """Return the range of one owner's notes."""
    return _within(_PREFIX[Subspace.NOTE] + _id(owner_kind) + _id(owner_id))


def pack_index(index: int, values: Sequence[IndexValue], run_no: int) -> bytes:
    """Return an index row's key: `values`, then the run.

    Raises:
        KeyTooLargeError: If a value is too long: hash it instead.
    """
    key: bytes = tuples.pack((PROJECT, int(Subspace.INDEX), index, *values, run_no))
    if len(key) > MAX_KEY_BYTES:
        raise KeyTooLargeError(size=len(key), limit=MAX_KEY_BYTES)
    return key


def unpack_index(key: bytes) -> tuple[int, tuple[IndexValue, ...], int]:
    """Return index, values and run number in a key of `pack_index`."""
    _, _, index, *values, run_no = tuples.unpack(key)
    return index, tuple(values), run_no


def index_range(index: int, values: Sequence[IndexValue] = ()) -> Range:
    """Return the range of the rows of `index` whose values begin with `values`."""
    return _within(tuples.pack((PROJECT, int(Subspace.INDEX), index, *values)))


def _unpack_text(key: bytes) -> str:
    text: str = tuples.unpack(key)[2]
    return text

"""Golden bytes of every key, and the order and bounds that the store relies on.

A failure here means that existing stores can no longer be read: see format_version.py.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import KeyTooLargeError
from backend.storage import keyspace, tuples
from backend.storage.keyspace import Subspace

RUN_NO = 1_760_000_000_000_000
HASH = bytes(range(16))

GOLDEN: dict[str, tuple[bytes, str, tuple[Any, ...]]] = {
    "format": (keyspace.pack_format(), "14150102666f726d617400", (0, 1, "format")),
    "run_id": (keyspace.pack_run_id("abc"), "1415020261626300", (0, 2, "abc")),
    "run": (keyspace.pack_run(RUN_NO), "1415031b0640b5eece0000", (0, 3, RUN_NO)),
    "attributes": (
        keyspace.pack_attributes(RUN_NO, 1),
        "1415041b0640b5eece00001501",
        (0, 4, RUN_NO, 1),
    ),
    "series": (keyspace.pack_series(7, 300), "14150515071601 2c", (0, 5, 7, 300)),
    "series_id": (
        keyspace.pack_series_id(7, HASH),
        "1415061507 01 00ff 0102030405060708090a0b0c0d0e0f 00",
        (0, 6, 7, HASH),
    ),
    "tail": (keyspace.pack_tail(7, 256, 0), "1415071507 160100 14", (0, 7, 7, 256, 0)),
    "chunk": (
        keyspace.pack_chunk(7, 0, -2, 1),
        "1415081507 14 13fd 1501",
        (0, 8, 7, 0, -2, 1),
    ),
    "chunk_summary": (
        keyspace.pack_chunk_summary(7, 1, -(2**63) + 1),
        "1415091507 1501 0c8000000000000000",
        (0, 9, 7, 1, -(2**63) + 1),
    ),
    "blob": (
        keyspace.pack_blob(7, HASH),
        "14151a1507 01 00ff 0102030405060708090a0b0c0d0e0f 00",
        (0, 26, 7, HASH),
    ),
    "run_state": (keyspace.pack_run_state(7), "14150b1507", (0, 11, 7)),
    "copy": (keyspace.pack_copy(), "14151902636f707900", (0, 25, "copy")),
    "tombstone": (keyspace.pack_tombstone("a"), "14150c026100", (0, 12, "a")),
    "experiment": (keyspace.pack_experiment("e"), "14150d026500", (0, 13, "e")),
    "tag": (keyspace.pack_tag("t"), "14150f027400", (0, 15, "t")),
    "note": (
        keyspace.pack_note("run", "r", "n"),
        "141511 0272756e00 027200 026e00",
        (0, 17, "run", "r", "n"),
    ),
    "index": (
        keyspace.pack_index(3, (1, "x"), 7),
        "141513 1503 1501 027800 1507",
        (0, 19, 3, 1, "x", 7),
    ),
    "outbox": (
        keyspace.pack_outbox(5, HASH),
        "1415141505 01 00ff 0102030405060708090a0b0c0d0e0f 00",
        (0, 20, 5, HASH),
    ),
    "sealing": (keyspace.pack_sealing(7), "14151c1507", (0, 28, 7)),
    "reaction": (
        keyspace.pack_reaction(HASH),
        "14151b 01 00ff 0102030405060708090a0b0c0d0e0f 00",
        (0, 27, HASH),
    ),
    "tail_payload": (
        keyspace.pack_tail_payload(7, 1, 0),
        "1415171507 1501 14",
        (0, 23, 7, 1, 0),
    ),
    "series_name": (
        keyspace.pack_series_name(HASH),
        "141518 01 00ff 0102030405060708090a0b0c0d0e0f 00",
        (0, 24, HASH),
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_keys_keep_their_bytes(name: str) -> None:
    key, golden, items = GOLDEN[name]
    assert key.hex() == golden.replace(" ", "")
    assert key == tuples.pack(items)


def test_hashes_keep_their_bytes() -> None:
    assert keyspace.hash16("metric", "loss", "{}").hex() == HASH_OF_LOSS
    assert keyspace.hash16("ab", "c") != keyspace.hash16("a", "bc")


HASH_OF_LOSS = "c791c69e390d1de843b8fc52074ac23d"


def test_hashed_keys_hold_the_hash() -> None:
    digest = keyspace.hash16("name")
    for key, prefix in (
        (keyspace.pack_writer(7, "name"), (0, 10, 7)),
        (keyspace.pack_experiment_name("name"), (0, 14)),
        (keyspace.pack_tag_name("name"), (0, 16)),
        (keyspace.pack_artifact(7, "name"), (0, 18, 7)),
    ):
        assert key == tuples.pack((*prefix, digest))


def test_subspaces_are_permanent() -> None:
    assert {space.name: int(space) for space in Subspace} == {
        "FORMAT": 1,
        "RUN_ID": 2,
        "RUN": 3,
        "ATTRIBUTES": 4,
        "SERIES": 5,
        "SERIES_ID": 6,
        "TAIL": 7,
        "CHUNK": 8,
        "CHUNK_SUMMARY": 9,
        "WRITER": 10,
        "RUN_STATE": 11,
        "TOMBSTONE": 12,
        "EXPERIMENT": 13,
        "EXPERIMENT_NAME": 14,
        "TAG": 15,
        "TAG_NAME": 16,
        "NOTE": 17,
        "ARTIFACT": 18,
        "INDEX": 19,
        "OUTBOX": 20,
        "DOCUMENT": 21,
        "PROJECT_PARAMS": 22,
        "TAIL_PAYLOAD": 23,
        "SERIES_NAME": 24,
        "COPY": 25,
        "BLOB": 26,
        "REACTION": 27,
        "SEALING": 28,
    }


int64s = st.integers(-(2**63), 2**63 - 1)
numbers = st.integers(0, 2**62)


@given(int64s)
def test_integers_are_packed_as_fdb_packs_them(value: int) -> None:
    assert keyspace.pack_int(value) == tuples.pack((value,))
    assert keyspace.unpack_ints(keyspace.pack_int(value), 0) == [value]


@given(numbers, numbers, int64s, st.integers(0, 200))
def test_series_keys_round_trip(run_no: int, series: int, step: int, part: int) -> None:
    chunk = keyspace.pack_chunk(run_no, series, step, part)
    assert keyspace.unpack_chunk(chunk) == (run_no, series, step, part)
    summary = keyspace.pack_chunk_summary(run_no, series, step)
    assert keyspace.unpack_chunk_summary(summary) == (run_no, series, step)
    tail = keyspace.pack_tail(run_no, series, part)
    assert keyspace.unpack_tail(tail) == (run_no, series, part)
    payload = keyspace.pack_tail_payload(run_no, series, part)
    assert keyspace.unpack_tail_payload(payload) == (run_no, series, part)
    assert keyspace.unpack_series(keyspace.pack_series(run_no, series)) == (
        run_no,
        series,
    )


@given(st.lists(int64s, min_size=2, max_size=20, unique=True))
def test_chunks_sort_by_first_step(steps: list[int]) -> None:
    keys = [keyspace.pack_chunk(1, 2, step, 0) for step in steps]
    assert [keyspace.unpack_chunk(key)[2] for key in sorted(keys)] == sorted(steps)


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_text_keys_round_trip(first: str, second: str, third: str) -> None:
    assert keyspace.unpack_run_id(keyspace.pack_run_id(first)) == first
    assert keyspace.unpack_tombstone(keyspace.pack_tombstone(first)) == first
    assert keyspace.unpack_experiment(keyspace.pack_experiment(first)) == first
    assert keyspace.unpack_tag(keyspace.pack_tag(first)) == first
    note = keyspace.pack_note(first, second, third)
    assert keyspace.unpack_note(note) == (first, second, third)
    index = keyspace.pack_index(1, (first, 2), 3)
    assert keyspace.unpack_index(index) == (1, (first, 2), 3)


def test_ranges_hold_their_keys_and_no_others() -> None:
    begin, end = keyspace.run_range(Subspace.TAIL, 7)
    assert begin < keyspace.pack_tail(7, 0, 0) < keyspace.pack_tail(7, 2**40, 9) < end
    assert not begin <= keyspace.pack_tail(8, 0, 0) < end
    begin, end = keyspace.chunk_range(Subspace.CHUNK, 7, 3, -5, 10)
    assert begin <= keyspace.pack_chunk(7, 3, -5, 0) < end
    assert begin <= keyspace.pack_chunk(7, 3, 9, 255) < end
    assert not begin <= keyspace.pack_chunk(7, 3, 10, 0) < end
    assert not begin <= keyspace.pack_chunk(7, 3, -6, 0) < end
    begin, end = keyspace.series_span(Subspace.CHUNK, 7, 3, 5)
    assert begin < keyspace.pack_chunk(7, 5, 2**63 - 1, 9) < end
    assert not begin <= keyspace.pack_chunk(7, 6, 0, 0) < end
    begin, end = keyspace.run_span(Subspace.SERIES, 7, 9)
    assert begin < keyspace.pack_series(9, 2**31) < end
    assert not begin <= keyspace.pack_series(10, 0) < end
    begin, end = keyspace.tail_range(7, 2, 300)
    assert begin <= keyspace.pack_tail(7, 2, 0) < keyspace.pack_tail(7, 299, 99) < end
    assert not begin <= keyspace.pack_tail(7, 300, 0) < end


def test_what_deleting_a_run_must_clear_is_covered() -> None:
    ranges = keyspace.run_data_ranges(7)
    keys = [
        keyspace.pack_run(7),
        keyspace.pack_attributes(7, 0),
        keyspace.pack_series(7, 1),
        keyspace.pack_series_id(7, HASH),
        keyspace.pack_tail(7, 1, 0),
        keyspace.pack_tail_payload(7, 1, 0),
        keyspace.pack_chunk(7, 1, -1, 0),
        keyspace.pack_chunk_summary(7, 1, 5),
        keyspace.pack_writer(7, "w"),
        keyspace.pack_run_state(7),
        keyspace.pack_artifact(7, "p"),
        keyspace.pack_blob(7, HASH),
        keyspace.pack_sealing(7),
    ]
    assert len(keys) == len(ranges)
    for key in keys:
        assert sum(begin <= key < end for begin, end in ranges) == 1
    neighbours = [keyspace.pack_run(8), keyspace.pack_tail(6, 1, 0)]
    assert not any(b <= key < e for key in neighbours for b, e in ranges)


def test_every_key_stays_under_the_limit() -> None:
    most, text = 2**63 - 1, "é" * 64
    keys = [
        keyspace.pack_chunk(most, most, -most, 255),
        keyspace.pack_note(text[:10], text, text),
        keyspace.pack_document(text, text, 255),
        keyspace.pack_series_id(most, bytes(16)),
    ]
    assert max(map(len, keys)) < keyspace.MAX_KEY_BYTES


def test_unbounded_text_is_refused() -> None:
    with pytest.raises(KeyTooLargeError, match="size=129"):
        keyspace.pack_run_id("x" * 129)
    with pytest.raises(KeyTooLargeError):
        keyspace.pack_index(1, ("x" * 400,), 1)


def test_bytes_that_are_no_integers_are_refused() -> None:
    with pytest.raises(ValueError, match="Not an integer element"):
        keyspace.unpack_ints(b"\x02a\x00", 0)

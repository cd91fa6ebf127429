"""Keys, values and ranges: what is written is read, in key order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import KeyOutsideRangeError
from backend.storage.engine.base import Engine, KeyRange

PAIRS = [(b"%c" % letter, b"value of %c" % letter) for letter in b"abcdefgh"]


@pytest.fixture
def filled(engine: Engine) -> Engine:
    def fill(tr):
        for key, value in PAIRS:
            tr.set(key, value)

    engine.transact(fill)
    return engine


def test_get_returns_none_for_a_missing_key(engine):
    assert engine.read(lambda tr: tr.get(b"missing")) is None


def test_an_empty_value_is_not_a_missing_one(engine):
    engine.transact(lambda tr: tr.set(b"k", b""))
    assert engine.read(lambda tr: tr.get(b"k")) == b""


def test_transact_and_read_return_what_fn_returns(engine):
    assert engine.transact(lambda tr: "written") == "written"
    assert engine.read(lambda tr: ["read"]) == ["read"]


def test_get_many_keeps_the_order_of_its_keys(filled):
    keys = [b"c", b"nowhere", b"a", b"c"]
    expected = [b"value of c", None, b"value of a", b"value of c"]
    assert filled.read(lambda tr: tr.get_many(keys)) == expected
    assert filled.transact(lambda tr: tr.get_many(keys)) == expected
    assert filled.read(lambda tr: tr.get_many([])) == []


@pytest.mark.parametrize(
    ("begin", "end", "expected"),
    [
        (b"", b"\xff", "abcdefgh"),
        (b"c", b"e", "cd"),
        (b"c", b"e\x00", "cde"),
        (b"bb", b"dd", "cd"),
        (b"h", b"z", "h"),
        (b"i", b"z", ""),
        (b"\x01", b"a", ""),
        (b"c", b"c", ""),
        (b"e", b"c", ""),
    ],
)
def test_get_range_is_half_open(filled, begin, end, expected):
    pairs = [pair for pair in PAIRS if pair[0].decode() in expected]
    for run in (filled.read, filled.transact):
        assert run(lambda tr: tr.get_range(begin, end)) == pairs
        assert run(lambda tr: tr.get_range(begin, end, reverse=True)) == pairs[::-1]


@pytest.mark.parametrize("limit", [1, 3, 8, 9])
def test_get_range_stops_at_the_limit(filled, limit):
    for run in (filled.read, filled.transact):
        assert run(lambda tr: tr.get_range(b"a", b"z", limit=limit)) == PAIRS[:limit]
        last_first = run(lambda tr: tr.get_range(b"a", b"z", limit=limit, reverse=True))
        assert last_first == PAIRS[::-1][:limit]


def test_get_ranges_answers_each_range(filled):
    ranges = [
        KeyRange(b"a", b"c"),
        KeyRange(b"x", b"z"),
        KeyRange(b"b", b"g", limit=2, reverse=True),
    ]
    expected = [PAIRS[0:2], [], [PAIRS[5], PAIRS[4]]]
    assert filled.read(lambda tr: tr.get_ranges(ranges)) == expected
    assert filled.transact(lambda tr: tr.get_ranges(ranges)) == expected
    assert filled.read(lambda tr: tr.get_ranges([])) == []


def test_clear_and_clear_range_remove(filled):
    def remove(tr):
        tr.clear(b"a")
        tr.clear(b"nowhere")
        tr.clear_range(b"c", b"f")
        tr.clear_range(b"h", b"g")

    filled.transact(remove)
    keys = [key for key, _ in filled.read(lambda tr: tr.get_range(b"", b"\xff"))]
    assert keys == [b"b", b"f", b"g", b"h"]


def test_keys_sort_bytewise(engine):
    keys = [
        b"\x00",
        b"\x00\x00",
        b"\x00\xff",
        b"\x01",
        b"a",
        b"a\x00",
        b"aa",
        b"\xfe\xff",
    ]

    def write(tr):
        for key in reversed(keys):
            tr.set(key, key)

    engine.transact(write)
    pairs = engine.read(lambda tr: tr.get_range(b"", b"\xff"))
    assert pairs == [(key, key) for key in keys]


def test_large_ranges_arrive_whole(engine):
    def write(tr):
        for number in range(5000):
            tr.set(b"%06d" % number, b"v" * 100)

    engine.transact(write)
    forward = engine.read(lambda tr: tr.get_range(b"0", b"9"))
    backward = engine.read(lambda tr: tr.get_range(b"0", b"9", reverse=True))
    assert [int(key) for key, _ in forward] == list(range(5000))
    assert backward == forward[::-1]


@pytest.mark.parametrize("key", [b"", b"\xff", b"\xff\x01"])
def test_keys_outside_the_key_space_are_refused(engine, key):
    writes = [
        lambda tr: tr.set(key, b""),
        lambda tr: tr.clear(key),
        lambda tr: tr.add(key, 1),
        lambda tr: tr.watch(key),
    ]
    for write in writes:
        with pytest.raises(KeyOutsideRangeError, match="outside the key space"):
            engine.transact(write)


@pytest.mark.parametrize("key", [b"\xff", b"\xffcommits"])
def test_what_lies_outside_the_key_space_cannot_be_read(engine, key):
    engine.transact(lambda tr: tr.set_versionstamped_key(b"k", b"", b""))
    for run in (engine.read, engine.transact):
        for read in (lambda tr: tr.get(key), lambda tr: tr.get_many([b"a", key])):
            with pytest.raises(KeyOutsideRangeError):
                run(read)
        assert run(lambda tr: tr.get(b"")) is None


def test_ranges_outside_the_key_space_are_refused(engine):
    for use in (
        lambda tr: tr.get_range(b"a", b"\xff\x01"),
        lambda tr: tr.clear_range(b"a", b"\xff\x01"),
        lambda tr: tr.add_read_conflict_range(b"a", b"\xff\x01"),
        lambda tr: tr.add_write_conflict_range(b"a", b"\xff\x01"),
    ):
        with pytest.raises(KeyOutsideRangeError):
            engine.transact(use)


def test_keys_longer_than_allowed_are_not_found(engine):
    assert engine.read(lambda tr: tr.get(b"k" * 5000)) is None
    assert engine.read(lambda tr: tr.get_range(b"k" * 5000, b"l" * 5000)) == []


KEYS = st.binary(min_size=1, max_size=4).filter(lambda key: key[0] != 0xFF)


@given(
    content=st.dictionaries(KEYS, st.binary(max_size=8), max_size=40),
    begin=st.binary(max_size=4).filter(lambda key: key < b"\xff"),
    end=st.one_of(st.just(b"\xff"), KEYS),
    limit=st.integers(0, 10),
    reverse=st.booleans(),
)
def test_any_range_equals_the_sorted_dictionary(
    engine, content, begin, end, limit, reverse
):
    def write(tr):
        tr.clear_range(b"", b"\xff")
        for key, value in content.items():
            tr.set(key, value)

    engine.transact(write)
    expected = sorted(pair for pair in content.items() if begin <= pair[0] < end)
    expected = (expected[::-1] if reverse else expected)[: limit or None]

    def read(tr):
        return tr.get_range(begin, end, limit=limit, reverse=reverse)

    assert engine.read(read) == expected
    assert engine.transact(read) == expected

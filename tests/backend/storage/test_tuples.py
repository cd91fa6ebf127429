"""Keys equal FoundationDB's own, byte for byte."""

from __future__ import annotations

import subprocess
import sys
import uuid

import fdb.tuple as reference
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.storage import tuples

INTEGERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.integers(0, 2000),
    st.builds(
        lambda size, sign, near: sign * 2 ** (8 * size) + near,
        st.integers(0, 9),
        st.sampled_from([-1, 1]),
        st.integers(-1, 1),
    ),
)
ELEMENTS = st.recursive(
    st.one_of(
        INTEGERS,
        st.text(max_size=8),
        st.binary(max_size=8),
        st.sampled_from(["a\x00b", "\x00", "\x00\xff"]),
        st.sampled_from([b"a\x00b", b"\x00", b"\x00\xff", b"\xff\x00"]),
        st.booleans(),
        st.none(),
        st.floats(allow_nan=False),
        st.uuids(),
    ),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=5,
)
KEYS = st.lists(ELEMENTS, max_size=6).map(tuple)


@given(KEYS)
def test_pack_equals_the_reference(items):
    assert tuples.pack(items) == reference.pack(items)


@given(KEYS)
def test_unpack_gives_back_what_was_packed(items):
    packed = tuples.pack(items)
    assert tuples.unpack(packed) == items
    assert tuples.unpack(packed) == reference.unpack(packed)
    assert tuples.unpack(b"before" + packed, 6) == items


@given(st.lists(st.tuples(INTEGERS, st.text(max_size=4), INTEGERS), max_size=10))
def test_packed_keys_sort_like_their_tuples(items):
    assert [tuples.unpack(key) for key in sorted(map(tuples.pack, items))] == sorted(
        items, key=lambda item: (item[0], item[1].encode(), item[2])
    )


def test_a_complete_versionstamp_needs_no_library():
    stamp = tuples.Versionstamp(b"0123456789", 7)
    packed = tuples.pack((1, stamp, "x"))
    assert packed == b"\x15\x01\x330123456789\x00\x07\x02x\x00"
    assert tuples.unpack(packed) == (1, stamp, "x")
    assert tuples.unpack(tuples.pack(((stamp,),))) == ((stamp,),)


def test_an_incomplete_versionstamp_is_refused():
    with pytest.raises(ValueError, match="Incomplete versionstamp"):
        tuples.pack((tuples.Versionstamp(),))


def test_versionstamp_element_surrounds_the_stamp_of_a_key():
    before, after = tuples.versionstamp_element(3)
    key = tuples.pack((20,)) + before + b"0123456789" + after + tuples.pack(("x",))
    assert tuples.unpack(key) == (20, tuples.Versionstamp(b"0123456789", 3), "x")


@pytest.mark.parametrize(
    "key",
    [
        b"\x01abc",
        b"\x16\x01",
        b"\x12\x01",
        b"\x02\xc3\x00",
        b"\x99",
        b"\x21\x00",
        b"\x33ab",
    ],
)
def test_bytes_that_are_no_key_are_refused(key):
    with pytest.raises(ValueError):  # noqa: PT011 - the text is the binding's
        tuples.unpack(key)


@pytest.mark.parametrize("item", [object(), {1}, 1 + 2j])
def test_elements_without_a_place_in_keys_are_refused(item):
    with pytest.raises(ValueError, match="Unsupported data type"):
        tuples.pack((item,))


def test_range_of_holds_the_longer_tuples_only():
    begin, end = tuples.range_of((1, "a"))
    inside = [(1, "a", 0), (1, "a", -5), (1, "a", "x"), (1, "a", None)]
    outside = [(1, "a"), (1, "ab"), (1, "b"), (2,), (1,)]
    assert all(begin <= tuples.pack(item) < end for item in inside)
    assert not any(begin <= tuples.pack(item) < end for item in outside)


def test_next_prefix_follows_every_key_of_the_prefix():
    assert tuples.next_prefix(b"a") == b"b"
    assert tuples.next_prefix(b"a\xff\xff") == b"b"
    with pytest.raises(ValueError, match="No key follows"):
        tuples.next_prefix(b"\xff")
    with pytest.raises(ValueError, match="No key follows"):
        tuples.next_prefix(b"")


def test_pack_accepts_uuids():
    identity = uuid.UUID(int=5)
    assert tuples.unpack(tuples.pack((identity,))) == (identity,)


def test_importing_it_loads_no_native_library_and_prints_nothing():
    code = (
        "import sys, backend.storage.tuples\n"
        "assert 'fdb.impl' not in sys.modules\n"
        "assert 'libfdb_c' not in open('/proc/self/maps').read()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True
    )
    assert (result.stdout, result.stderr) == (b"", b"")

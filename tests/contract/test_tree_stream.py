"""The tree stream: the contract's vectors, the safety rules, and the decoder."""

import datetime
import decimal
import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matyan_wire.tree_stream import (
    TreeDecoder,
    TreeStreamError,
    encode_float64s,
    encode_key,
    encode_progress,
    encode_tree,
    is_progress,
    iter_trees,
)

VECTORS = json.loads(
    Path(__file__).with_name("streaming_vectors.json").read_text(encoding="utf-8")
)


def revive(node):
    """Return the tree a vector's JSON stands for."""
    if isinstance(node, list):
        return [revive(child) for child in node]
    if not isinstance(node, dict):
        return node
    if "$bytes" in node:
        return bytes.fromhex(node["$bytes"])
    if "$float" in node:
        return float(node["$float"])
    if "$map" in node:
        return {key: revive(child) for key, child in node["$map"]}
    return {key: revive(child) for key, child in node.items()}


def successive_trees(vector):
    tree = revive(vector["tree"])
    return tree if vector["name"] == "full_run_search_stream" else [tree]


def decode(data, *, cut=None):
    cut = cut or max(1, len(data))
    return list(iter_trees(data[i : i + cut] for i in range(0, len(data), cut)))


def test_there_are_45_vectors():
    assert len(VECTORS) == 45


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_encoder_writes_the_vectors_byte_for_byte(vector):
    data = b"".join(encode_tree(tree, exact=True) for tree in successive_trees(vector))

    assert data.hex() == vector["hex"]


UNSAFE = {"int_max", "int_over_2_31", "int_key_negative", "empty_string_key"}


@pytest.mark.parametrize(
    "vector",
    [vector for vector in VECTORS if vector["name"] not in UNSAFE],
    ids=lambda vector: vector["name"],
)
def test_safe_encoder_writes_the_same_where_no_decoder_stumbles(vector):
    data = b"".join(encode_tree(tree) for tree in successive_trees(vector))

    assert data.hex() == vector["hex"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
@pytest.mark.parametrize("cut", [1, 7, None])
def test_decoder_reads_the_vectors_cut_anywhere(vector, cut):
    pairs = decode(bytes.fromhex(vector["hex"]), cut=cut)

    again = b"".join(encode_tree({key: tree}, exact=True) for key, tree in pairs)
    expected = b"".join(
        encode_tree({key: child}, exact=True)
        for tree in successive_trees(vector)
        for key, child in (tree.items() if isinstance(tree, dict) else enumerate(tree))
    )
    assert again == expected


def test_large_integers_become_floats():
    tree = {"a": 2**31, "b": -(2**31), "c": 2**31 - 1, "d": 2**63, "e": -(10**400)}

    decoded = dict(decode(encode_tree(tree)))

    assert decoded == {
        "a": 2.0**31,
        "b": -(2.0**31),
        "c": 2**31 - 1,
        "d": 2.0**63,
        "e": -math.inf,
    }
    assert [type(decoded[key]) for key in "abc"] == [float, float, int]


def test_an_integer_beyond_64_bits_does_not_break_an_exact_stream():
    assert decode(encode_tree({"a": 2**64}, exact=True)) == [("a", 2.0**64)]


def test_empty_keys_are_renamed():
    assert decode(encode_tree({"r": {"": 1, "b": {"": {}}}})) == [
        ("r", {"_": 1, "b": {"_": {}}})
    ]


def test_an_empty_key_gives_way_to_a_real_underscore():
    assert decode(encode_tree({"r": {"": 1, "_": 2}})) == [("r", {"_": 2})]
    assert decode(encode_tree({"r": {"_": 2, "": 1}})) == [("r", {"_": 2})]


def test_negative_integer_keys_are_dropped():
    assert decode(encode_tree({-5: "x", 0: "y"})) == [(0, "y")]


def test_odd_keys_become_text():
    assert decode(encode_tree({"r": {None: 1, 1.5: 2, True: 3}})) == [
        ("r", {"None": 1, "1.5": 2, "True": 3})
    ]


def test_lone_surrogates_do_not_break_the_stream():
    assert decode(encode_tree({"a\ud800": "b\udfff"})) == [("a?", "b?")]


def test_other_types_have_a_meaning():
    day = datetime.datetime(2026, 11, 23, 12, tzinfo=datetime.UTC)
    tree = {
        "r": {
            "date": datetime.date(2026, 11, 23),
            "time": day,
            "naive": day.replace(tzinfo=None),
            "decimal": decimal.Decimal("1.5"),
            "tuple": (1, 2),
            "generator": (i for i in range(2)),
            "numpy": np.float32(0.5),
            "matrix": np.eye(2),
            "other": slice(1),
        }
    }

    [(_, decoded)] = decode(encode_tree(tree))

    assert decoded == {
        "date": day.timestamp() - 12 * 3600,
        "time": day.timestamp(),
        "naive": day.timestamp(),
        "decimal": 1.5,
        "tuple": [1, 2],
        "generator": [0, 1],
        "numpy": 0.5,
        "matrix": [[1.0, 0.0], [0.0, 1.0]],
        "other": "slice(None, 1, None)",
    }


def test_columns_of_any_number_type_travel_as_float64():
    data = encode_tree(
        {"a": np.arange(3, dtype=np.int32), "b": np.array([0.5, np.nan])}
    )

    decoded = dict(decode(data))

    assert decoded["a"].dtype == np.float64
    assert decoded["a"].tolist() == [0.0, 1.0, 2.0]
    np.testing.assert_array_equal(decoded["b"], [0.5, np.nan])


def test_the_hot_path_writes_what_the_general_encoder_writes():
    column = np.array([1.0, np.inf, np.nan])
    prefix = encode_key("run") + encode_key("traces") + encode_key(3)

    fast = encode_float64s(prefix, 3, column.tobytes())

    assert fast == encode_tree(column, prefix=prefix)


def test_columns_are_arrays_without_numpy(monkeypatch):
    data = encode_tree({"a": {"b": np.array([1.0, 2.0])}})
    monkeypatch.setitem(sys.modules, "numpy", None)

    [(_, tree)] = decode(data)

    assert tree["b"].typecode == "d"
    assert tree["b"].tolist() == [1.0, 2.0]


def test_a_column_of_unknown_type_stays_an_object():
    column = {"type": "numpy", "shape": 1, "dtype": "complex256", "blob": b"\0" * 32}

    assert decode(encode_tree({"a": column})) == [("a", column)]


def test_a_tree_is_delivered_when_the_next_begins():
    decoder = TreeDecoder()

    assert list(decoder.feed(encode_tree({"a": {"x": 1}}))) == []
    assert list(decoder.feed(encode_tree({"b": 2}))) == [("a", {"x": 1})]
    assert list(decoder.finish()) == [("b", 2)]


def test_progress_frames_are_told_apart():
    [(key, value)] = decode(encode_progress(3, 5, 9))

    assert (key, value) == ("progress_3", [5, 9])
    assert is_progress(key)
    assert not is_progress("progress")
    assert not is_progress(3)


def test_an_empty_body_is_an_empty_result():
    assert decode(b"") == []


def test_a_cut_stream_is_an_error():
    with pytest.raises(TreeStreamError, match="ends inside a pair"):
        decode(encode_tree({"a": 1})[:-1])


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (bytes.fromhex("01000000 61 01000000 00"), "not a tree stream"),
        (bytes.fromhex("02000000 61fe 01000000 09"), "not a tree stream"),
        (bytes.fromhex("02000000 61fe 02000000 02 00"), "not a tree stream"),
        (bytes.fromhex("02000000 61fe 00000000"), "not a tree stream"),
        (bytes.fromhex("02000000 fffe 01000000 00"), "not a tree stream"),
        (
            encode_tree({"a": 1}) + encode_tree({"a": {"b": {"c": 1}}}),
            "under a value",
        ),
        (encode_tree([], prefix=b"a\xfe") + encode_tree({"a": {2: 1}}), "cannot stand"),
    ],
)
def test_bytes_that_are_no_stream_are_an_error(data, text):
    with pytest.raises(TreeStreamError, match=text):
        decode(data)


keys = st.text(min_size=1, max_size=8)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**31) + 1, 2**31 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=12)
    | st.binary(max_size=12)
)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=25,
)


@settings(max_examples=150, deadline=None)
@given(
    forest=st.lists(st.tuples(keys | st.integers(0, 2**40), trees), max_size=5),
    cut=st.integers(1, 64),
)
def test_what_is_encoded_is_decoded(forest, cut):
    forest = [
        next(group) for _, group in itertools.groupby(forest, lambda pair: pair[0])
    ]
    data = b"".join(encode_tree({key: tree}) for key, tree in forest)

    assert decode(data, cut=cut) == forest

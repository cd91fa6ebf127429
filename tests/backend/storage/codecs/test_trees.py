"""Attribute trees: every value comes back, bytes do not change, damage is named."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import FormatError, LimitExceededError
from backend.storage.codecs.trees import decode_tree, encode_tree

any_text = st.text(st.characters(), max_size=8)
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**200), 2**200),
        st.floats(),
        any_text,
        st.binary(max_size=8),
    ),
    lambda children: st.one_of(
        st.lists(children, max_size=4),
        st.dictionaries(any_text, children, max_size=4),
    ),
    max_leaves=20,
)


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal in type and to the bit."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return struct.pack("<d", left) == struct.pack("<d", right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(
            same(left[key], right[key]) for key in left
        )
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@given(st.dictionaries(any_text, values, max_size=6))
def test_tree_comes_back(tree: dict[str, Any]) -> None:
    assert same(decode_tree(encode_tree(tree), key=b"k"), tree)


@pytest.mark.parametrize(
    "tree",
    [
        {"": {"": 1}},
        {"n": math.nan, "i": -math.inf},
        {"big": 2**64, "small": -(2**63) - 1},
        {"\ud800": ["\udfff", {"\ud801": 10**40}]},
        {"a": [[], [[1]], {}]},
        {"text": "x" * 200_000},
    ],
)
def test_odd_tree_comes_back(tree: dict[str, Any]) -> None:
    assert same(decode_tree(encode_tree(tree), key=b"k"), tree)


def test_bytes_are_stable() -> None:
    found = encode_tree({"a": 1, "é": [1.5, None], "b": 2**70})
    body = bytes.fromhex(
        "83a16101a2c3a992cb3ff8000000000000c0a162c70901400000000000000000"
    )
    assert found[6:] == body
    assert found[:2] == b"\x01\x00"


def test_long_trees_are_compressed() -> None:
    tree = {f"package{i}": "1.0" for i in range(1_000)}
    assert len(encode_tree(tree)) < 6_000


def test_too_large_tree_is_refused() -> None:
    with pytest.raises(LimitExceededError, match="attributes"):
        encode_tree({"a": "x" * (4 * 1024 * 1024)})


def test_too_deep_tree_is_refused() -> None:
    tree: dict[str, Any] = {}
    for _ in range(64):
        tree = {"a": [tree]}
    with pytest.raises(LimitExceededError, match="depth"):
        encode_tree(tree)


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: value[:3],
        lambda value: b"\x09" + value[1:],
        lambda value: value[:-1] + b"\xff",
        lambda value: value[:1] + b"\x07" + value[2:],
    ],
)
def test_damaged_bytes_name_their_key(damage: Any) -> None:
    with pytest.raises(FormatError, match="6b6579"):
        decode_tree(damage(encode_tree({"a": 1})), key=b"key")

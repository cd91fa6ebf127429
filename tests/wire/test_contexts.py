from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matyan_wire.contexts import (
    MAX_CONTEXT_DEPTH,
    canonical_context,
    is_canonical_context,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("context", "text"),
    [
        (None, "{}"),
        ({}, "{}"),
        ({"subset": "train"}, '{"subset":"train"}'),
        ({"b": 1, "a": {"d": 1.0, "c": None}}, '{"a":{"c":null,"d":1.0},"b":1}'),
        ({"имя": "é"}, '{"имя":"é"}'),
        ({"x": float("nan"), "y": [float("-inf")]}, '{"x":"NaN","y":["-Infinity"]}'),
    ],
)
def test_canonical_text(context: dict[str, object] | None, text: str) -> None:
    assert canonical_context(context) == text
    assert is_canonical_context(text)


@given(st.dictionaries(st.text(), json_values))
def test_canonical_text_is_a_fixed_point(context: dict[str, object]) -> None:
    text = canonical_context(context)
    assert canonical_context(json.loads(text)) == text
    assert is_canonical_context(text)


@pytest.mark.parametrize(
    "text",
    ['{"a": 1}', '{"b":1,"a":1}', "[]", "null", "", "{", '{"x":NaN}', '"a"', "1"],
)
def test_other_texts_are_not_canonical(text: str) -> None:
    assert not is_canonical_context(text)


def test_deep_contexts_are_refused() -> None:
    context: dict[str, object] = {}
    for _ in range(MAX_CONTEXT_DEPTH):
        context = {"a": context}
    with pytest.raises(ValueError, match="nests deeper than 16"):
        canonical_context(context)
    assert not is_canonical_context("[" * 5000 + "]" * 5000)

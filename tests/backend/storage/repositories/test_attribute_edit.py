"""Editing a tree in memory: the outcome, the size kept up, refusals without a trace."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import LimitExceededError
from backend.storage.codecs.trees import encoded_size
from backend.storage.repositories import attribute_edit
from backend.storage.repositories.attribute_edit import AttributeEdit
from matyan_wire.limits import MAX_ATTRIBUTE_DEPTH

names = st.sampled_from(["a", "b", "", "ключ", "x" * 40, *map(str, range(16))])
odd_names = st.one_of(names, st.just("\ud800"))
values = st.recursive(
    st.one_of(st.integers(), st.text(max_size=40), st.floats(), st.none()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(odd_names, inner, max_size=3)
    ),
    max_leaves=6,
)
paths = st.lists(names, min_size=1, max_size=3)
trees = st.dictionaries(odd_names, values, max_size=20)
changes = st.lists(
    st.one_of(
        st.tuples(st.just("assign"), st.lists(st.tuples(paths, values), max_size=3)),
        st.tuples(st.just("delete"), st.lists(paths, max_size=3)),
    ),
    max_size=8,
)


def assigned(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        if not isinstance(tree.get(name), dict):
            tree[name] = {}
        tree = tree[name]
    tree[path[-1]] = value


def deleted(tree: Any, path: list[str]) -> None:
    for name in path[:-1]:
        tree = tree.get(name) if isinstance(tree, dict) else None
    if isinstance(tree, dict):
        tree.pop(path[-1], None)


@given(tree=trees, chosen=changes, limit=st.integers(1, 300))
def test_each_change_is_made_whole_or_refused_for_the_size_it_would_have(
    tree: dict[str, Any], chosen: list[tuple[str, Any]], limit: int
) -> None:
    edit = AttributeEdit(1, copy.deepcopy(tree), 0)
    model = copy.deepcopy(tree)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attribute_edit, "MAX_ATTRIBUTES_BYTES", limit)
        for name, argument in chosen:
            wanted = copy.deepcopy(model)
            if name == "delete":
                edit.delete(argument)
                for path in argument:
                    deleted(model, path)
                continue
            for path, value in copy.deepcopy(argument):
                assigned(wanted, path, value)
            size = encoded_size(wanted)
            if size > limit:
                with pytest.raises(LimitExceededError, match=f"size={size}, "):
                    edit.assign(copy.deepcopy(argument))
            else:
                edit.assign(copy.deepcopy(argument))
                model = wanted
            # Compared as text: NaN is not equal to itself. The order counts too.
            assert repr(edit.tree) == repr(model)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["a"] * (MAX_ATTRIBUTE_DEPTH + 2), 1),
        (["a"] * (MAX_ATTRIBUTE_DEPTH + 1), {}),
        (["a"] * 20_000, 1),
    ],
)
def test_too_deep_a_path_is_refused(path: list[str], value: Any) -> None:
    edit = AttributeEdit(1, {"b": 1}, 0)
    with pytest.raises(LimitExceededError, match="depth"):
        edit.assign([(["b"], 2), (path, value)])
    assert edit.tree == {"b": 1}
    edit.assign([(["a"] * (MAX_ATTRIBUTE_DEPTH + 1), 1)])

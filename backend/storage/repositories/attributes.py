"""Attribute repository: one tree per run, read and written as a whole.

Keys:   ATTRIBUTES (run number, part) -> parts of the encoded tree (`codecs.trees`)
Limits: 4 MB encoded, 64 levels; parts of at most 90 kB.

A tree is rewritten when it is assigned to: attributes change a few times in a run's
life and are read by every list.

Design note: docs/subsystems/metadata.md#attributes
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from backend.storage.codecs.frames import join_parts, split_parts
from backend.storage.codecs.trees import decode_tree, encode_tree
from backend.storage.engine.base import (
    KeyRange,
    KeyValue,
    ReadTransaction,
    Transaction,
)
from backend.storage.keyspace import (
    Subspace,
    pack_attributes,
    run_range,
    run_span,
    unpack_attributes,
)

Path = Sequence[str]


class AttributeRepository:
    """Attribute trees of runs; a run without one has an empty tree."""

    def get(self, tr: ReadTransaction, run_number: int) -> dict[str, Any]:
        """Return the run's tree. The caller may change it; nothing is shared."""
        return _decode(tr.get_range(*run_range(Subspace.ATTRIBUTES, run_number)))

    def get_span(
        self, tr: ReadTransaction, first_no: int, last_no: int
    ) -> dict[int, dict[str, Any]]:
        """Return the trees of runs first_no to last_no by number: one range read.

        Runs without attributes are left out.
        """
        begin, end = run_span(Subspace.ATTRIBUTES, first_no, last_no)
        rows = tr.get_range(begin, end, snapshot=True)
        return {
            number: _decode(list(parts))
            for number, parts in groupby(rows, key=lambda row: _number(row[0]))
        }

    def get_many(
        self, tr: ReadTransaction, numbers: Iterable[int]
    ) -> dict[int, dict[str, Any]]:
        """Return the trees of the given runs by number, in one round trip."""
        wanted = list(numbers)
        ranges = [KeyRange(*run_range(Subspace.ATTRIBUTES, no)) for no in wanted]
        found = tr.get_ranges(ranges, snapshot=True)
        return {
            number: _decode(parts) for number, parts in zip(wanted, found, strict=True)
        }

    def assign(
        self,
        tr: Transaction,
        run_number: int,
        assignments: Sequence[tuple[Path, Any]],
    ) -> None:
        """Replace the subtree at each path, in order; nothing above it changes.

        What stands in the way of a path (a leaf where a dict is needed) is replaced.

        Raises:
            LimitExceededError: If the tree becomes too large or too deep.
        """
        tree = self.get(tr, run_number)
        for path, value in assignments:
            tree = _assigned(tree, path, value)
        self.replace(tr, run_number, tree)

    def delete_paths(
        self, tr: Transaction, run_number: int, paths: Iterable[Path]
    ) -> None:
        """Remove the subtrees at `paths`; missing ones are ignored."""
        tree = self.get(tr, run_number)
        for path in paths:
            _remove(tree, path)
        self.replace(tr, run_number, tree)

    def replace(self, tr: Transaction, run_number: int, tree: dict[str, Any]) -> None:
        """Store `tree` in place of what the run has.

        Raises:
            LimitExceededError: If the tree is too large or too deep.
        """
        value = encode_tree(tree)
        tr.clear_range(*run_range(Subspace.ATTRIBUTES, run_number))
        if not tree:
            return
        for part, piece in enumerate(split_parts(value)):
            tr.set(pack_attributes(run_number, part), piece)


def _number(key: bytes) -> int:
    return unpack_attributes(key)[0]


def _decode(parts: Sequence[KeyValue]) -> dict[str, Any]:
    if not parts:
        return {}
    return decode_tree(join_parts([value for _, value in parts]), key=parts[0][0])


def _assigned(tree: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    if not path:
        return dict(value) if isinstance(value, dict) else tree
    node = tree
    for component in path[:-1]:
        child = node.get(component)
        if not isinstance(child, dict):
            child = node[component] = {}
        node = child
    node[path[-1]] = value
    return tree


def _remove(tree: dict[str, Any], path: Path) -> None:
    *parents, last = path or ("",)
    node: Any = tree
    for component in parents:
        node = node.get(component)
        if not isinstance(node, dict):
            return
    node.pop(last, None)

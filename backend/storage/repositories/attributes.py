"""Attribute repository: one tree per run, read and written as a whole.

Keys:   ATTRIBUTES (run number, part) -> parts of the encoded tree (`codecs.trees`)
Limits: 4 MB encoded, 64 levels; parts of at most 90 kB.

A tree is rewritten when it is assigned to: attributes change a few times in a run's
life and are read by every list. Many changes in one transaction are made in memory
(`attribute_edit.py`) and stored once.

Design note: docs/subsystems/metadata.md#attributes
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from backend.storage.codecs.frames import join_parts
from backend.storage.codecs.trees import decode_tree
from backend.storage.engine.base import (
    KeyRange,
    KeyValue,
    ReadTransaction,
    Transaction,
)
from backend.storage.keyspace import (
    Subspace,
    run_range,
    run_span,
    unpack_attributes,
)
from backend.storage.repositories.attribute_edit import (
    AttributeEdit,
    Path,
    put_tree,
)


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

    def edit(self, tr: Transaction, run_number: int) -> AttributeEdit:
        """Read the run's tree to make many changes that are stored once.

        Until `AttributeEdit.store` nothing is written.
        """
        rows = tr.get_range(*run_range(Subspace.ATTRIBUTES, run_number))
        return AttributeEdit(run_number, _decode(rows), sum(len(v) for _, v in rows))

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
        edit = self.edit(tr, run_number)
        edit.assign(assignments)
        edit.store(tr)

    def delete_paths(
        self, tr: Transaction, run_number: int, paths: Iterable[Path]
    ) -> None:
        """Remove the subtrees at `paths`; missing ones are ignored."""
        edit = self.edit(tr, run_number)
        edit.delete(paths)
        edit.store(tr)

    def replace(self, tr: Transaction, run_number: int, tree: dict[str, Any]) -> None:
        """Store `tree` in place of what the run has.

        Raises:
            LimitExceededError: If the tree is too large or too deep.
        """
        put_tree(tr, run_number, tree)


def _number(key: bytes) -> int:
    return unpack_attributes(key)[0]


def _decode(parts: Sequence[KeyValue]) -> dict[str, Any]:
    if not parts:
        return {}
    return decode_tree(join_parts([value for _, value in parts]), key=parts[0][0])

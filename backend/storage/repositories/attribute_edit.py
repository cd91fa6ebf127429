"""Many changes to one run's attributes, made in memory and stored once.

A tree is stored as a whole: storing it for each of thousands of assignments of one
frame would cost the square of them, in bytes and in time. The size that the limit
counts is kept up with every change instead, so that an assignment can be refused
without encoding the tree.

Design note: docs/subsystems/metadata.md#attributes
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from backend.errors import LimitExceededError
from backend.storage.codecs.frames import split_parts
from backend.storage.codecs.trees import (
    check_depth,
    encode_tree,
    encoded_size,
    is_plain,
)
from backend.storage.engine.base import Transaction
from backend.storage.keyspace import Subspace, pack_attributes, run_range
from matyan_wire.limits import MAX_ATTRIBUTES_BYTES

Path = Sequence[str]

_MISSING: Final = object()
_SHORT_MAP: Final = 16
_MEDIUM_MAP: Final = 65_536


class AttributeEdit:
    """A run's tree in the hands of one attempt of one transaction.

    Attributes:
        stored_bytes: What the tree took in the store when it was read.
        tree: As it is now; to be looked at only.
    """

    def __init__(
        self, run_number: int, tree: dict[str, Any], stored_bytes: int
    ) -> None:
        self.stored_bytes = stored_bytes
        self._run_number = run_number
        self.tree = tree
        self._size = encoded_size(tree)
        self._is_plain = is_plain(tree)
        self._is_changed = False

    def assign(self, assignments: Iterable[tuple[Path, Any]]) -> None:
        """Replace the subtree at each path, in order; nothing above it changes.

        What stands in the way of a path (a leaf where a dict is needed) is replaced.
        Values become part of the tree.

        Raises:
            LimitExceededError: If the tree became too large or too deep. Then none of
                the assignments is made.
        """
        tree, size, is_plain_ = self.tree, self._size, self._is_plain
        undo: list[tuple[dict[str, Any], str, Any]] = []
        try:
            for path, value in assignments:
                self._assign(path, value, undo)
            self._check_size()
        except BaseException:
            for node, name, old in reversed(undo):
                if old is _MISSING:
                    del node[name]
                else:
                    node[name] = old
            self.tree, self._size, self._is_plain = tree, size, is_plain_
            raise
        self._is_changed = True

    def delete(self, paths: Iterable[Path]) -> None:
        """Remove the subtrees at `paths`; missing ones are ignored."""
        for path in paths:
            self._delete(path)
        if not self._is_plain:
            self._size = encoded_size(self.tree)
        self._is_changed = True

    def store(self, tr: Transaction) -> None:
        """Write the tree, if anything was changed since it was read."""
        if self._is_changed:
            put_tree(tr, self._run_number, self.tree)
            self._is_changed = False

    def _assign(
        self, path: Path, value: Any, undo: list[tuple[dict[str, Any], str, Any]]
    ) -> None:
        if not path:
            if isinstance(value, dict):
                check_depth(value)
                self.tree, self._size = value, encoded_size(value)
                self._is_plain = is_plain(value)
            return
        node, at = self.tree, 0
        while at < len(path) - 1 and isinstance(child := node.get(path[at]), dict):
            node, at = child, at + 1
        for name in reversed(path[at + 1 :]):
            value = {name: value}
        _check_depth_at(path[:at], {path[at]: value})
        self._is_plain = self._is_plain and is_plain({path[at]: value})
        self._size += encoded_size(value)
        old = self._take(node, path[at], keep=True)
        undo.append((node, path[at], old))
        node[path[at]] = value

    def _delete(self, path: Path) -> None:
        *parents, last = path or ("",)
        node: Any = self.tree
        for component in parents:
            node = node.get(component)
            if not isinstance(node, dict):
                return
        if last in node:
            self._take(node, last, keep=False)
            del node[last]

    def _take(self, node: dict[str, Any], name: str, *, keep: bool) -> Any:
        """Reckon with the loss of `node[name]`, or with a new name in `node`."""
        old = node.get(name, _MISSING)
        if old is not _MISSING:
            self._size -= encoded_size(old)
        if keep and old is _MISSING:
            grown = _map_header(len(node) + 1) - _map_header(len(node))
            self._size += encoded_size(name) + grown
        elif not keep:
            grown = _map_header(len(node)) - _map_header(len(node) - 1)
            self._size -= encoded_size(name) + grown
        return old

    def _check_size(self) -> None:
        if not self._is_plain:
            # Rare: then a dict is not encoded as the sum of its parts.
            self._size = encoded_size(self.tree)
        if self._size > MAX_ATTRIBUTES_BYTES:
            raise LimitExceededError(
                what="attributes", size=self._size, limit=MAX_ATTRIBUTES_BYTES
            )


def put_tree(tr: Transaction, run_number: int, tree: dict[str, Any]) -> None:
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


def _check_depth_at(parents: Path, subtree: dict[str, Any]) -> None:
    for name in reversed(parents):
        subtree = {name: subtree}
    check_depth(subtree)


def _map_header(count: int) -> int:
    if count < _SHORT_MAP:
        return 1
    return 3 if count < _MEDIUM_MAP else 5

"""Attributes of a run: keys, values fit for the wire, and the local overlay.

A key is dotted text (`"hparams.lr"`) or a tuple of components. A value is what JSON can
say, and what can be turned into that without guessing: arrays and scalars of numpy and
the like, dataclasses, enums, paths, dates, sets, mappings.
"""

from __future__ import annotations

import dataclasses
import enum
import os
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timezone
from typing import Any, Final, cast

from matyan_wire.limits import MAX_ATTRIBUTE_DEPTH, MAX_ATTRIBUTES_BYTES
from matyan_wire.payloads import encode_bounded

_MAX_REPR: Final = 10_000

Key = str | tuple[str, ...]
Path = tuple[str, ...]


def parse_key(key: object) -> Path:
    """Return the path of `key`.

    Raises:
        TypeError: If it is neither text nor a tuple of text.
        ValueError: If a component is empty.
    """
    if isinstance(key, str):
        path: tuple[object, ...] = tuple(key.split("."))
    elif isinstance(key, tuple):
        path = tuple(cast("tuple[object, ...]", key))
    else:
        msg = f"an attribute's key is text or a tuple of text, not {type(key).__name__}"
        raise TypeError(msg)
    if not path or not all(isinstance(part, str) and part for part in path):
        msg = f"the attribute key {key!r} has an empty component"
        raise ValueError(msg)
    return cast("Path", path)


def encode_value(path: Path, value: object) -> tuple[Any, bytes]:
    """Return `value` as plain data and as its wire bytes.

    Raises:
        TypeError: If something in it cannot be stored; the text names its place.
        ValueError: If it is too deep or too large.
    """
    plain = to_plain(value, where=".".join(path), depth=len(path))
    try:
        return plain, encode_bounded(plain, max_bytes=MAX_ATTRIBUTES_BYTES)
    except ValueError as error:
        msg = f"attribute {'.'.join(path)} cannot be stored: {error}"
        raise ValueError(msg) from error


def to_plain(value: object, *, where: str, depth: int = 0) -> Any:
    """Return `value` as None, bool, int, float, str, list or dict.

    Raises:
        TypeError: If something in it cannot be stored; the text names its place.
        ValueError: If it is nested too deep.
    """
    if depth > MAX_ATTRIBUTE_DEPTH:
        msg = f"{where} is nested deeper than {MAX_ATTRIBUTE_DEPTH} levels"
        raise ValueError(msg)
    if value is None or type(value) in (bool, str):
        return value
    if isinstance(value, enum.Enum):
        return to_plain(value.value, where=where, depth=depth)
    if isinstance(value, (bool, int, float, str)):
        return _plain_scalar(value)
    children = _children(value)
    if isinstance(children, dict):
        return {
            key: to_plain(child, where=f"{where}.{key}", depth=depth + 1)
            for key, child in children.items()
        }
    if isinstance(children, list):
        return [
            to_plain(child, where=f"{where}[{place}]", depth=depth + 1)
            for place, child in enumerate(children)
        ]
    return _converted(value, where=where, depth=depth)


def to_plain_or_repr(values: Mapping[str, object]) -> dict[str, Any]:
    """Return `values` as plain data, `repr` of those that cannot be.

    For what is said besides: a message is worth more than the form of its details.
    """
    return {str(key): _plain_or_repr(value, key) for key, value in values.items()}


def _plain_or_repr(value: object, where: str) -> Any:
    try:
        plain = to_plain(value, where=where)
        encode_bounded(plain, max_bytes=MAX_ATTRIBUTES_BYTES)
    except Exception:  # noqa: BLE001 - whatever a foreign object raises
        try:
            return repr(value)[:_MAX_REPR]
        except Exception:  # noqa: BLE001 - its repr too
            return f"<{type(value).__name__}>"
    return plain


def _plain_scalar(value: float | str) -> float | str:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    return float(value)


def _children(value: object) -> dict[str, object] | list[object] | None:
    if isinstance(value, Mapping):
        mapping = cast("Mapping[object, object]", value)
        return {str(key): child for key, child in mapping.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [entry.name for entry in dataclasses.fields(value)]
        return {name: getattr(value, name) for name in names}
    if isinstance(value, Namespace):
        return dict(vars(value))
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(cast("Iterable[object]", value))
    return None


def _converted(value: object, *, where: str, depth: int) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (date, os.PathLike)):
        return str(cast("object", value))
    tolist = getattr(value, "tolist", None)  # numpy, torch, jax, pandas
    if callable(tolist):
        plain: object = tolist()
        if plain is not value:
            return to_plain(plain, where=where, depth=depth)
    msg = (
        f"{where} is a {type(value).__name__}, which cannot be stored as an attribute; "
        "give numbers, text, lists, mappings, or str() of it"
    )
    raise TypeError(msg)


class Overlay:
    """Assignments and deletions made here, on top of what the server says.

    Other threads and signal handlers may change it in the middle of a call, so that
    only copies of `_changes` are gone through.
    """

    def __init__(self) -> None:
        # In order; an assignment and a deletion of one path may both be needed, since
        # the first also makes the path's parents.
        self._changes: dict[tuple[Path, bool], Any] = {}

    def assign(self, path: Path, value: Any) -> None:
        """Note that `value`, plain data, stands at `path`."""
        for key in list(self._changes):
            if key[0][: len(path)] == path:
                self._changes.pop(key, None)
        self._changes[path, True] = value

    def delete(self, path: Path) -> None:
        """Note that nothing stands at `path`."""
        self._changes.pop((path, False), None)
        self._changes[path, False] = None

    def apply(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        """Return `tree` with the changes made in order; `tree` is left alone."""
        result = cast("dict[str, Any]", _copied(tree))
        for (path, assigned), value in list(self._changes.items()):
            if assigned:
                _put(result, path, _copied(value))
            else:
                _remove(result, path)
        return result


def find(tree: Any, path: Path) -> Any:
    """Return what stands at `path`.

    Raises:
        KeyError: If nothing does.
    """
    for part in path:
        if not isinstance(tree, Mapping) or part not in tree:
            raise KeyError(".".join(path))
        tree = cast("Mapping[str, Any]", tree)[part]
    return tree


def _copied(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        mapping = cast("Mapping[str, Any]", tree)
        return {key: _copied(child) for key, child in mapping.items()}
    if isinstance(tree, list):
        items = cast("Sequence[Any]", tree)
        return [_copied(child) for child in items]
    return tree


def _put(tree: dict[str, Any], path: Path, value: Any) -> None:
    for part in path[:-1]:
        below = tree.get(part)
        if not isinstance(below, dict):
            below = tree[part] = {}
        tree = cast("dict[str, Any]", below)
    tree[path[-1]] = value


def _remove(tree: dict[str, Any], path: Path) -> None:
    try:
        parent = find(tree, path[:-1])
    except KeyError:
        return
    if isinstance(parent, dict):
        cast("dict[str, Any]", parent).pop(path[-1], None)


def from_epoch(seconds: float) -> datetime:
    """Return the UTC time of an epoch in seconds."""
    return datetime.fromtimestamp(seconds, tz=timezone.utc)  # noqa: UP017 - 3.10

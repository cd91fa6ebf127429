"""Series as callers name them, by name and context, matched with the stored ones.

A browser turns 1.0 into 1, and the store tells the two apart: contexts are compared
with whole floats taken as integers, and an exact match wins.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from backend.domain.series import Series
from backend.storage.engine.base import ReadTransaction
from backend.storage.factory import Store
from matyan_wire.batch import SeriesRef
from matyan_wire.contexts import canonical_context

_FEW: Final = 32
"""Up to this many series are looked up one by one; more, by listing the run's."""

Name = tuple[str, Mapping[str, Any] | None]


def find_series(
    store: Store,
    tr: ReadTransaction,
    run_number: int,
    *,
    kind: str,
    names: Sequence[Name],
) -> list[Series | None]:
    """Return the run's series of each (name, context), None where there is none."""
    exact = _find_exact(store, tr, run_number, kind=kind, names=names)
    if None not in exact:
        return exact
    stored = store.series.list(tr, run_number, kinds=(kind,))
    loose = {_loose(one.name, one.context): one for one in reversed(stored)}
    strict = {(one.name, one.context_text): one for one in stored}
    return [
        strict.get((name, canonical_text(context))) or loose.get(_loose(name, context))
        for name, context in names
    ]


def _find_exact(
    store: Store,
    tr: ReadTransaction,
    run_number: int,
    *,
    kind: str,
    names: Sequence[Name],
) -> list[Series | None]:
    if len(names) > _FEW:
        return [None]
    refs = [SeriesRef(kind, name, canonical_text(context)) for name, context in names]
    found = store.series.find_many(tr, run_number, refs)
    return [found.get(ref) for ref in refs]


def canonical_text(context: Mapping[str, Any] | None) -> str:
    """Return the text a stored context of this meaning has, "" if it can have none."""
    try:
        return canonical_context(context)
    except (ValueError, TypeError):
        return ""  # deeper than any stored context


def _loose(name: str, context: Mapping[str, Any] | None) -> tuple[str, str]:
    return name, json.dumps(_integral(context or {}), sort_keys=True)


def _integral(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _integral(child) for key, child in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [_integral(child) for child in value]
    return value

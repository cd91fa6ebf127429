"""What autocompletion offers: every attribute and every series name of the project.

Attributes are merged over the newest `MAX_RUNS` runs, page by page, and kept for
`FRESH_S` in each process; while one request merges, the others wait for it. Leaves are
examples, cut short: only their place and type matter.

Design note: docs/subsystems/api.md#project-params
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakKeyDictionary

from backend.api.trees import SEQUENCE_KINDS, params_tree
from backend.services.damage import read_intact, read_page
from backend.storage.engine.base import Engine, ReadTransaction
from backend.storage.factory import Store

FRESH_S: Final = 30.0
MAX_RUNS: Final = 100_000
_PAGE: Final = 500
_EXAMPLE_CHARS: Final = 100
_EXAMPLE_ITEMS: Final = 8


@dataclass(slots=True)
class _Cached:
    lock: threading.Lock = field(default_factory=threading.Lock)
    merged_s: float | None = None
    tree: dict[str, Any] = field(default_factory=dict)


_cache: WeakKeyDictionary[Engine, _Cached] = WeakKeyDictionary()
_cache_lock = threading.Lock()


def project_params(
    store: Store, *, kinds: Collection[str], with_params: bool
) -> dict[str, Any]:
    """Return `params` (if asked for) and the names of each kind of series.

    Args:
        store: The store.
        kinds: Kinds of series wanted; none: all. Unknown ones are ignored.
        with_params: Whether to include the attributes.
    """
    wanted = [kind for kind in SEQUENCE_KINDS if kind in kinds or not kinds]
    found: dict[str, Any] = {"params": _merged(store)} if with_params else {}
    return found | _names(store, wanted)


def _names(store: Store, kinds: list[str]) -> dict[str, dict[str, list[Any]]]:
    names: dict[str, dict[str, list[Any]]] = {kind: {} for kind in kinds}
    for ref in store.engine.read(store.series.names):
        if ref.kind in names:
            contexts = names[ref.kind].setdefault(ref.name, [])
            contexts.append(json.loads(ref.context))
    return names


def _merged(store: Store) -> dict[str, Any]:
    with _cache_lock:
        cached = _cache.setdefault(store.engine, _Cached())
    with cached.lock:
        stale = cached.merged_s is None or time.monotonic() - cached.merged_s > FRESH_S
        if stale:
            cached.tree = _merge_runs(store)
            cached.merged_s = time.monotonic()
        return cached.tree


def _merge_runs(store: Store) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    before: int | None = None
    for _ in range(MAX_RUNS // _PAGE):
        trees, last = store.engine.read(
            lambda tr, before=before: _page(store, tr, before)  # type: ignore[misc]  # bound now
        )
        for tree in trees:
            _merge(merged, params_tree(tree, skip_system=True))
        if last is None:
            break
        before = last
    return merged


def _page(
    store: Store, tr: ReadTransaction, before: int | None
) -> tuple[list[dict[str, Any]], int | None]:
    """Return a page's attribute trees, and where the next page starts, if any."""
    runs = read_page(store.runs, tr, limit=_PAGE, before=before)
    if not runs:
        return [], None
    numbers = [run.number for run in runs]
    trees = read_intact(
        lambda some: store.attributes.get_span(tr, some[-1], some[0]), numbers
    )
    last = numbers[-1] if len(runs) == _PAGE else None
    return [trees[number] for number in numbers if number in trees], last


def _merge(into: dict[str, Any], tree: Mapping[str, Any]) -> None:
    """Add the keys of `tree`; where trees disagree, an object wins over a leaf."""
    for key, value in tree.items():
        known = into.get(key)
        if isinstance(value, dict):
            if not isinstance(known, dict):
                known = into[key] = {}
            _merge(known, value)
        elif key not in into:
            into[key] = _example(value)


def _example(value: Any) -> Any:
    if isinstance(value, str):
        return value[:_EXAMPLE_CHARS]
    if isinstance(value, list):
        return [_example(item) for item in value[:_EXAMPLE_ITEMS]]
    if isinstance(value, dict | bytes):
        return None
    return value

"""Keys in words: what a person reads when one value of the store is damaged.

Design note: docs/subsystems/engines.md#verifying-a-store
"""

from __future__ import annotations

from typing import Any, Final

from backend.storage import tuples
from backend.storage.indexes import Index
from backend.storage.keyspace import PROJECT, Subspace

_WORDS: Final[dict[Subspace, tuple[str, ...]]] = {
    Subspace.FORMAT: ("format stamp",),
    Subspace.RUN_ID: ("run id",),
    Subspace.RUN: ("run",),
    Subspace.ATTRIBUTES: ("attributes of run", "part"),
    Subspace.SERIES: ("record of run", "series"),
    Subspace.SERIES_ID: ("series hash of run", "hash"),
    Subspace.TAIL: ("tail of run", "block", "part"),
    Subspace.CHUNK: ("chunk of run", "series", "first step", "part"),
    Subspace.CHUNK_SUMMARY: ("chunk summary of run", "series", "first step"),
    Subspace.WRITER: ("writer of run", "hash"),
    Subspace.RUN_STATE: ("state of run",),
    Subspace.TOMBSTONE: ("tombstone of run id",),
    Subspace.EXPERIMENT: ("experiment",),
    Subspace.EXPERIMENT_NAME: ("experiment name hash",),
    Subspace.TAG: ("tag",),
    Subspace.TAG_NAME: ("tag name hash",),
    Subspace.NOTE: ("note on", "id", "note"),
    Subspace.ARTIFACT: ("artifact of run", "path hash"),
    Subspace.OUTBOX: ("control event",),
    Subspace.DOCUMENT: ("document in", "id", "part"),
    Subspace.PROJECT_PARAMS: ("project params",),
    Subspace.TAIL_PAYLOAD: ("tail payloads of run", "block", "part"),
    Subspace.SERIES_NAME: ("series name hash",),
    Subspace.COPY: ("copy mark",),
    Subspace.REACTION: ("event to be acted on",),
    Subspace.SEALING: ("seal of run",),
    Subspace.BLOB: ("uploads of run", "path hash"),
}


def describe_key(key: bytes) -> str:
    """Return what `key` is the key of, for example "chunk of run 17, series 3, …"."""
    try:
        items = tuples.unpack(key)
        if items[0] != PROJECT:
            return f"key {key.hex()} of another project"
        subspace = Subspace(items[1])
    except (ValueError, IndexError, TypeError):
        return f"key {key.hex()}, which is none of a store's"
    if subspace is Subspace.INDEX:
        return _describe_index(items[2:])
    labels = _WORDS[subspace]
    named = [
        f"{label} {_text(item)}" for label, item in zip(labels, items[2:], strict=False)
    ]
    return ", ".join([*named, *(_text(item) for item in items[2 + len(labels) :])])


def _describe_index(items: tuple[Any, ...]) -> str:
    if len(items) < 2:
        return "index row cut short"
    number, *values, run_no = items
    name = Index(number).name if number in Index.__members__.values() else number
    shown = " ".join(_text(value) for value in values)
    return f"index row {name} {shown}".rstrip() + f", run {_text(run_no)}"


def _text(item: Any) -> str:
    return item.hex() if isinstance(item, bytes) else str(item)

"""What a job reports, in words: for the admin and for the management commands.

A report is JSON: names to numbers, texts, lists or further names. What is not named
here is shown under its own name.

Design note: docs/subsystems/maintenance.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

SHOWN: Final = 10
"""Items of a list that are named."""

LABELS: Final[Mapping[str, str]] = {
    "active": "active runs looked at",
    "finished": "of these, stale",
    "unsealed": "of these, last points not compressed yet, see the log",
    "run_ids": "which",
    "looked_at": "tombstones looked at",
    "cleared": "of these, expired",
    "blobs": "files looked at",
    "orphans": "files no run knows",
    "orphan_bytes": "size of these",
    "young": "too young to judge",
    "foreign": "not ours, left alone",
    "uploads": "uploads given up long ago",
    "changed": "runs changed",
    "damaged": "damaged runs, see store verify",
    "groups": "groups of chunks to merge",
    "chunks_before": "chunks before",
    "chunks_after": "chunks after",
    "records": "records read",
    "missing": "index rows that were missing",
    "rows": "index rows read",
    "stale": "index rows of no record",
    "unsettled": "runs that changed while read",
    "path": "file",
    "stored": "kept in the storage as",
    "removed": "older backups removed",
    "consumed": "read by every group, still kept",
    "waiting": "not read by every group",
    "deleted": "deleted",
    "replayed": "given to the workers again",
    "discarded": "given up",
    "kept": "kept as dead letters",
    "measured_runs": "runs measured one by one",
    "estimated": "the rest estimated",
    "kinds": "of runs",
    "shared": "of no run",
    "largest": "largest runs",
    "disk_bytes": "on the disk",
    "purging": "deleted runs being cleared",
}

_OF_BYTES: Final = frozenset({"kinds", "shared"})


def describe_report(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (what, how much) for every value of a report, in its order.

    Of names within a value each has a line.
    """
    lines = []
    for name, value in report.items():
        label = LABELS.get(name, name.replace("_", " "))
        if isinstance(value, Mapping):
            kind = "bytes" if name in _OF_BYTES else ""
            lines += [(f"{label}: {key}", _text(kind, n)) for key, n in value.items()]
        else:
            lines.append((label, _text(name, value)))
    return lines


def format_bytes(size: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return format_bytes(value) if name.endswith("bytes") else f"{value:,}"
    if isinstance(value, list):
        return _list(value)
    return str(value)


def _list(items: list[Any]) -> str:
    if not items:
        return "none"
    more = f" and {len(items) - SHOWN:,} more" if len(items) > SHOWN else ""
    return ", ".join(_item(item) for item in items[:SHOWN]) + more


def _item(item: Any) -> str:
    if isinstance(item, Mapping):
        return f"{item.get('run_id', '')} ({format_bytes(item.get('bytes', 0))})"
    return str(item)

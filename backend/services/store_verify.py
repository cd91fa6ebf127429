"""Verifying a store: every row against the rows it refers to, in both directions.

Reads everything and writes nothing. Each window of rows is compared within one
transaction, so the store may be in use. Memory is bounded: a window holds at most a few
hundred rows, one run's tail, or 16 chunks.

Design note: docs/subsystems/engines.md#verifying-a-store
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from backend.services import (
    store_verify_chunks,
    store_verify_metadata,
    store_verify_series,
)
from backend.services.store_walk import Problem, iter_windows
from backend.storage import keyspace
from backend.storage.engine.base import Engine, KeyRange, ReadTransaction
from backend.storage.format_version import FormatVersion
from backend.storage.keyspace import Subspace

MAX_STRAY_KEYS: Final = 100
WALKS: Final = (
    *store_verify_metadata.WALKS,
    *store_verify_series.WALKS,
    *store_verify_chunks.WALKS,
)

Observer = Callable[[str, int], None]
"""Told the name of what is being verified, and how many rows of it have been."""


@dataclass(slots=True)
class VerifyReport:
    """What a verification found.

    Attributes:
        rows: Rows looked at, by what they are.
        problems: How many problems there are.
    """

    rows: dict[str, int] = field(default_factory=dict)
    problems: int = 0


def verify_store(
    engine: Engine,
    *,
    on_problem: Callable[[Problem], None],
    on_progress: Observer = lambda _name, _rows: None,
) -> VerifyReport:
    """Verify everything in a store.

    Args:
        engine: An engine open on it; the store need not be readable otherwise.
        on_problem: Called with each problem, in this thread.
        on_progress: Called after each window, in this thread.

    Raises:
        StoreError: If the store fails; a problem raises nothing.
    """
    report = VerifyReport()

    def tell(problems: list[Problem]) -> None:
        report.problems += len(problems)
        for problem in problems:
            on_problem(problem)

    tell(engine.read(lambda tr: list(_check_store(tr))))
    for walk in WALKS:
        report.rows.setdefault(walk.name, 0)
        on_progress(walk.name, 0)
        for count, problems in iter_windows(engine, walk):
            tell(problems)
            report.rows[walk.name] += count
            on_progress(walk.name, report.rows[walk.name])
    return report


def _check_store(tr: ReadTransaction) -> Iterator[Problem]:
    """The stamp is known, no copy is unfinished, and every key is of a subspace."""
    stamp, copying = tr.get_many([keyspace.pack_format(), keyspace.pack_copy()])
    if copying is not None:
        yield Problem(keyspace.pack_copy(), "the store is an unfinished copy")
    elif stamp is None:
        yield Problem(keyspace.pack_format(), "is missing")
    elif stamp not in {str(int(version)).encode() for version in FormatVersion}:
        yield Problem(keyspace.pack_format(), f"unknown format {stamp[:32]!r}")
    inside = [keyspace.subspace_range(space) for space in sorted(Subspace)]
    bounds = [(b"", b""), *inside, (b"\xff", b"\xff")]
    gaps = [
        KeyRange(before[1], after[0], limit=MAX_STRAY_KEYS)
        for before, after in pairwise(bounds)
    ]
    for rows in tr.get_ranges(gaps, snapshot=True):
        for key, _ in rows:
            yield Problem(key, "is in no subspace that this version knows")

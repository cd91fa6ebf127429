"""Runs under an index term: their numbers, pages of them, when they were created.

A run's number is its creation time in microseconds (moved on by less than a second
where two coincide), so activity is counted from index rows alone. Reads go page by
page, each in a transaction of its own: a project may have a million runs.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from backend.api.trees import seconds
from backend.domain.runs import Run
from backend.errors import RunNotFoundError
from backend.services.damage import read_runs
from backend.storage.engine.base import ReadTransaction
from backend.storage.factory import Store
from backend.storage.indexes import Term

HOUR_US: Final = 3_600_000_000
DAY_US: Final = 24 * HOUR_US
_PAGE: Final = 20_000
_RECORDS: Final = 2_000
_MINUTE_US: Final = 60_000_000


def run_numbers(store: Store, term: Term) -> list[int]:
    """Return the numbers of all runs under `term`, newest first."""
    numbers: list[int] = []
    before = None
    while True:
        page = store.engine.read(
            lambda tr, before=before: store.runs.numbers_with(  # type: ignore[misc]  # bound now
                tr, term, before=before, limit=_PAGE
            )
        )
        numbers += page
        if len(page) < _PAGE:
            return numbers
        before = page[-1]


def runs_under(
    store: Store, term: Term, *, after_run_id: str = "", limit: int = 0
) -> list[Run]:
    """Return the runs under `term`, newest first.

    Args:
        store: The store.
        term: What they are listed under.
        after_run_id: Start after this run; one deleted since still has its place.
        limit: Most runs, 0 for all.

    Raises:
        RunNotFoundError: If `after_run_id` never was a run.
    """
    before = None
    if after_run_id:
        before = store.engine.read(lambda tr: _number(store, tr, after_run_id))
    runs: list[Run] = []
    while True:
        size = min(_RECORDS, limit - len(runs)) if limit else _RECORDS
        page = store.engine.read(
            lambda tr, before=before, size=size: store.runs.numbers_with(  # type: ignore[misc]  # bound now
                tr, term, before=before, limit=size
            )
        )
        runs += store.engine.read(
            lambda tr, page=page: read_runs(store.runs, tr, page)  # type: ignore[misc]  # bound now
        )
        if len(page) < size or (limit and len(runs) >= limit):
            return runs
        before = page[-1]


def _number(store: Store, tr: ReadTransaction, run_id: str) -> int:
    run = store.runs.find(tr, run_id) or store.runs.find_deleted(tr, run_id)
    if run is None:
        raise RunNotFoundError(run_id=run_id)
    return run.number


def activity_map(
    numbers: Sequence[int], *, bucket_us: int, tz_offset_min: int
) -> dict[str, int]:
    """Return how many runs were created in each bucket of the caller's local time.

    Args:
        numbers: Run numbers.
        bucket_us: `HOUR_US` or `DAY_US`.
        tz_offset_min: The caller's zone, positive west of UTC.
    """
    local = np.array(numbers, dtype=np.int64) - tz_offset_min * _MINUTE_US
    starts, counts = np.unique(local // bucket_us, return_counts=True)
    return {
        _local_text(start * bucket_us): count
        for start, count in zip(starts.tolist(), counts.tolist(), strict=True)
    }


def _local_text(local_us: int) -> str:
    moment = datetime.datetime.fromtimestamp(local_us // 1_000_000, tz=datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S")


def run_row(run: Run) -> dict[str, Any]:
    """Return what lists of runs say about each."""
    return {
        "run_id": run.run_id,
        "name": run.name,
        "creation_time": seconds(run.created_us),
        "end_time": None if run.finished_us is None else seconds(run.finished_us),
    }

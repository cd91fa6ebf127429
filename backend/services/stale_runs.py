"""Finishing runs whose process is gone without having said so.

Stale is an active run that has received nothing for a time. It is finished at the
moment it last received something, not now: its duration is what it was. Data that
comes later is stored all the same.

Design note: docs/subsystems/maintenance.md#finish_stale_runs
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from backend.domain.runs import Run
from backend.services.damage import IMPOSSIBLE, read_intact
from backend.services.long_work import Checkpoint, Observer, Step, nobody
from backend.storage import indexes
from backend.storage.engine.base import ReadTransaction, Transaction
from backend.storage.repositories.run_state import get_run_state, get_run_states
from matyan_wire.batch import METRIC

if TYPE_CHECKING:
    from backend.storage.factory import Store

logger = logging.getLogger(__name__)

PAGE: Final = 100
MAX_LISTED: Final = 200
SERIES_ASKED: Final = 16
"""Series whose last point is looked at where the run does not know when it received."""


@dataclass(slots=True)
class StaleReport:
    """What was found.

    Attributes:
        active: Active runs looked at.
        finished: Of these, finished because they were stale.
        unsealed: Of the finished ones, the tail could not be sealed: it stays readable.
        damaged: Of the active ones, could not be read; `store verify` tells more.
        run_ids: The first of the finished ones.
    """

    active: int = 0
    finished: int = 0
    unsealed: int = 0
    damaged: int = 0
    run_ids: list[str] = field(default_factory=list)


def finish_stale_runs(  # noqa: PLR0913 - what the command lets choose
    store: Store,
    *,
    idle_us: int,
    now_us: int,
    dry_run: bool = False,
    on_step: Observer = nobody,
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any]:
    """Finish active runs that have received nothing for `idle_us`; return a report.

    Raises:
        StoreError: If the store fails; what is finished stays so.
    """
    report = StaleReport(**(checkpoint or {}).get("report", {}))
    before = (checkpoint or {}).get("before")
    term = indexes.active_term(active=True)
    total = store.engine.read(lambda tr: indexes.count_runs(tr, [term])[0])
    while True:

        def read(tr: ReadTransaction, before: int | None = before) -> list[int]:
            return store.runs.numbers_with(tr, term, before=before, limit=PAGE)

        numbers = store.engine.read(read)
        intact = _last_heard(store, numbers)
        report.damaged += sum(heard_us is None for heard_us in intact.values())
        for number, heard_us in intact.items():
            if heard_us is None or heard_us >= now_us - idle_us:
                continue
            if dry_run or _finish(store, number, idle_us=idle_us, now_us=now_us):
                _count(store, report, number)
            report.unsealed += not dry_run and not _seal(store, number)
        report.active += len(numbers)
        if len(numbers) < PAGE:
            return asdict(report)
        before = numbers[-1]
        on_step(
            Step(
                report.active,
                total,
                checkpoint={"before": before, "report": asdict(report)},
            )
        )


def last_heard_us(tr: ReadTransaction, store: Store, run: Run) -> int:
    """Return when the run last received anything, microseconds since the epoch.

    Of runs written before this was kept, when the last of its first series' points
    were tracked.
    """
    state = get_run_state(tr, run.number, snapshot=True)
    if state.received_us:
        return max(run.created_us, state.received_us)
    return max(run.created_us, *_last_points(tr, store, run), 0)


def received_at(store: Store, runs: Sequence[Run]) -> dict[int, int]:
    """Return by run number when runs last received anything, where that was kept."""
    numbers = [run.number for run in runs]
    states = store.engine.read(lambda tr: get_run_states(tr, numbers))
    return {n: state.received_us for n, state in states.items() if state.received_us}


def _last_points(tr: ReadTransaction, store: Store, run: Run) -> list[int]:
    found = []
    series = store.series.list(tr, run.number, kinds=(METRIC,))[:SERIES_ASKED]
    for one in series:
        if one.summary is None:
            continue
        points = store.series.read_points(
            tr, run.number, one.number, start=one.summary.last_step
        )
        found += [int(time) + run.clock_offset_us for time in points.times_us[-1:]]
    return found


def _last_heard(store: Store, numbers: Sequence[int]) -> dict[int, int | None]:
    """Return when each run last received anything, None for those not intact."""

    def read(some: Sequence[int]) -> dict[int, int]:
        def heard(tr: ReadTransaction) -> dict[int, int]:
            runs = store.runs.get_by_numbers(tr, some)
            return {run.number: last_heard_us(tr, store, run) for run in runs}

        return store.engine.read(heard)

    found = read_intact(read, numbers)
    return {number: found.get(number) for number in numbers}


def _finish(store: Store, number: int, *, idle_us: int, now_us: int) -> bool:
    """Finish the run unless it received something since it was looked at."""

    def change(tr: Transaction) -> bool:
        run = store.runs.find_by_number(tr, number)
        if run is None or not run.active:
            return False
        get_run_state(tr, number)  # conflicts with a batch that comes just now
        heard_us = last_heard_us(tr, store, run)
        if heard_us >= now_us - idle_us:
            return False
        finished = replace(run, active=False, finished_us=heard_us)
        store.runs.save(tr, run, finished)
        return True

    return store.engine.transact(change)


def _seal(store: Store, number: int) -> bool:
    # A commit whose result was unknown may have finished it: sealing is harmless.
    try:
        store.series.seal(store.engine, number, final=True)
    except IMPOSSIBLE as error:
        extra = {"run_number": number, "code": error.code}
        logger.exception("stale_runs.seal_failed", extra=extra)
        return False
    return True


def _count(store: Store, report: StaleReport, number: int) -> None:
    report.finished += 1
    run = store.engine.read(lambda tr: store.runs.find_by_number(tr, number))
    if run is not None and len(report.run_ids) < MAX_LISTED:
        report.run_ids.append(run.run_id)

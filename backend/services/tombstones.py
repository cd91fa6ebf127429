"""Tombstones: looking at them and letting old ones go.

Design note: docs/subsystems/maintenance.md#expire_tombstones
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from backend.domain.runs import Run
from backend.services.long_work import Checkpoint, Observer, Step, nobody
from backend.storage.engine.base import ReadTransaction, Transaction

if TYPE_CHECKING:
    from backend.storage.factory import Store

PAGE: Final = 200


@dataclass(slots=True)
class TombstoneReport:
    """What was found.

    Attributes:
        looked_at: Tombstones looked at.
        cleared: Of these, old enough to go.
    """

    looked_at: int = 0
    cleared: int = 0


@dataclass(frozen=True, slots=True)
class Deleted:
    """A deleted run.

    Attributes:
        run: As it was.
        deleted_us: When it was deleted.
        purging: Whether some of its data is still there.
    """

    run: Run
    deleted_us: int
    purging: bool


def expire_tombstones(
    store: Store,
    *,
    deleted_before_us: int,
    dry_run: bool = False,
    on_step: Observer = nobody,
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any]:
    """Clear the tombstones of runs deleted before a time; return a report.

    Records for such a run's id are accepted again from then on. A run some of whose
    data is still there keeps its tombstone.

    Raises:
        StoreError: If the store fails; what is cleared stays cleared.
    """
    report = TombstoneReport(**(checkpoint or {}).get("report", {}))
    after = (checkpoint or {}).get("after", "")
    while True:

        def pick(tr: ReadTransaction, after: str = after) -> tuple[str, int, list[str]]:
            page = store.runs.list_tombstones(tr, after=after, limit=PAGE)
            old = [run_id for run_id, at_us in page if at_us < deleted_before_us]
            purged = [d.run.run_id for d in _read(tr, store, old) if not d.purging]
            return (page[-1][0] if page else after), len(page), purged

        def clear(tr: Transaction) -> tuple[str, int, list[str]]:
            last, count, ids = pick(tr)
            for run_id in ids:
                store.runs.clear_tombstone(tr, run_id)
            return last, count, ids

        engine = store.engine
        after, count, ids = engine.read(pick) if dry_run else engine.transact(clear)
        report.looked_at += count
        report.cleared += len(ids)
        if count < PAGE:
            return asdict(report)
        on_step(
            Step(
                report.looked_at,
                checkpoint={"after": after, "report": asdict(report)},
            )
        )


def page_deleted(store: Store, *, after: str = "", limit: int) -> list[Deleted]:
    """Return deleted runs in order of their ids, after an id."""

    def read(tr: ReadTransaction) -> list[Deleted]:
        page = store.runs.list_tombstones(tr, after=after, limit=limit)
        return _read(tr, store, [run_id for run_id, _ in page])

    return store.engine.read(read)


def find_deleted(store: Store, run_id: str) -> Deleted | None:
    """Return a deleted run, None if no such tombstone stands."""
    found = store.engine.read(lambda tr: _read(tr, store, [run_id]))
    return found[0] if found else None


def _read(tr: ReadTransaction, store: Store, run_ids: list[str]) -> list[Deleted]:
    found = []
    for run_id in run_ids:
        run = store.runs.find_deleted(tr, run_id)
        deleted_us = store.runs.find_tombstone(tr, run_id)
        if run is not None and deleted_us is not None:
            purging = store.runs.is_purging(tr, run.number)
            found.append(Deleted(run, deleted_us, purging))
    return found

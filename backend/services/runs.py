"""Runs: properties, tags, archiving, finishing, deleting. Django-free use cases.

Deleting is in three steps. One transaction hides the run, leaves a tombstone, notes
that data waits to be cleared, and stores the event to publish: from then on every read
and every late record sees no run. The control worker drains the events and clears the
data, a few bounded transactions at a time (`purge_pending`); it takes up what another
left unfinished.

Design note: docs/subsystems/metadata.md#runs
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from backend.domain.runs import Run
from backend.errors import ExperimentNotFoundError, RunNotFoundError
from backend.services import outbox
from backend.services.texts import check_text
from backend.storage.engine.base import ReadTransaction, Transaction
from backend.storage.repositories.notes import RUN
from matyan_wire.limits import MAX_DESCRIPTION_BYTES, MAX_ENTITY_NAME_BYTES

if TYPE_CHECKING:
    from backend.storage.factory import Store

RUNS_PER_TRANSACTION: Final = 100
BYTES_PER_TRANSACTION: Final = 1024 * 1024
"""A run with 500 tags writes some 100 kB when it is deleted, 20 kB when archived."""

TOMBSTONE_PAGE: Final = 1_000
PURGE_KEYS: Final = 100
"""Keys cleared in one transaction: at most 90 kB each are read to find them."""


def update_run(  # noqa: PLR0913 - every property can be given
    store: Store,
    *,
    run_id: str,
    name: str | None = None,
    description: str | None = None,
    archived: bool | None = None,
    experiment: str | None = None,
    active: bool | None = None,
    now_us: int,
) -> Run:
    """Change what is not None and return the run.

    `experiment` is a name; "" unlinks the run. `active` False finishes the run now
    unless it is finished, True opens it again.

    Raises:
        RunNotFoundError: If there is no such run.
        ExperimentNotFoundError: If there is no experiment of that name.
        LimitExceededError: If a text is too long.
    """
    if name is not None:
        check_text(name, field="name", max_bytes=MAX_ENTITY_NAME_BYTES)
    if description is not None:
        check_text(description, field="description", max_bytes=MAX_DESCRIPTION_BYTES)

    def change(tr: Transaction) -> Run:
        old = store.runs.get(tr, run_id)
        new = replace(
            old,
            name=old.name if name is None else name,
            description=old.description if description is None else description,
            experiment_id=_experiment_id(tr, store, old, experiment),
        )
        if active is not None:
            new = _opened(new) if active else _finished(new, now_us=now_us)
        if archived is not None:
            new = _archive(tr, new, archived=archived, now_us=now_us)
        store.runs.save(tr, old, new)
        return new

    return store.engine.transact(change)


def finish_run(store: Store, *, run_id: str, now_us: int) -> Run:
    """Mark a run finished; one that is finished keeps its time.

    Raises:
        RunNotFoundError: If there is no such run.
    """
    return update_run(store, run_id=run_id, active=False, now_us=now_us)


def finish_runs(store: Store, *, run_ids: Iterable[str], now_us: int) -> int:
    """Mark runs finished; return how many of the ids exist."""
    return _change_many(store, run_ids, lambda _tr, run: _finished(run, now_us=now_us))


def archive_runs(
    store: Store, *, run_ids: Iterable[str], archived: bool, now_us: int
) -> int:
    """Archive or unarchive runs; return how many of the ids exist."""
    return _change_many(
        store,
        run_ids,
        lambda tr, run: _archive(tr, run, archived=archived, now_us=now_us),
    )


def delete_run(store: Store, *, run_id: str, now_us: int) -> None:
    """Delete a run: it is gone from reads when this returns, its data soon after.

    Raises:
        RunNotFoundError: If there is no such run.
    """
    if not store.engine.transact(lambda tr: _hide(tr, store, run_id, now_us)):
        raise RunNotFoundError(run_id=run_id)


def delete_runs(store: Store, *, run_ids: Iterable[str], now_us: int) -> int:
    """Delete runs, ignoring unknown ids; return how many were deleted."""
    return _each(store, run_ids, lambda tr, run_id: _hide(tr, store, run_id, now_us))


def purge_run(store: Store, *, run_number: int) -> None:
    """Clear all data of a deleted run. May be repeated, and stopped at any point."""
    while not _purge_step(store, run_number):
        pass


def purge_pending(store: Store, *, max_transactions: int = 0) -> int:
    """Clear the data of deleted runs that still have some.

    Args:
        store: The store.
        max_transactions: Stop after so many, 0 for when all is gone; call again.

    Returns:
        How many runs' data is gone now.
    """
    left = max_transactions or sys.maxsize
    purged = 0
    while left > 0:
        numbers = store.engine.read(lambda tr: store.runs.list_purges(tr, limit=1))
        if not numbers:
            break
        purged += _purge_step(store, numbers[0])
        left -= 1
    return purged


def _purge_step(store: Store, run_number: int) -> bool:
    return store.engine.transact(
        lambda tr: store.runs.purge(tr, run_number, limit=PURGE_KEYS)
    )


def clear_tombstone(store: Store, *, run_id: str) -> None:
    """Let records for a deleted run's id be accepted again. Never fails."""
    store.engine.transact(lambda tr: store.runs.clear_tombstone(tr, run_id))


def clear_tombstones(store: Store, *, deleted_before_us: int) -> int:
    """Clear the tombstones older than a time; return how many."""
    cleared, after = 0, ""
    while True:
        page = store.engine.read(_tombstone_page(store, after))
        old = [run_id for run_id, at_us in page if at_us < deleted_before_us]
        store.engine.transact(_clearing(store, old))
        cleared += len(old)
        if len(page) < TOMBSTONE_PAGE:
            return cleared
        after = page[-1][0]


def _tombstone_page(
    store: Store, after: str
) -> Callable[[ReadTransaction], list[tuple[str, int]]]:
    return lambda tr: store.runs.list_tombstones(tr, after=after, limit=TOMBSTONE_PAGE)


def _clearing(store: Store, run_ids: list[str]) -> Callable[[Transaction], None]:
    def clear(tr: Transaction) -> None:
        for run_id in run_ids:
            store.runs.clear_tombstone(tr, run_id)

    return clear


def _hide(tr: Transaction, store: Store, run_id: str, now_us: int) -> bool:
    run = store.runs.find(tr, run_id)
    if run is None:
        # A retried commit may have happened: then the tombstone is of this very time.
        return store.runs.find_tombstone(tr, run_id) == now_us
    store.runs.hide(tr, run, deleted_us=now_us)
    store.notes.delete_all(tr, owner_kind=RUN, owner_id=run_id)
    outbox.append_event(
        tr,
        kind=outbox.RUN_DELETED,
        entity_id=run_id,
        payload={"run_id": run_id, "run_number": run.number},
        now_us=now_us,
    )
    return True


def _change_many(
    store: Store, run_ids: Iterable[str], change: Callable[[Transaction, Run], Run]
) -> int:
    def apply(tr: Transaction, run_id: str) -> bool:
        run = store.runs.find(tr, run_id)
        if run is not None:
            store.runs.save(tr, run, change(tr, run))
        return run is not None

    return _each(store, run_ids, apply)


def _each(
    store: Store, run_ids: Iterable[str], change: Callable[[Transaction, str], bool]
) -> int:
    """Change runs in transactions of bounded size; return how many were changed."""
    left = list(dict.fromkeys(run_ids))
    changed = 0
    while left:
        some = left[:RUNS_PER_TRANSACTION]

        def step(tr: Transaction, some: list[str] = some) -> list[bool]:
            done: list[bool] = []
            for run_id in some:
                done.append(change(tr, run_id))
                if tr.approximate_size() >= BYTES_PER_TRANSACTION:
                    break
            return done

        done = store.engine.transact(step)
        changed += sum(done)
        left = left[len(done) :]
    return changed


def _experiment_id(
    tr: Transaction, store: Store, run: Run, name: str | None
) -> str | None:
    if name is None:
        return run.experiment_id
    if not name.strip():
        return None
    found = store.experiments.find_by_name(tr, name.strip())
    if found is None:
        raise ExperimentNotFoundError(name=name)
    return found.experiment_id


def _opened(run: Run) -> Run:
    return replace(run, active=True, finished_us=None)


def _finished(run: Run, *, now_us: int) -> Run:
    finished_us = now_us if run.finished_us is None else run.finished_us
    return replace(run, active=False, finished_us=max(finished_us, run.created_us))


def _archive(tr: Transaction, run: Run, *, archived: bool, now_us: int) -> Run:
    if run.archived != archived:
        outbox.append_event(
            tr,
            kind=outbox.RUN_ARCHIVED if archived else outbox.RUN_UNARCHIVED,
            entity_id=run.run_id,
            payload={"run_id": run.run_id, "archived": archived},
            now_us=now_us,
        )
    return replace(run, archived=archived)

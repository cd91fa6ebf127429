"""Experiments: create, change, delete. The only writer of them.

Names are unique. Deleting an experiment keeps its runs and unlinks them.

Design note: docs/subsystems/metadata.md#experiments
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

from backend.domain.entities import Experiment
from backend.services.links import unlink_runs
from backend.services.outbox import EXPERIMENT_DELETED, append_event
from backend.services.texts import check_name, check_text
from backend.storage import indexes
from backend.storage.engine.base import ReadTransaction, Transaction
from backend.storage.repositories import notes
from matyan_wire.limits import MAX_DESCRIPTION_BYTES, MAX_ENTITY_NAME_BYTES

if TYPE_CHECKING:
    from backend.storage.factory import Store


def ensure_experiment(
    tr: Transaction, store: Store, *, name: str, now_us: int
) -> Experiment:
    """Return the experiment of this name, created in the transaction if missing.

    Raises:
        InvalidInputError: If the name cannot be one.
    """
    checked = check_name(name, field="experiment", max_bytes=MAX_ENTITY_NAME_BYTES)
    found = store.experiments.find_by_name(tr, checked)
    if found is not None:
        return found
    experiment = Experiment(str(uuid4()), checked, "", now_us)
    store.experiments.create(tr, experiment)
    return experiment


def create_experiment(
    store: Store, *, name: str, description: str = "", now_us: int
) -> Experiment:
    """Create an experiment.

    Raises:
        NameTakenError: If there is one of this name.
        InvalidInputError: If the name is empty.
        LimitExceededError: If a text is too long.
    """
    experiment = Experiment(
        experiment_id=str(uuid4()),
        name=check_name(name, field="name", max_bytes=MAX_ENTITY_NAME_BYTES),
        description=_checked_description(description),
        created_us=now_us,
    )
    store.engine.transact(lambda tr: store.experiments.create(tr, experiment))
    return experiment


def update_experiment(
    store: Store,
    *,
    experiment_id: str,
    name: str | None = None,
    description: str | None = None,
    archived: bool | None = None,
) -> Experiment:
    """Change what is not None; an empty name counts as None, runs stay linked.

    Raises:
        ExperimentNotFoundError: If there is none.
        NameTakenError: If another has the new name.
    """
    if name is not None and name.strip():
        name = check_name(name, field="name", max_bytes=MAX_ENTITY_NAME_BYTES)
    if description is not None:
        _checked_description(description)

    def change(tr: Transaction) -> Experiment:
        old = store.experiments.get(tr, experiment_id)
        new = replace(
            old,
            name=(name or "").strip() or old.name,
            description=old.description if description is None else description,
            archived=old.archived if archived is None else archived,
        )
        store.experiments.save(tr, old, new)
        return new

    return store.engine.transact(change)


def delete_experiment(store: Store, *, experiment_id: str, now_us: int) -> None:
    """Unlink the experiment's runs, then remove it with its notes.

    Works through the runs in bounded transactions. A failure in between leaves the
    experiment in place with fewer runs: call it again.

    Raises:
        ExperimentNotFoundError: If there is none.
    """
    store.engine.read(lambda tr: store.experiments.get(tr, experiment_id))

    def remove(tr: Transaction) -> None:
        experiment = store.experiments.find(tr, experiment_id)
        if experiment is None:
            return
        store.experiments.delete(tr, experiment)
        store.notes.delete_all(tr, owner_kind=notes.EXPERIMENT, owner_id=experiment_id)
        append_event(
            tr,
            kind=EXPERIMENT_DELETED,
            entity_id=experiment_id,
            payload={"experiment_id": experiment_id},
            now_us=now_us,
        )

    unlink_runs(
        store,
        indexes.experiment_term(experiment_id),
        unlink=lambda run: replace(run, experiment_id=None),
        remove=remove,
    )


def _checked_description(description: str) -> str:
    return check_text(description, field="description", max_bytes=MAX_DESCRIPTION_BYTES)


def list_experiments(store: Store) -> list[tuple[Experiment, int]]:
    """Return every experiment with its number of runs, newest first."""

    def read(tr: ReadTransaction) -> list[tuple[Experiment, int]]:
        found = store.experiments.list_all(tr)
        counts = store.experiments.run_counts(tr, [e.experiment_id for e in found])
        return [(e, counts[e.experiment_id]) for e in found]

    return store.engine.read(read)


def get_experiment(store: Store, *, experiment_id: str) -> tuple[Experiment, int]:
    """Return an experiment with its number of runs.

    Raises:
        ExperimentNotFoundError: If there is none.
    """

    def read(tr: ReadTransaction) -> tuple[Experiment, int]:
        found = store.experiments.get(tr, experiment_id)
        return found, store.experiments.run_counts(tr, [experiment_id])[experiment_id]

    return store.engine.read(read)

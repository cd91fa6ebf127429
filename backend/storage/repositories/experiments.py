"""Experiment repository: records by id, and their unique names.

Keys:   EXPERIMENT (id) -> record; EXPERIMENT_NAME (hash of the name) -> id
Links:  a run names its experiment by id, so renaming moves one key only.

Every method works in the caller's transaction. The name key is read and written with
the record, so two experiments never get one name, whoever races.

Design note: docs/subsystems/metadata.md#experiments
"""

from __future__ import annotations

from collections.abc import Iterable

from backend.domain.entities import Experiment
from backend.errors import ExperimentNotFoundError, NameTakenError
from backend.storage import indexes
from backend.storage.codecs.records import decode_experiment, encode_experiment
from backend.storage.engine.base import ReadTransaction, Transaction
from backend.storage.keyspace import (
    Subspace,
    pack_experiment,
    pack_experiment_name,
    subspace_range,
    unpack_experiment,
)


class ExperimentRepository:
    """Experiments."""

    def list_all(self, tr: ReadTransaction) -> list[Experiment]:
        """Return every experiment, newest first."""
        rows = tr.get_range(*subspace_range(Subspace.EXPERIMENT), snapshot=True)
        found = [
            decode_experiment(value, experiment_id=unpack_experiment(key), key=key)
            for key, value in rows
        ]
        found.sort(key=lambda e: (-e.created_us, e.name))
        return found

    def find(self, tr: ReadTransaction, experiment_id: str) -> Experiment | None:
        """Return the experiment, or None."""
        if not indexes.is_entity_id(experiment_id):
            return None
        key = pack_experiment(experiment_id)
        value = tr.get(key)
        if value is None:
            return None
        return decode_experiment(value, experiment_id=experiment_id, key=key)

    def get(self, tr: ReadTransaction, experiment_id: str) -> Experiment:
        """Return the experiment.

        Raises:
            ExperimentNotFoundError: If there is none.
        """
        found = self.find(tr, experiment_id)
        if found is None:
            raise ExperimentNotFoundError(experiment_id=experiment_id)
        return found

    def find_by_name(self, tr: ReadTransaction, name: str) -> Experiment | None:
        """Return the experiment of this exact name, or None."""
        experiment_id = tr.get(pack_experiment_name(name))
        return None if experiment_id is None else self.find(tr, experiment_id.decode())

    def create(self, tr: Transaction, experiment: Experiment) -> None:
        """Store a new experiment.

        Raises:
            NameTakenError: If another has its name.
        """
        self._claim_name(tr, experiment)
        self._put(tr, experiment)

    def save(self, tr: Transaction, old: Experiment, new: Experiment) -> None:
        """Store a changed experiment; a new name frees the old one.

        Raises:
            NameTakenError: If another has the new name.
        """
        if new.name != old.name:
            self._claim_name(tr, new)
            tr.clear(pack_experiment_name(old.name))
        self._put(tr, new)

    def delete(self, tr: Transaction, experiment: Experiment) -> None:
        """Remove the experiment; unlinking its runs is the service's work."""
        tr.clear(pack_experiment(experiment.experiment_id))
        tr.clear(pack_experiment_name(experiment.name))

    def run_counts(
        self, tr: ReadTransaction, experiment_ids: Iterable[str]
    ) -> dict[str, int]:
        """Return how many runs each has, counted from the index in one round trip."""
        wanted = list(experiment_ids)
        counts = indexes.count_runs(
            tr, [indexes.experiment_term(experiment_id) for experiment_id in wanted]
        )
        return dict(zip(wanted, counts, strict=True))

    def _claim_name(self, tr: Transaction, experiment: Experiment) -> None:
        key = pack_experiment_name(experiment.name)
        owner = tr.get(key)
        if owner is not None and owner.decode() != experiment.experiment_id:
            raise NameTakenError(kind="experiment", name=experiment.name)
        tr.set(key, experiment.experiment_id.encode())

    def _put(self, tr: Transaction, experiment: Experiment) -> None:
        key = pack_experiment(experiment.experiment_id)
        tr.set(key, encode_experiment(experiment))

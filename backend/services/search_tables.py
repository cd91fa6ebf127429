"""Small tables a search reads once: what names in a query and ids in runs stand for.

Design note: docs/subsystems/query.md#search
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from backend.domain.entities import Experiment, Tag
from backend.domain.runs import Run
from backend.services.damage import read_intact
from backend.storage import indexes
from backend.storage.engine.base import ReadTransaction

if TYPE_CHECKING:
    from backend.storage.factory import Store


class SearchTables:
    """Experiments and tags by id and by name, as they were when the search began."""

    def __init__(self, store: Store) -> None:
        self._store = store

        def read(tr: ReadTransaction) -> tuple[list[Experiment], list[Tag]]:
            return store.experiments.list_all(tr), store.tags.list_all(tr)

        experiments, tags = store.engine.read(read)
        self.experiments = {e.experiment_id: e for e in experiments}
        self.tags = {tag.tag_id: tag for tag in tags}
        self._experiment_ids = {e.name: e.experiment_id for e in experiments}
        self._tag_ids = {tag.name: tag.tag_id for tag in tags}

    def experiment_id(self, name: str) -> str | None:
        """Return the id of the experiment of this name."""
        return self._experiment_ids.get(name)

    def tag_id(self, name: str) -> str | None:
        """Return the id of the tag of this name."""
        return self._tag_ids.get(name)

    def run_numbers(self, run_ids: Sequence[str]) -> list[int]:
        """Return the numbers of the runs there are among `run_ids`."""
        usable = [run_id for run_id in run_ids if indexes.is_entity_id(run_id)]
        runs = self._store.runs
        found = self._store.engine.read(
            lambda tr: read_intact(lambda some: runs.find_many(tr, some), usable)
        )
        return [run.number for run in found.values()]

    def experiment_of(self, run: Run) -> Experiment | None:
        """Return the run's experiment, None without one."""
        return self.experiments.get(run.experiment_id or "")

    def tags_of(self, run: Run) -> tuple[Tag, ...]:
        """Return the run's tags, ordered by name."""
        if not run.tag_ids:
            return ()
        found = [self.tags[t] for t in run.tag_ids if t in self.tags]
        return tuple(sorted(found, key=lambda tag: (tag.name.casefold(), tag.name)))

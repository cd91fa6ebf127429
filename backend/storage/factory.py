"""Options -> an open store: the engine and its repositories.

Design note: backend/storage/README.md
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from backend.errors import InvalidInputError
from backend.storage.engine.base import Engine
from backend.storage.format_version import check_format
from backend.storage.repositories.artifacts import ArtifactRepository
from backend.storage.repositories.attributes import AttributeRepository
from backend.storage.repositories.blobs import BlobRepository
from backend.storage.repositories.documents import DocumentRepository
from backend.storage.repositories.experiments import ExperimentRepository
from backend.storage.repositories.notes import NoteRepository
from backend.storage.repositories.reactions import ReactionRepository
from backend.storage.repositories.runs import RunRepository
from backend.storage.repositories.series import SeriesRepository
from backend.storage.repositories.tags import TagRepository


@dataclass(frozen=True, slots=True)
class Store:
    """An open store. Any thread may use it; no process forked after it was opened may.

    Repository methods take a transaction: `store.engine.read(lambda tr:
    store.runs.get(tr, run_id))`.
    """

    engine: Engine
    runs: RunRepository = field(default_factory=RunRepository)
    attributes: AttributeRepository = field(default_factory=AttributeRepository)
    series: SeriesRepository = field(default_factory=SeriesRepository)
    experiments: ExperimentRepository = field(default_factory=ExperimentRepository)
    tags: TagRepository = field(default_factory=TagRepository)
    notes: NoteRepository = field(default_factory=NoteRepository)
    artifacts: ArtifactRepository = field(default_factory=ArtifactRepository)
    blobs: BlobRepository = field(default_factory=BlobRepository)
    documents: DocumentRepository = field(default_factory=DocumentRepository)
    reactions: ReactionRepository = field(default_factory=ReactionRepository)

    def close(self) -> None:
        """Close the engine. May be called twice."""
        self.engine.close()


def open_store(*, engine: str, options: Mapping[str, Any]) -> Store:
    """Open a store, stamping its format if it is empty.

    Args:
        engine: Dotted path of an `Engine` class.
        options: Its keyword arguments.

    Raises:
        InvalidInputError: If `engine` names no engine.
        FormatError: If the store was written by a newer version.
        StoreError: If the store cannot be opened.
    """
    opened = open_engine(engine=engine, options=options)
    try:
        check_format(opened)
    except BaseException:
        opened.close()
        raise
    return Store(opened)


def open_engine(*, engine: str, options: Mapping[str, Any]) -> Engine:
    """Open an engine without looking at what it holds.

    Args:
        engine: Dotted path of an `Engine` class.
        options: Its keyword arguments.

    Raises:
        InvalidInputError: If `engine` names no engine.
        StoreError: If it cannot be opened.
    """
    return _engine_class(engine)(**options)


def _engine_class(path: str) -> type[Engine]:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidInputError(engine=path, reason=str(error)) from error
    if not (isinstance(found, type) and issubclass(found, Engine)):
        raise InvalidInputError(engine=path, reason="not an Engine class")
    return found

"""The engines the conformance suite runs on.

To add one: write a context manager that yields its `Spec` and put it into `KINDS`. The
suite itself names no engine. Every engine takes the options `limits`, `faults` and
`clock` besides its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from backend.storage.engine.base import Engine
from tests.services import foundationdb


@dataclass(frozen=True)
class Spec:
    """How any process opens an engine on the store under test.

    Attributes:
        class_path: Dotted path of the engine's class.
        options: Its options, as JSON can carry them.
    """

    class_path: str
    options: Mapping[str, Any]

    def open(self, **extra: Any) -> Engine:
        module, name = self.class_path.rsplit(".", 1)
        return getattr(import_module(module), name)(**self.options, **extra)


@dataclass
class Subject:
    """One empty store, opened as often as a test likes."""

    spec: Spec
    _opened: list[Engine] = field(default_factory=list)

    def open(self, **extra: Any) -> Engine:
        engine = self.spec.open(**extra)
        self._opened.append(engine)
        return engine

    def close(self) -> None:
        for engine in self._opened:
            with suppress(Exception):
                engine.close()


@dataclass(frozen=True)
class Place:
    """What a kind may use: a directory, and the services that must not be missing."""

    directory: Path
    required: frozenset[str]


@contextmanager
def embedded(place: Place) -> Iterator[Spec]:
    yield Spec(
        "backend.storage.engine.embedded.EmbeddedEngine",
        # The disk's own speed is no part of what is tested; a killed process loses
        # nothing either way.
        {"path": str(place.directory / "store"), "durable": False},
    )


@contextmanager
def foundationdb_cluster(place: Place) -> Iterator[Spec]:
    with foundationdb.clean_cluster(place.required) as options:
        yield Spec("backend.storage.engine.fdb.FdbEngine", options)


KINDS: dict[str, Callable[[Place], AbstractContextManager[Spec]]] = {
    "embedded": embedded,
    "fdb": foundationdb_cluster,
}

MARKS: dict[str, tuple[pytest.MarkDecorator, ...]] = {"fdb": (pytest.mark.fdb,)}
"""Marks of the kinds that need a service, for example `{"fdb": (pytest.mark.fdb,)}`."""

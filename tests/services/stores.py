"""Throw-away stores on each engine, for tests of what is written in terms of a store.

`stores` opens them; `store` is one of them. A conftest that wants its tests to run on
every engine imports both.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.storage.factory import Store, open_store
from tests.services import foundationdb

KINDS = (
    pytest.param("embedded"),
    pytest.param("foundationdb", marks=pytest.mark.fdb),
)


class Stores:
    """Opens empty stores of one kind.

    On FoundationDB all share the node, so that opening one ends the one before.
    """

    def __init__(
        self, kind: str, directory: Path, required: frozenset[str] = frozenset()
    ) -> None:
        self.kind = kind
        self._directory = directory
        self._required = required

    @contextlib.contextmanager
    def open(self, **options: Any) -> Iterator[Store]:
        """Yield a new, empty store; `options` are more options of its engine."""
        with (
            self._place() as (engine, place),
            contextlib.closing(
                open_store(engine=engine, options={**place, **options})
            ) as opened,
        ):
            yield opened

    @contextlib.contextmanager
    def _place(self) -> Iterator[tuple[str, dict[str, Any]]]:
        if self.kind == "embedded":
            with tempfile.TemporaryDirectory(dir=self._directory) as path:
                yield (
                    "backend.storage.engine.embedded.EmbeddedEngine",
                    {"path": path, "durable": False},
                )
            return
        with foundationdb.clean_cluster(self._required) as place:
            yield "backend.storage.engine.fdb.FdbEngine", place


@pytest.fixture(params=KINDS)
def stores(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    required_services: frozenset[str],
) -> Stores:
    """Opens empty stores, on each engine in turn."""
    return Stores(request.param, tmp_path, required_services)


@pytest.fixture
def store(stores: Stores) -> Iterator[Store]:
    """An empty store, on each engine in turn."""
    with stores.open() as opened:
        yield opened

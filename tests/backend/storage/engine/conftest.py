"""`subject`: an empty store on each engine in turn; `engine`: an engine open on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.storage.engine.base import Engine
from tests.backend.storage.engine.children import Children
from tests.backend.storage.engine.subjects import KINDS, MARKS, Place, Subject


@pytest.fixture(
    params=[pytest.param(name, marks=MARKS.get(name, ())) for name in KINDS]
)
def subject(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    required_services: frozenset[str],
) -> Iterator[Subject]:
    with KINDS[request.param](Place(tmp_path, required_services)) as spec:
        opened = Subject(spec)
        yield opened
        opened.close()


@pytest.fixture
def engine(subject: Subject) -> Engine:
    return subject.open()


@pytest.fixture
def children(subject: Subject) -> Iterator[Children]:
    """Starts processes on the store of `subject`; none outlives the test."""
    started = Children(subject.spec)
    yield started
    started.stop()

"""The event log under test. To add an implementation: a row in `HARNESSES`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.backend.bus.harness import Harness


def local(data_dir: Path, stack: ExitStack) -> Harness:
    options = {"path": str(data_dir / "log"), "lease_s": 2.0}
    return Harness("backend.bus.local.LocalEventLog", options, stack)


HARNESSES: dict[str, Callable[[Path, ExitStack], Harness]] = {"local": local}


@pytest.fixture(params=HARNESSES)
def bus(request: pytest.FixtureRequest, data_dir: Path) -> Iterator[Harness]:
    """Each implementation in turn, empty."""
    with ExitStack() as stack:
        yield HARNESSES[request.param](data_dir, stack)

"""Stores of blobs for the tests of the workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workers import stopping


@pytest.fixture
def blob_runtime(runtime: Any, settings: Any, data_dir: Path) -> Any:
    """`backend.runtime` with blobs in a directory of this test's own."""
    settings.MATYAN_BLOBS = {
        "ENGINE": "backend.blobs.filesystem.FilesystemBlobStore",
        "OPTIONS": {
            "path": str(data_dir / "blobs"),
            "secret": "for this test",
            "durable": False,
        },
    }
    return runtime


@pytest.fixture
def stopped() -> Iterator[None]:
    """This process is stopping, until the test is over."""
    stopping.request_stop()
    yield
    stopping.forget_request()

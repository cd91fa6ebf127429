"""A server with data of every kind, and a browser to look at it with."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.blobs.factory import open_blob_store
from matyan_project.local_server import LocalServer
from tests.browser.browser import Browser, find_programs
from tests.browser.seeding import seed
from tests.services.requirements import require


@pytest.fixture(scope="session")
def programs(required_services: frozenset[str]) -> tuple[str, str]:
    """Paths of Chromium and its driver; without them these tests are skipped."""
    found = find_programs()
    reason = "" if found else "chromium and chromium-driver: apt-get install them"
    require("browser", reason, required_services)
    assert found is not None
    return found


@pytest.fixture(scope="session")
def server(
    programs: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalServer]:
    """The whole system over the seeded project."""
    data_dir = tmp_path_factory.mktemp("browser-data")
    with contextlib.closing(
        open_blob_store(
            engine="backend.blobs.filesystem.FilesystemBlobStore",
            options={"path": str(data_dir / "blobs"), "secret": "seeding only"},
        )
    ) as blobs:
        seed(data_dir, blobs)
    with LocalServer(data_dir, environ={"MATYAN_AUTH": "off"}) as running:
        yield running


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures of the pages go: `MATYAN_SCREENSHOTS`, or a temporary place."""
    chosen = os.environ.get("MATYAN_SCREENSHOTS")
    if not chosen:
        return tmp_path_factory.mktemp("screenshots")
    path = Path(chosen)
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="session")
def browser(
    programs: tuple[str, str],
    server: LocalServer,
    screenshots: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Browser]:
    """One browser for all pages."""
    profile = tmp_path_factory.mktemp("profile")
    with Browser(
        programs, origin=server.url, profile=profile, screenshots=screenshots
    ) as opened:
        yield opened
    shutil.rmtree(profile, ignore_errors=True)

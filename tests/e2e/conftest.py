"""A real server per test, and the public client in an environment of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from matyan_project.local_server import LocalServer
from tests.services.fetching import fetch_once, run_fetch

PUBLIC_CLIENT = "matyan-client==0.3.0"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalServer]:
    """`manage.py up` on an empty data directory."""
    with LocalServer(tmp_path / "data") as running:
        yield running


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """One server for all tests of a module that leave it as they found it."""
    with LocalServer(tmp_path_factory.mktemp("shared") / "data") as running:
        yield running


@pytest.fixture(scope="session")
def public_client_python() -> Path:
    """A Python with the public client, unmodified; made once and kept."""
    home = fetch_once(PUBLIC_CLIENT, _install_public_client)
    return home / "bin" / "python"


def _install_public_client(home: Path) -> None:
    run_fetch(sys.executable, "-m", "venv", home)
    run_fetch(home / "bin" / "pip", "install", "--quiet", PUBLIC_CLIENT)

"""A real server per test, and the public client in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from matyan_project import env
from matyan_project.local_server import LocalServer

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
    home = env.BASE_DIR / ".cache" / PUBLIC_CLIENT
    python = home / "bin" / "python"
    if not (home / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", PUBLIC_CLIENT],
            check=True,
            timeout=300,
        )
        (home / "installed").touch()
    return python

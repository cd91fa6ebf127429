"""A real server per test, and the public client in an environment of its own."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from matyan_project.local_server import LocalServer
from tests.services import s3
from tests.services.fetching import fetch_once, run_fetch
from tests.services.requirements import require

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


BLOB_STORES = ["file", pytest.param("s3", marks=pytest.mark.s3)]
"""What a fixture that gives blob stores is parametrized with."""


@pytest.fixture(params=BLOB_STORES)
def environ(
    request: pytest.FixtureRequest, tmp_path: Path, required_services: frozenset[str]
) -> Iterator[dict[str, str]]:
    """Where the server keeps its blobs."""
    with blob_environ(request.param, tmp_path / "s3", required_services) as found:
        yield found


@pytest.fixture(scope="module", params=BLOB_STORES)
def server_on_each_store(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    required_services: frozenset[str],
) -> Iterator[LocalServer]:
    """`shared_server` with its blobs in files, then in S3."""
    directory = tmp_path_factory.mktemp("server")
    with (
        blob_environ(request.param, directory / "s3", required_services) as environ,
        LocalServer(directory / "data", environ=environ) as running,
    ):
        yield running


@contextlib.contextmanager
def blob_environ(
    store: str,
    directory: Path,
    required_services: frozenset[str],
    *,
    provider: str = "filesystem",
) -> Iterator[dict[str, str]]:
    """Give the variables of a server whose blobs are in `store`.

    `provider` is where the S3 server keeps them: "transient" is memory, where it lists
    10,000 in seconds.
    """
    if store == "file":
        yield {}
        return
    require("s3", s3.missing(), required_services)
    with s3.S3Server(directory, provider=provider) as server:
        yield server.settings

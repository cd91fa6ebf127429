"""`subject`: each blob store in turn, empty."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backend.blobs.subjects import MEBIBYTE, Subject, file_subject, http_upload
from tests.services import azurite, s3
from tests.services.requirements import require


@pytest.fixture(scope="session")
def s3_server(
    tmp_path_factory: pytest.TempPathFactory, required_services: frozenset[str]
) -> Iterator[s3.S3Server]:
    """One S3 server for all tests that do not hurt it."""
    require("s3", s3.missing(), required_services)
    with s3.S3Server(tmp_path_factory.mktemp("s3"), provider="transient") as server:
        yield server


@pytest.fixture(scope="session")
def azure_server(
    tmp_path_factory: pytest.TempPathFactory, required_services: frozenset[str]
) -> Iterator[azurite.AzureServer]:
    """One Azure server for all tests that do not hurt it."""
    require("azure", azurite.missing(), required_services)
    with azurite.AzureServer(tmp_path_factory.mktemp("azure")) as server:
        yield server


@pytest.fixture(
    params=[
        "file",
        pytest.param("s3", marks=[pytest.mark.s3, pytest.mark.xdist_group("s3")]),
        pytest.param(
            "azure", marks=[pytest.mark.azure, pytest.mark.xdist_group("azure")]
        ),
    ]
)
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    """An empty store."""
    made = _MAKERS[request.param](request, tmp_path)
    with contextlib.closing(made.store):
        made.store.abort_uploads("r/")
        while made.store.delete_prefix("r/"):
            pass
        yield made


@pytest.fixture
def store(subject: Subject) -> Any:
    """The store of `subject`."""
    return subject.store


def _file(_request: pytest.FixtureRequest, directory: Path) -> Subject:
    return file_subject(directory)


def _s3(request: pytest.FixtureRequest, _directory: Path) -> Subject:
    from backend.blobs.s3 import S3BlobStore

    server = request.getfixturevalue("s3_server")
    return Subject(S3BlobStore(**server.options), http_upload, part_bytes=5 * MEBIBYTE)


def _azure(request: pytest.FixtureRequest, _directory: Path) -> Subject:
    from backend.blobs.azure import AzureBlobStore

    server = request.getfixturevalue("azure_server")
    return Subject(
        AzureBlobStore(**server.options),
        http_upload,
        bounds_uploads=False,
        lists_uploads=False,
    )


_MAKERS: dict[str, Callable[[pytest.FixtureRequest, Path], Subject]] = {
    "file": _file,
    "s3": _s3,
    "azure": _azure,
}

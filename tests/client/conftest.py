from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from matyan_client import Run, console
from tests.client.blob_server import BlobServer
from tests.client.fake_server import FakeServer


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory of the test's own; nothing captured, nothing left running."""
    settings = {
        "MATYAN_DIR": str(tmp_path / "state"),
        "MATYAN_SYNC_ORPHANS": "0",
        "MATYAN_DETACHED_SYNC_S": "0",
        "MATYAN_CAPTURE_TERMINAL": "0",
        "MATYAN_FLUSH_INTERVAL_S": "0.01",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    for name in ("MATYAN_BACKEND_URL", "MATYAN_FRONTIER_URL", "MATYAN_STRICT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(console, "_said", set())
    monkeypatch.setattr("matyan_client.delivery.sender.FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("matyan_client.delivery.sender.LONGEST_PAUSE_S", 0.1)
    monkeypatch.setattr("matyan_client.delivery.sender.REFUSED_PAUSE_S", 0.05)
    for name, value in UPLOAD_TIMES.items():
        monkeypatch.setattr(f"matyan_client.delivery.{name}", value)
    return tmp_path / "state"


UPLOAD_TIMES = {
    "uploads.FIRST_PAUSE_S": 0.01,
    "uploads.LONGEST_PAUSE_S": 0.1,
    "uploads.SLOW_PAUSE_S": 0.05,
    "blob_gateway.PRESIGN_TIMEOUT_S": 0.3,
    "blob_gateway.PUT_TIMEOUT_S": 0.3,
}


@pytest.fixture
def blobs(server: FakeServer) -> Iterator[BlobServer]:
    """The gateway of `server`, as far as uploads go."""
    with BlobServer() as running:
        server.version["gateway"] = {"same_origin": False, "port": running.port}
        yield running


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


@pytest.fixture
def open_run() -> Iterator[Callable[..., Run]]:
    """Opens runs and closes what the test leaves open."""
    runs: list[Run] = []

    def opened(url: str | None = None, *args: str, **options: object) -> Run:
        run = Run(*args, repo=url, **options)
        runs.append(run)
        return run

    yield opened
    for run in runs:
        run.close(timeout=0)


def wait_until(done: Callable[[], bool], timeout_s: float = 5.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not (reached := done()) and time.monotonic() < deadline:
        time.sleep(0.005)
    return reached


def journals(state_dir: Path) -> list[Path]:
    return sorted((state_dir / "journals").glob("*"))

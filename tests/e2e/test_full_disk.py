"""A disk that fills up under load, a killed `up` on it, and room made again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from matyan_project.local_server import LocalServer
from tests.e2e.journal import Journal, assert_exact, send_all
from tests.e2e.test_kill import _open, _wait_for_the_workers

pytestmark = [pytest.mark.e2e, pytest.mark.chaos, pytest.mark.timeout(240)]

DISK_MB = 160
POINTS = 60_000


@pytest.fixture
def small_disk(tmp_path):
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    size = f"size={DISK_MB}m"
    command = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(mount_point)]
    if os.getuid() != 0 or subprocess.run(command, check=False).returncode != 0:
        pytest.skip("mounting a file system needs more rights than this user has")
    yield mount_point
    subprocess.run(["umount", "-l", str(mount_point)], check=True)


def _fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 65536):
                pass
        except OSError:
            return


def _ingestion_worker(server: LocalServer) -> psutil.Process:
    (worker,) = (
        child
        for child in psutil.Process(server.pid).children()
        if "ingestion" in child.cmdline()
    )
    return worker


def test_a_full_disk_and_a_killed_up_lose_nothing(small_disk):
    """The worker is stopped first, so that the disk is full while the log is not."""
    journals = [Journal(f"full-{number}", POINTS) for number in range(3)]
    server = LocalServer(small_disk / "data")
    server.start()
    try:
        with ThreadPoolExecutor(len(journals)) as pool:
            worker = _ingestion_worker(server)
            worker.suspend()
            sending = [
                pool.submit(
                    send_all,
                    journal,
                    server.frontier_url,
                    binary=number % 2 == 0,
                    timeout_s=120,
                )
                for number, journal in enumerate(journals)
            ]
            while min(journal.accepted_frames for journal in journals) < 50:
                time.sleep(0.01)
            _fill(small_disk / "ballast")
            worker.resume()
            # Long enough for every process to meet the full disk.
            time.sleep(2)
            assert not any(future.done() for future in sending)
            server.stop(number=signal.SIGKILL)
            (small_disk / "ballast").unlink()
            server.start()
            for future in sending:
                future.result()
        server.wait_ready()
        _wait_for_the_workers(server, journals)
        assert server.stop() == 0
    finally:
        server.stop()
    store = _open(server.data_dir)
    try:
        assert_exact(store, journals)
    finally:
        store.close()

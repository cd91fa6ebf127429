"""Processes killed in the middle of a load: exactly the accepted points are kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from backend.domain.series import Points
from backend.storage.factory import Store, open_store
from matyan_project.local_server import LocalServer
from tests.e2e.journal import SERIES, Journal, assert_exact, send_all

pytestmark = [pytest.mark.e2e, pytest.mark.chaos, pytest.mark.timeout(600)]

POINTS = 200_000
CLIENTS = 4
VICTIMS = ("serve frontier", "runworker ingestion", "serve all", "runworker control")

_TRACKER = """
import sys, math
from matyan_client import Run
run = Run(sys.argv[2], repo=sys.argv[1], capture_terminal_logs=False)
for step in range(int(sys.argv[3])):
    run.track(math.sin(step) / 3, name="loss", step=step, context={"subset": "train"})
    run.track(step * 0.1, name="lr", step=step)
run.close(timeout=120)
"""


@pytest.fixture
def journals() -> list[Journal]:
    return [Journal(f"journal-{i}", POINTS // CLIENTS) for i in range(CLIENTS)]


def _kill_in_turn(server: LocalServer, done: threading.Event) -> list[str]:
    """Kill -9 each kind of process, twice, in turn, while the load goes on."""
    killed = []
    for victim in VICTIMS * 2:
        if done.wait(1.2):
            break
        for child in psutil.Process(server.pid).children():
            words = child.cmdline()
            role = child.environ().get("MATYAN_ROLE", "")
            if f"{words[2]} {role or words[3]}" == victim:
                os.kill(child.pid, signal.SIGKILL)
                killed.append(victim)
    return killed


def _wait_for_the_workers(server: LocalServer, journals: list[Journal]) -> None:
    """Wait until nothing accepted is still in the log."""
    deadline = time.monotonic() + 120
    with httpx.Client(base_url=server.url, timeout=20) as client:
        for journal in journals:
            last = journal.accepted_frames * journal.steps_per_frame - 1
            while _last_step(client, journal.run_id) < last:
                assert time.monotonic() < deadline, f"{journal.run_id} is behind"
                time.sleep(0.1)


def _last_step(client: httpx.Client, run_id: str) -> int:
    try:
        answer = client.post(
            f"/api/v1/rest/runs/{run_id}/metric/get-batch/",
            params={"record_density": 2},
            json=[{"name": f"m{SERIES - 1}", "context": {"rank": 0}}],
        )
    except httpx.TransportError:
        return -1
    if answer.status_code != 200 or not answer.json():
        return -1
    return int(answer.json()[0]["iters"][-1])


def _stored(store: Store, run_id: str) -> dict[str, Points]:
    def read(tr):
        run = store.runs.get(tr, run_id)
        return {
            s.name: store.series.read_points(tr, run.number, s.number)
            for s in store.series.list(tr, run.number, kinds=["metric"])
        }

    return store.engine.read(read)


def _open(data_dir: Path) -> Store:
    return open_store(
        engine="backend.storage.engine.embedded.EmbeddedEngine",
        options={"path": str(data_dir / "store")},
    )


def test_every_accepted_point_survives_the_killing_of_every_process(server, journals):
    done = threading.Event()
    tracker = subprocess.Popen(
        [sys.executable, "-c", _TRACKER, server.url, "tracked", "20000"]
    )
    with ThreadPoolExecutor(CLIENTS + 1) as pool:
        killer = pool.submit(_kill_in_turn, server, done)
        sending = [
            pool.submit(
                send_all,
                journal,
                server.frontier_url if i < 3 else server.url,
                binary=i % 2 == 0,
                timeout_s=240,
            )
            for i, journal in enumerate(journals)
        ]
        try:
            for future in sending:
                future.result()
            assert tracker.wait(150) == 0
        finally:
            done.set()
            tracker.kill()
        killed = killer.result()
    assert set(killed) >= set(VICTIMS), "the load ended before everything was killed"
    # Frames in flight at a kill were sent again: repetition was really exercised.
    assert sum(j.sends - j.accepted_frames for j in journals) > 0
    server.wait_ready()
    _wait_for_the_workers(server, journals)
    assert server.stop() == 0

    store = _open(server.data_dir)
    try:
        assert_exact(store, journals, others=["tracked"])
        tracked = _stored(store, "tracked")
        expected = np.arange(20_000)
        np.testing.assert_array_equal(tracked["loss"].steps, expected)
        np.testing.assert_array_equal(tracked["lr"].values, expected * 0.1)
        assert (np.diff(tracked["loss"].times_us) >= 0).all()
    finally:
        store.close()

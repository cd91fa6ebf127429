"""The whole server on FoundationDB, also while the cluster fails."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from backend.services.store_verify import verify_store
from backend.storage.factory import open_store
from matyan_project.local_server import LocalServer
from tests.e2e.journal import SERIES, Journal, assert_exact, send_all
from tests.services import foundationdb
from tests.services.foundationdb import FoundationDbNode
from tests.services.requirements import require

pytestmark = [pytest.mark.fdb, pytest.mark.e2e, pytest.mark.timeout(400)]

POINTS = 100_000
OUTAGE_S = 6.0
"""Longer than a transaction may last."""

_SNIPPET = """
import sys
from matyan_client import Run

run = Run(repo=sys.argv[1])
run["hparams"] = {"lr": 0.001}
for step in range(100):
    run.track(1 / (step + 1), name="loss", step=step, context={"subset": "train"})
run.close()
print(run.hash)
"""


@pytest.fixture
def node(
    tmp_path: Path, required_services: frozenset[str]
) -> Iterator[FoundationDbNode]:
    require("fdb", foundationdb.missing(), required_services)
    started = FoundationDbNode(tmp_path / "node")
    if not started.can_be_killed:
        pytest.skip("A cluster of somebody else is not killed")
    with started:
        yield started


@pytest.fixture
def server(tmp_path: Path, node: FoundationDbNode) -> Iterator[LocalServer]:
    environ = {
        "MATYAN_STORE_ENGINE": "foundationdb",
        "MATYAN_FDB_CLUSTER_FILE": node.cluster_file,
        "MATYAN_FDB_LIBRARY": foundationdb.library_path() or "",
    }
    with LocalServer(tmp_path / "data", environ=environ) as running:
        yield running


def test_the_snippet_is_stored_and_read(server: LocalServer) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SNIPPET, server.url],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    run_id = done.stdout.split()[-1]
    trace = {"name": "loss", "context": {"subset": "train"}}
    with httpx.Client(base_url=server.url, timeout=20) as client:
        _wait_until(lambda: _last_step(client, run_id, trace) == 99)
        info = client.get(f"/api/v1/rest/runs/{run_id}/info/").json()
    assert info["params"]["hparams"] == {"lr": 0.001}
    assert not (server.data_dir / "store").exists()


def test_every_accepted_point_survives_a_failing_cluster(
    server: LocalServer, node: FoundationDbNode
) -> None:
    """The node is killed, and stands still for longer than a transaction may last."""
    journals = [Journal(f"journal-{i}", POINTS // 2) for i in range(2)]
    with ThreadPoolExecutor(3) as pool:
        failing = pool.submit(_fail_in_turn, node)
        for sending in [
            pool.submit(
                send_all,
                journal,
                server.frontier_url,
                binary=bool(index),
                timeout_s=200,
            )
            for index, journal in enumerate(journals)
        ]:
            sending.result()
        failing.result()
    trace = {"name": f"m{SERIES - 1}", "context": {"rank": 0}}
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for journal in journals:
            last = journal.accepted_frames * journal.steps_per_frame - 1
            _wait_until(lambda: _last_step(client, journal.run_id, trace) == last)  # noqa: B023
    assert server.stop() == 0
    _assert_exact(node, journals)


def _fail_in_turn(node: FoundationDbNode) -> None:
    """Kill, pause and kill the node; what is acknowledged meanwhile is in the log."""
    for turn in range(3):
        time.sleep(1.0)
        if turn == 1:
            node.pause()
            time.sleep(OUTAGE_S)
            node.resume()
        else:
            node.kill()
            time.sleep(0.5)
            node.start()


def _assert_exact(node: FoundationDbNode, journals: list[Journal]) -> None:
    options = {
        "cluster_file": node.cluster_file,
        "library": foundationdb.library_path(),
    }
    engine = "backend.storage.engine.fdb.FdbEngine"
    with contextlib.closing(open_store(engine=engine, options=options)) as store:
        assert_exact(store, journals)
        report = verify_store(store.engine, on_problem=pytest.fail)
        assert report.rows["runs"] == len(journals)


def _wait_until(holds, *, timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "not there in time"
        time.sleep(0.1)


def _last_step(client: httpx.Client, run_id: str, trace: dict[str, object]) -> int:
    try:
        answer = client.post(
            f"/api/v1/rest/runs/{run_id}/metric/get-batch/",
            params={"record_density": 2},
            json=[trace],
        )
    except httpx.TransportError:
        return -1
    if answer.status_code != 200 or not answer.json():
        return -1
    return int(answer.json()[0]["iters"][-1])

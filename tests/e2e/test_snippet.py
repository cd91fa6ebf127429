"""The README's snippet end to end: this SDK, and the public one as it is."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from matyan_project import env
from matyan_project.local_server import LocalServer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

SNIPPET = """
from matyan_client import Run

run = Run(repo="{url}")
run["hparams"] = {{"lr": 0.001, "batch_size": 32}}
for step in range(100):
    run.track(1 / (step + 1), name="loss", step=step, context={{"subset": "train"}})
run.close()
print(run.hash)
"""


def _run_snippet(python: Path | str, url: str) -> str:
    done = subprocess.run(
        [str(python), "-I", "-c", SNIPPET.format(url=url)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def _wait_for(get: Callable[[], Any], *, timeout_s: float = 15.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while (found := get()) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found is not None, "not there in time"
    return found


def _finished_info(client: httpx.Client, run_id: str) -> dict[str, Any] | None:
    answer = client.get(f"/api/v1/rest/runs/{run_id}/info/")
    if answer.status_code != 200 or answer.json()["props"]["active"]:
        return None
    return answer.json()


def _assert_complete(server: LocalServer, run_id: str) -> None:
    with httpx.Client(base_url=server.url, timeout=20) as client:
        info = _wait_for(lambda: _finished_info(client, run_id))
        assert info["params"]["hparams"] == {"lr": 0.001, "batch_size": 32}
        trace = {"name": "loss", "context": {"subset": "train"}}
        assert info["traces"]["metric"] == [{**trace, "last_value": 0.01}]
        assert info["props"]["end_time"] >= info["props"]["creation_time"]
        batch = client.post(
            f"/api/v1/rest/runs/{run_id}/metric/get-batch/?record_density=500",
            json=[trace],
        ).json()
        assert batch[0]["iters"] == list(range(100))
        assert batch[0]["values"] == [1 / (step + 1) for step in range(100)]


def test_the_snippet_with_this_sdk(server):
    _assert_complete(server, _run_snippet(sys.executable, server.url))


def test_the_snippet_with_this_sdk_on_a_single_port(tmp_path):
    with LocalServer(tmp_path / "data", options=["--single-port"]) as server:
        _assert_complete(server, _run_snippet(sys.executable, server.url))


def test_the_snippet_with_this_sdk_when_only_the_gateway_takes_runs(server):
    """A backend without gateway routes tells the SDK where the gateway is."""
    port = server.backend_port
    server.stop()
    backend_only = subprocess.Popen(
        [sys.executable, str(env.BASE_DIR / "manage.py"), "serve"],
        env=_child_environ(server, "backend", port),
    )
    gateway = subprocess.Popen(
        [sys.executable, str(env.BASE_DIR / "manage.py"), "serve"],
        env=_child_environ(server, "frontier", port),
    )
    worker = subprocess.Popen(
        [sys.executable, str(env.BASE_DIR / "manage.py"), "runworker", "ingestion"],
        env=_child_environ(server, "all", port),
    )
    try:
        server._process = backend_only
        server.wait_ready()
        _assert_complete(server, _run_snippet(sys.executable, server.url))
    finally:
        for process in (gateway, worker, backend_only):
            process.terminate()
            process.wait(20)


def _child_environ(server: LocalServer, role: str, port: int) -> dict[str, str]:
    return env.child_environ(
        DJANGO_SETTINGS_MODULE="matyan_project.settings.dev",
        MATYAN_ROLE=role,
        MATYAN_DATA_DIR=str(server.data_dir),
        MATYAN_BACKEND_PORT=str(port),
        MATYAN_FRONTIER_PORT=str(server.frontier_port),
    )


@pytest.mark.xdist_group("public-client")
def test_the_snippet_with_the_public_client_unmodified(server, public_client_python):
    run_id = _run_snippet(public_client_python, server.url)
    _assert_complete(server, run_id)


@pytest.mark.xdist_group("public-client")
def test_the_public_client_finds_the_run_by_query(server, public_client_python):
    run_id = _run_snippet(public_client_python, server.url)
    _assert_complete(server, run_id)
    script = f"""
import json
from matyan_client import Repo
repo = Repo("{server.url}")
print(json.dumps({{
    "all": repo.list_all_runs(),
    "found": [r["hash"] for r in repo.query_runs('run.hparams.lr < 0.01')],
    "missed": [r["hash"] for r in repo.query_runs('run.hparams.lr > 0.01')],
    "metrics": [r["hash"] for r in repo.query_metrics('metric.name == "loss"')],
    "exists": repo.run_exists("{run_id}"),
    "deleted": repo.delete_run("{run_id}"),
    "left": repo.list_all_runs(),
}}))
"""
    done = subprocess.run(
        [public_client_python, "-I", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "all": [run_id],
        "found": [run_id],
        "missed": [],
        "metrics": [run_id],
        "exists": True,
        "deleted": True,
        "left": [],
    }

"""`make demo`: the example trains, and finds its own best runs by query."""

from __future__ import annotations

import subprocess
import sys

import httpx
import pytest

from matyan_project import env
from matyan_project.local_server import free_port

pytestmark = pytest.mark.e2e


def _demo(*options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(env.BASE_DIR / "manage.py"), "demo", "--quick", *options],
        env=env.child_environ(
            DJANGO_SETTINGS_MODULE="matyan_project.settings.dev", **environ
        ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_demo_starts_a_server_where_none_runs(tmp_path):
    port = free_port()
    done = _demo(
        MATYAN_DATA_DIR=str(tmp_path),
        MATYAN_BACKEND_PORT=str(port),
        MATYAN_FRONTIER_PORT=str(free_port()),
    )
    assert done.returncode == 0, done.stderr
    assert f"No server at http://localhost:{port}; starting one" in done.stderr
    assert "Best of 4 runs" in done.stdout
    assert f"http://localhost:{port}/" in done.stdout
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://localhost:{port}/health/live/")


def test_demo_uses_a_running_server(shared_server):
    done = _demo("--repo", shared_server.url)
    assert done.returncode == 0, done.stderr
    assert "Best of 4 runs" in done.stdout
    activity = httpx.get(f"{shared_server.url}/api/v1/rest/projects/activity").json()
    assert activity["num_runs"] == 4
    assert activity["num_active_runs"] == 0


def test_demo_says_what_is_wrong_when_nobody_answers():
    done = _demo("--repo", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "No server is ready at http://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr

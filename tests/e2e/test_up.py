"""`manage.py up`: starts everything, keeps it running, leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from matyan_project import env
from matyan_project.local_server import LocalServer

pytestmark = pytest.mark.e2e


def _manage(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command of manage.py as a user would, not under the tests' settings."""
    return subprocess.run(
        [sys.executable, str(env.BASE_DIR / "manage.py"), *words],
        env=env.child_environ(
            DJANGO_SETTINGS_MODULE="matyan_project.settings.dev", **environ
        ),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def _eventually(holds: Callable[[], bool], *, timeout_s: float = 20.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _children(server: LocalServer) -> dict[str, int]:
    """Return the supervisor's children by what they run, once all have started."""
    assert _eventually(lambda: "ready in" in server.printed())
    found = {}
    for child in psutil.Process(server.pid).children():
        words = child.cmdline()
        role = child.environ().get("MATYAN_ROLE", "")
        found[f"{words[2]} {role or words[3]}"] = child.pid
    return found


def test_names_each_service_with_its_url_and_is_ready(server):
    assert _eventually(lambda: "ready in" in server.printed())
    printed = server.printed()
    assert f"http://localhost:{server.backend_port}" in printed
    assert f"http://localhost:{server.frontier_port}" in printed
    assert "worker ingestion" in printed
    assert "worker control" in printed
    assert "MATYAN_AUTH=off" in printed


def test_nobody_else_reads_the_data(tmp_path):
    data = tmp_path / "data"
    (data / "log").mkdir(parents=True)
    (data / "django.sqlite3").touch()
    (data / "shared").touch()
    for path, mode in ((data, 0o755), (data / "log", 0o755), (data / "shared", 0o644)):
        path.chmod(mode)
    (data / "django.sqlite3").chmod(0o644)
    with LocalServer(data) as running:
        assert _eventually(lambda: "ready in" in running.printed())
        ours = {path for path in data.rglob("*") if path.name not in _NOT_OURS}
        names = {path.name for path in ours}
        assert {"django.sqlite3", "data.mdb", "log", "store"} <= names
        assert [path for path in ours if path.stat().st_mode & 0o077] == []
    # What its owner has decided about is left alone.
    assert data.stat().st_mode & 0o777 == 0o755
    assert (data / "shared").stat().st_mode & 0o777 == 0o644


_NOT_OURS = {"shared", "up.out"}


def test_ctrl_c_stops_everything(server):
    pids = [server.pid, *_children(server).values()]
    assert len(pids) == 6
    assert server.stop(number=signal.SIGINT) == 0
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert "stopped" in server.printed()


def test_no_child_outlives_a_killed_supervisor(server):
    pids = list(_children(server).values())
    server.stop(number=signal.SIGKILL)
    assert _eventually(lambda: not any(map(psutil.pid_exists, pids)))


def test_a_new_up_waits_for_what_a_killed_one_left(server):
    child = psutil.Process(_children(server)["runworker control"])
    child.suspend()
    server.stop(number=signal.SIGKILL)
    with ThreadPoolExecutor(1) as threads:
        starting = threads.submit(server.start)
        try:
            assert _eventually(lambda: "waiting for the proc" in server.printed())
        finally:
            child.resume()
        starting.result()
    assert _eventually(lambda: server.printed().count("ready in") == 2)
    assert not child.is_running()


def test_a_crashed_child_is_named_and_restarted(server):
    before = _children(server)
    os.kill(before["serve frontier"], signal.SIGKILL)
    assert _eventually(lambda: "frontier ended (killed by SIGKILL)" in server.printed())
    server.wait_ready()
    assert _children(server)["serve frontier"] != before["serve frontier"]


def test_a_second_up_on_the_same_directory_is_refused(server):
    second = _manage("up", f"--data-dir={server.data_dir}")
    assert second.returncode == 1
    assert "is in use by another `manage.py up`" in second.stderr
    assert f"process {server.pid}" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_port_in_use_is_refused(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = _manage("up", f"--data-dir={tmp_path}", f"--backend-port={port}")
    assert refused.returncode == 1
    assert f"Cannot listen on 127.0.0.1:{port}" in refused.stderr
    assert "--backend-port" in refused.stderr


@pytest.mark.parametrize("port", ["0", "70000", "http"])
def test_a_bad_port_is_a_usage_error(port):
    refused = _manage("up", f"--backend-port={port}")
    assert refused.returncode == 2
    assert f"--backend-port: '{port}' is not a port, 1 to 65535" in refused.stderr


def test_one_port_for_both_is_refused_by_name(tmp_path):
    refused = _manage(
        "up", f"--data-dir={tmp_path}", "--backend-port=4711", "--frontier-port=4711"
    )
    assert refused.returncode == 1
    assert "port 4711" in refused.stderr
    assert "--single-port" in refused.stderr


def test_people_and_tokens_can_be_made_before_the_first_start(tmp_path):
    here = {"MATYAN_DATA_DIR": str(tmp_path / "new place")}
    made = _manage("tokens", "create", "cluster", **here)
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("mty_")
    assert f"prepared a new installation in {tmp_path / 'new place'}" in made.stderr
    again = _manage("tokens", "list", **here)
    assert "cluster" in again.stdout
    assert "prepared" not in again.stderr
    words = ("--noinput", "--username=ann", "--email=ann@example.org")
    other = {
        "MATYAN_DATA_DIR": str(tmp_path / "other"),
        "DJANGO_SUPERUSER_PASSWORD": "of nobody",
    }
    person = _manage("createsuperuser", *words, **other)
    assert person.returncode == 0, person.stderr
    assert "prepared" in person.stderr


def test_verifying_a_mistyped_directory_makes_nothing(tmp_path):
    refused = _manage("store", "verify", MATYAN_DATA_DIR=str(tmp_path / "typo"))
    assert refused.returncode == 1
    assert f"There is no store in {tmp_path / 'typo' / 'store'}" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_data_of_a_newer_format_is_refused_and_kept(server):
    server.stop()
    raised = _manage("shell", "-c", _RAISE_FORMAT, MATYAN_DATA_DIR=str(server.data_dir))
    assert raised.returncode == 0
    stored = _sizes(server.data_dir / "store")
    with pytest.raises(RuntimeError, match="newer or unknown version"):
        LocalServer(server.data_dir).start(timeout_s=8)
    assert _sizes(server.data_dir / "store") == stored


_RAISE_FORMAT = """
from backend.runtime import get_store
from backend.storage import keyspace
store = get_store()
newer = b"99"
store.engine.transact(lambda tr: tr.set(keyspace.pack_format(), newer))
"""


def _sizes(directory: Path) -> dict[str, int]:
    return {p.name: p.stat().st_size for p in directory.iterdir() if p.is_file()}


def test_who_gets_in_and_how_is_said_for_this_directory(tmp_path):
    place = tmp_path / "data of mine"
    with LocalServer(place, options=["--single-port", "--host=0.0.0.0"]) as server:
        printed = server.printed()
    assert f"`MATYAN_DATA_DIR='{place}' manage.py tokens create NAME`" in printed
    assert "tokens and passwords travel in clear" in printed


def test_single_port_serves_both_roles(tmp_path):
    with LocalServer(tmp_path / "data", options=["--single-port"]) as server:
        url = f"{server.url}/api/v1/rest/version/"
        with urllib.request.urlopen(url) as answer:
            assert answer.status == 200
        assert len(_children(server)) == 4

"""Real task workers: a deleted run's files go, jobs are done, a kill loses nothing."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.blobs.filesystem import FilesystemBlobStore
from backend.domain.blobs import blob_key, new_blob_id
from backend.services import runs
from backend.storage.factory import open_store
from matyan_project import env
from matyan_project.local_server import free_port
from tests.backend.writing import START_US, write

pytestmark = pytest.mark.e2e

EMBEDDED = "backend.storage.engine.embedded.EmbeddedEngine"
PATIENCE_S = 30.0


class Machine:
    """A data directory and the processes that work on it."""

    def __init__(self, data_dir: Path, **environ: str) -> None:
        self.data_dir = data_dir
        self.environ = env.child_environ(
            DJANGO_SETTINGS_MODULE="matyan_project.settings.dev",
            MATYAN_DATA_DIR=str(data_dir),
            PYTHONPATH="client/src",
            **environ,
        )
        self.manage("migrate", "-v0")

    def manage(self, *words: str) -> str:
        return subprocess.run(
            [sys.executable, "manage.py", *words],
            cwd=env.BASE_DIR,
            env=self.environ,
            check=True,
            timeout=PATIENCE_S,
            capture_output=True,
            text=True,
        ).stdout

    @contextlib.contextmanager
    def process(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        with (
            (self.data_dir / f"{words[0]}.log").open("ab") as log,
            subprocess.Popen(
                [sys.executable, "manage.py", *words],
                cwd=env.BASE_DIR,
                env=self.environ,
                stderr=log,
            ) as process,
        ):
            try:
                yield process
            finally:
                process.kill()

    def logged(self) -> str:
        return "\n".join(
            f"{path.name}: {path.read_text()}" for path in self.data_dir.glob("*.log")
        )

    def wait_for(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, self.logged()
            time.sleep(0.05)

    def health(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(
                (self.data_dir / "health" / "tasks.json").read_text()
            )
        except FileNotFoundError:
            return {}
        return found

    def row(self) -> tuple[str, str]:
        """Return the state and the result of the newest request."""
        database = sqlite3.connect(self.data_dir / "django.sqlite3", timeout=10)
        with contextlib.closing(database):
            found: tuple[str, str] = database.execute(
                "select state, result from backend_maintenancerequest order by id desc"
            ).fetchone() or ("", "")
            return found

    def delete_a_run(self, *, blobs: int) -> Callable[[], int]:
        """Delete a run with files; return what counts those that are left."""
        store = open_store(
            engine=EMBEDDED, options={"path": str(self.data_dir / "store")}
        )
        # Only this store's files are counted: its tokens are never used.
        opened = FilesystemBlobStore(
            path=str(self.data_dir / "blobs"),
            secret="x",  # noqa: S106
            durable=False,
        )
        write(store, "doomed")
        for n in range(blobs):
            blob_id = new_blob_id(now_us=START_US + n)
            opened.put(blob_key("doomed", f"{n}.bin", blob_id), [b"bytes"])
        runs.delete_run(store, run_id="doomed", now_us=START_US + 10**6)
        store.close()
        return lambda: len(list(opened.iter_keys()))


@pytest.fixture
def machine(data_dir: Path) -> Machine:
    return Machine(data_dir)


def stop(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(PATIENCE_S)


REQUEST = """
from backend import maintenance
maintenance.request_job("measure_store", arguments={}, requester="a test")
"""


def test_files_of_a_deleted_run_go_and_jobs_are_done(machine: Machine) -> None:
    left = machine.delete_a_run(blobs=300)
    assert left() == 300
    with (
        machine.process("taskworker", "--beat") as tasks,
        machine.process("runworker", "control") as control,
    ):
        machine.wait_for(lambda: left() == 0)
        machine.manage("shell", "-v0", "-c", REQUEST)
        machine.wait_for(lambda: machine.row()[0] == "done")
        assert json.loads(machine.row()[1])["runs"] == 0
        assert machine.health()["state"] == "ok"
        assert stop(control) == 0
        assert stop(tasks) == 0, machine.logged()
    assert machine.health()["state"] == "stopped"


@pytest.mark.chaos
def test_a_worker_killed_in_the_middle_is_made_good_by_the_next(
    machine: Machine,
) -> None:
    left = machine.delete_a_run(blobs=3_000)
    with machine.process("runworker", "control"):
        with machine.process("taskworker") as tasks:
            machine.wait_for(lambda: 0 < left() < 3_000)
            tasks.kill()
        assert left() > 0
        with machine.process("taskworker"):
            # The task is gone with the worker, but the event is noted. The control
            # worker sends it again after two minutes; this only hastens that.
            machine.manage("shell", "-v0", "-c", HASTEN)
            machine.wait_for(lambda: left() == 0)


HASTEN = """
from backend import runtime, task_queue
from backend.services.reactions import list_reactions
ids = [r.event_id for r in list_reactions(runtime.get_store(), limit=10)]
assert ids
task_queue.send_task(task_queue.REACT, event_ids=ids)
"""


@pytest.mark.chaos
def test_control_waits_for_its_broker(data_dir: Path) -> None:
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("no redis-server")
    port = free_port()
    machine = Machine(data_dir, MATYAN_TASK_BROKER_URL=f"redis://127.0.0.1:{port}/0")
    left = machine.delete_a_run(blobs=5)
    with (
        machine.process("runworker", "control"),
        machine.process("taskworker", "--beat"),
    ):
        log = data_dir / "runworker.log"
        machine.wait_for(lambda: "waiting_for_surroundings" in log.read_text())
        assert left() == 5
        command = [server, "--port", str(port), "--save", "", "--dir", str(data_dir)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as redis:
            try:
                machine.wait_for(lambda: left() == 0)
                machine.manage("shell", "-v0", "-c", REQUEST)
                machine.wait_for(lambda: machine.row()[0] == "done")
            finally:
                redis.kill()

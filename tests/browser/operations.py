"""An installation that an operator has to look after, and what goes wrong in it.

Beside the runs of `seeding` it has: a run to delete and one deleted already, an
experiment that two people delete, records that nobody can apply, one that can be
applied by now, and on demand workers that have failed and records that wait.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.blobs.factory import open_blob_store
from backend.bus.base import Record, RecordPosition
from backend.bus.local import LocalEventLog
from backend.bus.topics import CONTROL, INGESTION, TOPICS
from backend.errors import InvalidInputError
from backend.services import experiments, runs
from backend.storage.factory import open_store
from matyan_project import env
from matyan_project.local_server import LocalServer, free_port
from matyan_project.supervisor import answers
from matyan_wire import batch as wire
from tests.backend.api.conftest import Writer
from tests.browser.seeding import seed
from workers.dlq import publish_dead_letters
from workers.health import HealthFile

OPERATOR, PASSWORD = "operator", "correct horse battery"
HOUR_US = 3_600_000_000
SHARED_EXPERIMENT = "deleted by two"
REVIVED = "revived"
ATTEMPTS = 5


def now_us() -> int:
    return time.time_ns() // 1000


def prepare(data_dir: Path) -> None:
    """Fill a data directory before its server starts."""
    blobs = open_blob_store(
        engine="backend.blobs.filesystem.FilesystemBlobStore",
        options={"path": str(data_dir / "blobs"), "secret": "seeding only"},
    )
    with contextlib.closing(blobs):
        seed(data_dir, blobs)
    with contextlib.closing(
        open_store(
            engine="backend.storage.engine.embedded.EmbeddedEngine",
            options={"path": str(data_dir / "store"), "durable": False},
        )
    ) as store:
        writer = Writer(store)
        writer.run("doomed", second=40, name="Run to delete", experiment="digits")
        writer.run("gone", second=50, name="Deleted yesterday")
        runs.delete_run(store, run_id="gone", now_us=now_us() - 26 * HOUR_US)
        experiments.create_experiment(
            store, name=SHARED_EXPERIMENT, description="", now_us=now_us() - HOUR_US
        )
    with open_log(data_dir) as log:
        _publish_poison(log)
    add_operator(data_dir)


def add_operator(data_dir: Path) -> None:
    """Make the operator, and the tables for it."""
    manage(data_dir, "migrate", "--verbosity=0")
    manage(
        data_dir,
        "createsuperuser",
        "--noinput",
        f"--username={OPERATOR}",
        "--email=operator@example.org",
        DJANGO_SUPERUSER_PASSWORD=PASSWORD,
    )


@contextlib.contextmanager
def open_log(data_dir: Path, *, age_us: int = 0) -> Iterator[LocalEventLog]:
    """Open the event log; what is published is `age_us` old."""
    log = LocalEventLog(
        path=str(data_dir / "log"), durable=False, now_us=lambda: now_us() - age_us
    )
    with contextlib.closing(log):
        log.ensure_topics(TOPICS)
        yield log


def envelope(run_id: str, *, name: str) -> bytes:
    """Return a record that makes a run."""
    batch = wire.Batch(
        wire.BATCH_VERSION,
        run_id,
        events=[wire.CreateRun(now_us()), wire.SetProperties(name=name)],
    )
    return wire.encode_envelope(
        received_us=now_us(), digest=b"", batch=wire.encode_batch(batch)
    )


def _publish_poison(log: LocalEventLog) -> None:
    mended = Record(
        RecordPosition("earlier", INGESTION, 3, 41),
        REVIVED.encode(),
        envelope(REVIVED, name="Came back by replay"),
        now_us(),
    )
    reason = InvalidInputError(field="events", reason="unknown kind 'future'")
    with contextlib.closing(log.producer()) as producer:
        for value in (envelope("live", name="cut")[:-9], b"\xc1 no record of ours"):
            producer.publish(INGESTION, key=b"live", value=value).result(10)
        event = json.dumps({"id": "e1", "type": "run_deleted"}).encode()
        producer.publish(CONTROL, key=b"plain", value=event[:-5]).result(10)
        publish_dead_letters(
            producer, [(mended, reason)], now_us=now_us() - 9 * HOUR_US
        )


def manage(data_dir: Path, *words: str, **environ: str) -> str:
    """Run a management command on a data directory; return what it printed."""
    done = subprocess.run(
        [sys.executable, str(env.BASE_DIR / "manage.py"), *words],
        env=env.child_environ(
            DJANGO_SETTINGS_MODULE="matyan_project.settings.dev",
            MATYAN_DATA_DIR=str(data_dir),
            **environ,
        ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def request_at_work(data_dir: Path) -> int:
    """Note a job as a worker that is in the middle of it does; return its number."""
    code = """
from django.utils import timezone
from backend.maintenance import resolve_arguments
from backend.models import MaintenanceRequest as Request
now = timezone.now()
row = Request.objects.create(
    job="compact_chunks", arguments=resolve_arguments("compact_chunks", {}),
    requester="schedule", state="running", started_at=now, heard_at=now,
    done_units=1260, total_units=4200, note="run 1260")
print(row.pk)
"""
    return int(manage(data_dir, "shell", "-c", code).split()[-1])


@contextlib.contextmanager
def records_that_wait(server: LocalServer) -> Iterator[None]:
    """Keep the ingestion worker from working, with three old records before it."""
    report = json.loads((server.data_dir / "health" / "ingestion.json").read_text())
    try:
        for _ in range(ATTEMPTS):
            os.kill(report["pid"], signal.SIGSTOP)
            if _publish_late(server.data_dir):
                break
            # It was stopped while it held the log's lock: nothing could be written.
            os.kill(report["pid"], signal.SIGCONT)
        else:
            pytest.fail("the event log stays locked")
        yield
    finally:
        os.kill(report["pid"], signal.SIGCONT)


def _publish_late(data_dir: Path) -> bool:
    """Publish in a process of its own, which can be given up; tell if it did."""
    command = [sys.executable, "-m", "tests.browser.operations", str(data_dir)]
    try:
        subprocess.run(
            command,
            cwd=env.BASE_DIR,
            env=env.child_environ(PYTHONPATH=os.pathsep.join([".", "client/src"])),
            timeout=20,
            check=True,
        )
    except subprocess.TimeoutExpired:
        return False
    return True


def publish_late(data_dir: Path) -> None:
    with (
        open_log(data_dir, age_us=2 * HOUR_US) as log,
        contextlib.closing(log.producer()) as producer,
    ):
        for n in range(3):
            key, value = f"late{n}", envelope(f"late{n}", name=f"Late run {n}")
            producer.publish(INGESTION, key=key.encode(), value=value).result(60)


@contextlib.contextmanager
def incident(server: LocalServer) -> Iterator[None]:
    """Two more workers that are in trouble, and records that wait for two hours."""
    with records_that_wait(server):
        health = server.data_dir / "health"
        silent, failing = health / "ingestion-2.json", health / "ingestion-3.json"
        try:
            HealthFile(
                silent, name="ingestion-2", now_us=lambda: now_us() - HOUR_US
            ).report("ok", applied=81_344, lag=0)
            HealthFile(failing, name="ingestion-3", now_us=now_us).report(
                "failing",
                applied=912,
                lag=3,
                reason="The store is unavailable (reason='Operation timed out')",
            )
            yield
        finally:
            silent.unlink(missing_ok=True)
            failing.unlink(missing_ok=True)


@contextlib.contextmanager
def server_without_store(data_dir: Path) -> Iterator[str]:
    """Serve where the store cannot be opened; yield the server's address."""
    data_dir.mkdir()
    add_operator(data_dir)
    (data_dir / "store").write_text("in the way")
    port = free_port()
    with (data_dir / "serve.out").open("wb") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                str(env.BASE_DIR / "manage.py"),
                "serve",
                f"--port={port}",
            ],
            env=env.child_environ(
                DJANGO_SETTINGS_MODULE="matyan_project.settings.dev",
                MATYAN_DATA_DIR=str(data_dir),
                MATYAN_ROLE="all",
                MATYAN_AUTH="required",
            ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 30
        while not answers(f"{url}/health/live/", timeout_s=2.0):
            assert process.poll() is None, (data_dir / "serve.out").read_text()
            assert time.monotonic() < deadline, (data_dir / "serve.out").read_text()
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()


if __name__ == "__main__":
    publish_late(Path(sys.argv[1]))

"""`manage.py runworker`: starts, works, stops when told, and leaves Channels alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from backend.bus.local import LocalEventLog
from backend.bus.topics import TOPICS
from backend.storage.factory import open_store
from matyan_project.local_server import free_port
from tests.workers.loops import (
    PATIENCE_S,
    envelope,
    lag_of,
    send,
    stored_values,
    wait_for,
)

ROOT = Path(__file__).parents[2]


@contextmanager
def worker(data_dir: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run `manage.py runworker` on a data directory."""
    environ = {
        **os.environ,
        "MATYAN_DATA_DIR": str(data_dir),
        "DJANGO_SETTINGS_MODULE": "matyan_project.settings.dev",
        "PYTHONPATH": "client/src",
    }
    with subprocess.Popen(
        [sys.executable, "manage.py", "runworker", *arguments],
        cwd=ROOT,
        env=environ,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def health_of(data_dir: Path, name: str) -> dict[str, object]:
    try:
        found: dict[str, object] = json.loads(
            (data_dir / "health" / f"{name}.json").read_text()
        )
    except FileNotFoundError:
        return {}
    return found


def stop(process: subprocess.Popen[str], number: signal.Signals) -> str:
    """Send a signal and return what the process logged."""
    process.send_signal(number)
    _out, logged = process.communicate(timeout=PATIENCE_S)
    return logged


@pytest.fixture
def log(data_dir: Path) -> Iterator[LocalEventLog]:
    with ExitStack() as stack:
        opened = LocalEventLog(data_dir / "log")
        stack.callback(opened.close)
        opened.ensure_topics(TOPICS)
        yield opened


@pytest.mark.e2e
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ingestion_stores_what_was_published_and_stops_when_told(
    data_dir: Path, log: LocalEventLog, number: signal.Signals
):
    send(log, *[envelope(n) for n in range(50)])
    port = free_port()
    with worker(
        data_dir, "ingestion", "--name", "w1", "--metrics-port", str(port)
    ) as process:
        wait_for(lambda: lag_of(log) == 0)
        wait_for(lambda: health_of(data_dir, "w1").get("records") == 50)
        url = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as response:
            metrics = response.read().decode()
        logged = stop(process, number)
    assert process.returncode == 0, logged
    assert "worker.stopped" in logged
    assert "matyan_ingestion_messages_consumed_total 50.0" in metrics
    assert health_of(data_dir, "w1")["state"] == "stopped"
    store = open_store(
        engine="backend.storage.engine.embedded.EmbeddedEngine",
        options={"path": str(data_dir / "store")},
    )

    assert stored_values(store) == [float(n) for n in range(50)]
    store.close()


@pytest.mark.e2e
def test_what_cannot_be_applied_is_set_aside_and_the_rest_goes_on(
    data_dir: Path, log: LocalEventLog
):
    send(log, b"not an envelope")
    send(log, envelope(1))
    with worker(data_dir, "ingestion") as process:
        wait_for(lambda: lag_of(log) == 0)
        logged = stop(process, signal.SIGTERM)
    assert process.returncode == 0, logged
    assert "worker.dead_letter" in logged
    (letter,) = log.read("dead-letters", partition=0, offset=0, max_records=10)
    assert letter.value == b"not an envelope"


@pytest.mark.e2e
def test_control_passes_over_what_it_does_not_know(data_dir: Path, log: LocalEventLog):
    value = json.dumps({"id": "1", "type": "t", "time_us": 0, "payload": {}}).encode()
    log.producer().publish("control-events", key=b"k", value=value).result(PATIENCE_S)

    def lag() -> int:
        (found,) = log.lag(group="control-workers", topics=["control-events"])
        return found.lag

    with worker(data_dir, "control") as process:
        wait_for(lambda: lag() == 0)
        logged = stop(process, signal.SIGTERM)
    assert process.returncode == 0, logged
    assert "control.event_without_reaction" in logged


@pytest.mark.e2e
def test_a_store_that_cannot_be_opened_is_waited_for(
    data_dir: Path, log: LocalEventLog
):
    (data_dir / "store").write_text("in the way")
    with worker(data_dir, "ingestion") as process:
        wait_for(lambda: health_of(data_dir, "ingestion").get("state") == "failing")
        send(log, envelope(1))
        (data_dir / "store").unlink()
        wait_for(lambda: lag_of(log) == 0)
        logged = stop(process, signal.SIGTERM)
    assert process.returncode == 0, logged
    assert "worker.cannot_open" in logged


def test_other_names_go_to_channels(monkeypatch):
    from channels.management.commands.runworker import Command as ChannelsCommand

    seen = []
    monkeypatch.setattr(
        ChannelsCommand, "handle", lambda _self, *_a, **options: seen.append(options)
    )
    call_command("runworker", "thumbnails", "mail")
    assert seen[0]["channels"] == ["thumbnails", "mail"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["ingestion", "control"], "one worker a process"),
        (["ingestion", "mail"], "one worker a process"),
        (["ingestion", "--max-records", "0"], "--max-records"),
        (["ingestion", "--metrics-port", "70000"], "--metrics-port"),
        ([], "channels"),
    ],
)
def test_nonsense_is_refused(arguments: list[str], reason: str):
    with pytest.raises(CommandError, match=reason):
        call_command("runworker", *arguments)

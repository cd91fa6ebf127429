"""`manage.py health`: the exit status tells, the text says why."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from workers.health import STALE_S, HealthFile


def now_us() -> int:
    return time.time_ns() // 1000


@pytest.fixture
def reports(settings: Any, data_dir: Path) -> Any:
    """Write a worker's report; `age_s` old."""
    settings.DATA_DIR = data_dir

    def report(name: str, state: str, *, age_s: float = 0.0, **fields: Any) -> None:
        path = data_dir / "health" / f"{name}.json"
        clock = lambda: now_us() - int(age_s * 1e6)  # noqa: E731 - a clock
        HealthFile(path, name=name, now_us=clock).report(state, **fields)

    return report


@pytest.fixture
def answering(settings: Any) -> Iterator[dict[str, Any]]:
    """A server of the configured role; its status can be chosen."""
    chosen = {"status": 200, "path": ""}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            chosen["path"] = self.path
            self.send_response(int(chosen["status"]))
            self.end_headers()
            self.wfile.write(b'{"status": "told"}')

        def log_message(self, *_args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        settings.MATYAN_FRONTIER_PORT = server.server_port
        settings.MATYAN_BACKEND_PORT = 1
        settings.MATYAN_ROLE = "frontier"
        settings.MATYAN_HOST = "0.0.0.0"  # noqa: S104 - what containers set
        yield chosen
        server.shutdown()
        thread.join()


def test_a_ready_server_is_fine(answering, capsys):
    call_command("health")
    assert answering["path"] == "/health/ready/"
    assert "told" in capsys.readouterr().out


def test_a_server_that_is_not_ready_is_not(answering, settings):
    answering["status"] = 503
    with pytest.raises(CommandError, match="told"):
        call_command("health")
    settings.MATYAN_ROLE = "all"
    with pytest.raises(CommandError, match=r"127\.0\.0\.1:1/"):
        call_command("health")


def test_a_worker_that_reported_lately_is_fine(reports, capsys):
    reports("ingestion", "ok", warning="")
    reports("control", "starting")
    call_command("health", "--worker")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("state", "age_s", "reason"),
    [
        ("failing", 0.0, "it is failing: the store is down"),
        ("stopped", 0.0, "it is stopped"),
        ("ok", STALE_S + 5, "it has said nothing for 65 s"),
    ],
)
def test_a_worker_that_fails_or_is_silent_is_not(reports, state, age_s, reason):
    reports("ingestion", state, age_s=age_s, reason="the store is down")
    reports("control", "ok")
    with pytest.raises(CommandError, match=reason):
        call_command("health", "--worker")
    call_command("health", "--worker", "control")


def test_no_worker_is_not_fine(reports):
    with pytest.raises(CommandError, match="No worker has reported"):
        call_command("health", "--worker")


def test_records_near_their_end_are_told_of(reports, capsys):
    reports("ingestion", "ok", warning="retention will delete unconsumed records")
    call_command("health", "--worker")
    assert "ingestion: retention will delete" in capsys.readouterr().out

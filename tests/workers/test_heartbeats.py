"""Heartbeats: what a worker says reaches the table, and never at the worker's cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError
from django.utils import timezone

from backend.admin.worker_reports import read_worker_reports
from backend.models import WorkerHeartbeat
from workers.health import HealthFile
from workers.heartbeats import SharedHealth, forget_the_gone, open_health, publish


def said(state: str, name: str = "ingestion") -> dict[str, Any]:
    return {"name": name, "pid": 7, "state": state, "time_us": time.time_ns() // 1000}


@pytest.fixture
def file(tmp_path: Any) -> HealthFile:
    return HealthFile(tmp_path / "w.json", name="w", now_us=lambda: 1_000)


class Published:
    """Takes reports; fails while told to."""

    def __init__(self) -> None:
        self.reports: list[Mapping[str, Any]] = []
        self.fails = False
        self.asked = threading.Semaphore(0)

    def __call__(self, report: Mapping[str, Any]) -> None:
        self.asked.release()
        if self.fails:
            raise DatabaseError
        self.reports.append(dict(report))

    def states(self) -> list[str]:
        return [report["state"] for report in self.reports]


def test_every_change_of_state_is_published_at_once_and_the_last_before_the_end(file):
    published = Published()
    health = SharedHealth(file, published, interval_s=60)
    for state in ("starting", "ok", "failing"):
        health.report(state)
        assert published.asked.acquire(timeout=10)
    health.report("stopped")
    assert published.states()[-1] == "stopped"
    assert [s for s in published.states() if s != "stopped"]


def test_the_newest_report_is_published_now_and_then(file):
    published = Published()
    health = SharedHealth(file, published, interval_s=0.01)
    for count in range(1, 200):
        health.report("ok", applied=count)
    deadline = time.monotonic() + 10
    while not any(r.get("applied") == 199 for r in published.reports):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    health.report("stopped")


def test_a_database_that_is_away_is_logged_and_tried_again(file, caplog):
    published = Published()
    published.fails = True
    health = SharedHealth(file, published, interval_s=0.01)
    health.report("ok")
    for _ in range(3):
        assert published.asked.acquire(timeout=10)
    published.fails = False
    deadline = time.monotonic() + 10
    while not published.reports:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    health.report("stopped")
    assert "worker.heartbeat_not_published" in caplog.text
    assert published.states()[-1] == "stopped"


def test_one_machine_has_files_alone(settings, data_dir):
    settings.DATA_DIR = data_dir
    settings.MATYAN_SHARED_HEARTBEATS = False
    open_health("ingestion").report("ok")
    assert [path.name for path in (data_dir / "health").iterdir()] == ["ingestion.json"]


@pytest.mark.django_db
def test_the_admin_shows_the_rows_of_every_machine(settings, monkeypatch, data_dir):
    settings.DATA_DIR = data_dir
    settings.MATYAN_SHARED_HEARTBEATS = True
    for host in ("one", "two"):
        monkeypatch.setattr("workers.heartbeats.socket.gethostname", lambda h=host: h)
        publish(said("ok"))
        publish(said("failing" if host == "two" else "ok"))
    shown = [(r.name, r.host, r.state.text) for r in read_worker_reports()]
    assert shown == [("ingestion", "two", "failing"), ("ingestion", "one", "ok")]


@pytest.mark.django_db
def test_rows_of_workers_long_gone_are_forgotten():
    now = timezone.now()
    for name, state, age in (
        ("stopped lately", "stopped", timedelta(minutes=50)),
        ("stopped long ago", "stopped", timedelta(minutes=70)),
        ("silent", "ok", timedelta(hours=23)),
        ("gone", "ok", timedelta(hours=25)),
    ):
        WorkerHeartbeat.objects.create(
            name=name, host="h", said=said(state, name), heard_at=now - age
        )
    forget_the_gone()
    left = set(WorkerHeartbeat.objects.values_list("name", flat=True))
    assert left == {"stopped lately", "silent"}

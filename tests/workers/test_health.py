"""The health file: whole at any moment, never in the way."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from workers.health import HealthFile, NoHealth


def test_the_file_has_the_last_report(tmp_path: Path):
    path = tmp_path / "health" / "worker.json"
    health = HealthFile(path, name="worker", now_us=lambda: 5)
    health.report("failing", reason="down")
    health.report("ok", lag=3)
    assert json.loads(path.read_text()) == {
        "name": "worker",
        "pid": os.getpid(),
        "state": "ok",
        "time_us": 5,
        "lag": 3,
    }
    assert [p.name for p in path.parent.iterdir()] == ["worker.json"]


def test_a_file_that_cannot_be_written_is_only_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "health").write_text("")
    health = HealthFile(tmp_path / "health" / "x.json", name="x", now_us=lambda: 0)
    health.report("ok")
    assert "worker.health_not_written" in caplog.messages


def test_no_health_takes_anything():
    NoHealth().report("ok", lag=1)

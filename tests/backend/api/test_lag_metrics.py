"""The event log's lag at the backend's metrics page."""

from __future__ import annotations

from typing import Any

import pytest

from backend.api import lag_metrics
from backend.bus.topics import INGESTION, INGESTION_GROUP, TOPICS


@pytest.fixture
def asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the log now, whenever it was looked at before."""
    monkeypatch.setattr(lag_metrics, "_asked_s", float("-inf"))


def page(client: Any) -> list[str]:
    return str(client.get("/api/metrics").content.decode()).splitlines()


def test_each_partitions_lag_is_shown(runtime, client, asked_anew):
    log = runtime.get_event_log()
    log.ensure_topics(TOPICS)
    place = log.producer().publish(INGESTION, key=b"k", value=b"v").result(30)
    lines = page(client)
    where = f'partition="{place.partition}",topic="{INGESTION}"'
    labels = f'{{group="{INGESTION_GROUP}",{where}}}'
    assert f"matyan_backend_event_log_lag_records{labels} 1.0" in lines
    assert f"matyan_backend_event_log_seconds_to_loss{labels} +Inf" in lines
    assert "matyan_backend_event_log_up 1.0" in lines


def test_a_log_that_does_not_answer_is_told_of(runtime, client, asked_anew, settings):
    settings.MATYAN_BUS = {"ENGINE": "nowhere.Nothing", "OPTIONS": {}}
    assert "matyan_backend_event_log_up 0.0" in page(client)

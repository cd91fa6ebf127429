from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families

from backend.errors import EventLogFullError
from frontier.gateway import get_gateway
from tests.frontier.failing_logs import ScriptedLog

pytestmark = pytest.mark.urls("frontier.urls")


@pytest.mark.parametrize("slash", ["", "/"])
def test_live_and_version(client: Client, settings: Any, slash: str) -> None:
    assert client.get(f"/health/live{slash}").json() == {"status": "ok"}
    assert client.get(f"/api/v1/rest/version{slash}").json() == {
        "version": settings.MATYAN_VERSION,
        "component": "frontier",
    }


def test_ready(client: Client, scripted_log: ScriptedLog) -> None:
    response = client.get("/health/ready/")
    assert response.status_code == 200
    assert response.json() == {"status": "ok", "checks": {"kafka": "ok", "blob": "ok"}}


def test_not_ready_while_the_log_fails(
    client: Client, scripted_log: ScriptedLog
) -> None:
    scripted_log.failing_check = True
    response = client.get("/health/ready/")
    assert response.status_code == 503
    body = response.json()
    assert body["status"] == "degraded"
    assert body["checks"]["kafka"] == EventLogFullError.message
    assert "scripted" not in response.content.decode()


def test_not_ready_while_draining(client: Client, scripted_log: ScriptedLog) -> None:
    get_gateway().draining = True
    response = client.get("/health/ready/")
    assert response.status_code == 503
    assert response.json()["checks"] == {
        "kafka": "ok",
        "gateway": "draining",
        "blob": "ok",
    }


def test_metrics(client: Client) -> None:
    response = client.get("/metrics/")
    assert response.headers["Content-Type"].startswith("text/plain")
    families = text_string_to_metric_families(response.content.decode())
    names = {family.name for family in families}
    assert {
        "matyan_ws_connections_active",
        "matyan_ws_messages",
        "matyan_ws_connection_duration_seconds",
        "matyan_ws_frames",
        "matyan_ws_ack_seconds",
        "matyan_ws_in_flight_bytes",
        "matyan_ws_publish_failures",
    } <= names

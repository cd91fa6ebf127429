"""The JSON protocol against a real server: repetition and bad neighbours."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from matyan_project.local_server import LocalServer

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("shared-server")]

WHEN = "2026-11-23T08:00:00+00:00"


def _metric(step: int | None, value: float, **more: Any) -> dict[str, Any]:
    return {
        "type": "log_metric",
        "name": "loss",
        "value": value,
        "step": step,
        "epoch": None,
        "context": None,
        "dtype": "float",
        "client_datetime": WHEN,
        **more,
    }


FRAME = [
    {"type": "create_run", "client_datetime": WHEN, "force_resume": False},
    {"type": "set_run_property", "name": "first", "experiment": "e"},
    {"type": "add_tag", "tag_name": "t"},
    {
        "type": "log_hparams",
        "value": {"hparams": {"lr": 0.1, "deep": {"a": [1, None]}}},
    },
    _metric(0, 1.0),
    _metric(1, float("nan")),
    _metric(None, 3.0),
    {
        "type": "log_record",
        "message": "hello",
        "level": 20,
        "timestamp": 1.5,
        "logger_info": None,
        "extra_args": None,
    },
]


def _send(server: LocalServer, run_id: str, frames: list[Any]) -> list[dict[str, Any]]:
    address = f"ws://127.0.0.1:{server.frontier_port}/api/v1/ws/runs/{run_id}"
    with connect(address) as socket:
        answers = []
        for frame in frames:
            socket.send(json.dumps(frame))
            answers.append(json.loads(socket.recv(timeout=20)))
    return answers


def _settled(server: LocalServer, run_id: str, *, last_step: int) -> dict[str, Any]:
    """Return the run as the API tells it, once `last_step` can be read."""
    deadline = time.monotonic() + 20
    base = f"{server.url}/api/v1/rest/runs/{run_id}"
    while time.monotonic() < deadline:
        batch = httpx.post(
            f"{base}/metric/get-batch/", json=[{"name": "loss", "context": {}}]
        )
        if batch.status_code == 200 and batch.json()[0]["iters"][-1] == last_step:
            info = httpx.get(f"{base}/info/").json()
            records = httpx.get(f"{base}/log-records/").content
            return {"info": info, "points": batch.text, "records": records}
        time.sleep(0.05)
    pytest.fail("the points did not arrive")


def test_the_same_frame_sent_twice_changes_nothing(shared_server):
    marker = _metric(10, 0.0, client_datetime="2026-11-23T09:00:00+00:00")
    assert _send(shared_server, "once", [FRAME, marker])[0] == {
        "status": "ok",
        "error": None,
    }
    before = _settled(shared_server, "once", last_step=10)
    last = _metric(11, 0.0, client_datetime="2026-11-23T09:00:01+00:00")
    assert all(
        a["status"] == "ok" for a in _send(shared_server, "once", [FRAME, FRAME, last])
    )
    after = _settled(shared_server, "once", last_step=11)
    assert after["records"] == before["records"]
    assert after["info"]["props"] == before["info"]["props"]
    assert after["info"]["params"] == before["info"]["params"]
    assert json.loads(after["points"])[0]["iters"] == [0, 1, 2, 10, 11]


def test_a_bad_item_loses_no_neighbour_and_is_named(shared_server):
    frame = [
        _metric(0, 1.0),
        {"type": "log_metric", "name": "loss"},
        "no object",
        {"type": "unheard_of"},
        _metric(1, 2.0, epoch=0.5),
        _metric(2, 3.0, name=5),
        _metric(3, 4.0),
    ]
    answer = _send(shared_server, "mixed", [frame])[0]
    assert answer["status"] == "error"
    for index in (1, 2, 3, 5):
        assert f"item {index}" in answer["error"] or f"[{index}]" in answer["error"]
    points = _settled(shared_server, "mixed", last_step=3)["points"]
    assert json.loads(points)[0]["iters"] == [0, 1, 3]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/rest/runs/nobody/info", 404),
        ("GET", "/api/v1/rest/runs/search/run?q=run.hash%20==", 400),
        ("GET", "/api/v1/rest/runs/search/run?q=exec('1')", 400),
        ("GET", "/api/v1/rest/runs/search/run?q=a&sort=x", 400),
        ("GET", "/api/v1/rest/nothing/here", 404),
        ("DELETE", "/api/v1/rest/runs/nobody", 404),
        ("PATCH", "/api/v1/rest/tags", 405),
    ],
)
def test_bad_requests_are_told_as_json_with_a_message(
    shared_server, method, path, status
):
    answer = httpx.request(method, f"{shared_server.url}{path}")
    assert answer.status_code == status
    body = answer.json()
    assert body["message"]
    assert "Traceback" not in answer.text
    assert httpx.get(f"{shared_server.url}/health/ready/").status_code == 200

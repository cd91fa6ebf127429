from __future__ import annotations

import json
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator

from frontier.admission import find_run_id
from frontier.gateway import get_gateway
from frontier.routing import application
from tests.frontier.conftest import Connect
from tests.frontier.failing_logs import ScriptedLog


@pytest.mark.parametrize(
    ("path", "run_id"),
    [
        ("/api/v1/ws/runs/abc", "abc"),
        ("//api/v1/ws/runs/abc", "abc"),
        ("/api//v1/ws///runs/abc/", "abc"),
        ("/tenant/t-1/api/v1/ws/runs/a.b_c-D", "a.b_c-D"),
        ("/api/v1/ws/runs/", ""),
        ("/api/v1/ws/runs/a/b", None),
        ("/api/v1/ws/run/a", None),
        ("/", None),
    ],
)
def test_paths(path: str, run_id: str | None) -> None:
    assert find_run_id(path) == run_id


@pytest.mark.parametrize("path", ["//api/v1/ws/runs/{}", "/p/tok/api/v1/ws/runs/{}"])
@pytest.mark.parametrize("run_id", ["x", "0" * 128, "a.b-c_D", "..."])
async def test_any_run_id_that_can_be_one_is_taken(
    scripted_log: ScriptedLog, connect: Connect, path: str, run_id: str
) -> None:
    socket = await connect(run_id, path=path)
    await socket.send_to(text_data='{"type":"finish_run"}')
    assert json.loads(await socket.receive_from())["status"] == "ok"
    assert scripted_log.taken[0][0] == run_id.encode()


async def handshake(path: str, *, can_answer: bool = True) -> list[dict[str, Any]]:
    """Return what the gateway answers to a handshake it refuses."""
    extensions: dict[str, Any] = {"websocket.http.response": {}} if can_answer else {}
    scope = {
        "type": "websocket",
        "path": path,
        "headers": [],
        "subprotocols": [],
        "extensions": extensions,
    }
    communicator = ApplicationCommunicator(application(None), scope)
    await communicator.send_input({"type": "websocket.connect"})
    first = await communicator.receive_output(timeout=5)
    rest = [await communicator.receive_output(timeout=5)] if can_answer else []
    await communicator.wait()
    return [first, *rest]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nowhere", 404),
        ("/api/v1/ws/runs/a/b", 404),
        ("/api/v1/ws/runs/", 403),
        ("/api/v1/ws/runs/..", 403),
        ("/api/v1/ws/runs/a b", 403),
        ("/api/v1/ws/runs/a\nb", 403),
        ("/api/v1/ws/runs/" + "x" * 129, 403),
    ],
)
async def test_what_can_never_succeed_is_refused_for_good(
    scripted_log: ScriptedLog, path: str, status: int
) -> None:
    start, body = await handshake(path)
    assert start["status"] == status
    assert json.loads(body["body"])["message"]
    (closing,) = await handshake(path, can_answer=False)
    assert (closing["type"], closing["code"]) == ("websocket.close", 1008)


async def expect_503(reason: str) -> None:
    start, body = await handshake("/api/v1/ws/runs/a")
    assert start["status"] == 503
    assert (b"retry-after", b"1") in start["headers"]
    assert reason in json.loads(body["body"])["message"]
    (closing,) = await handshake("/api/v1/ws/runs/a", can_answer=False)
    assert (closing["type"], closing["code"]) == ("websocket.close", 1013)


async def test_draining_is_503(scripted_log: ScriptedLog) -> None:
    get_gateway().draining = True
    await expect_503("the gateway is stopping")


async def test_too_many_connections_are_503(
    scripted_log: ScriptedLog, connect: Connect, settings: Any
) -> None:
    settings.MATYAN_GATEWAY_LIMITS = {"connections": 1}
    socket = await connect()
    await expect_503("too many connections")
    await socket.disconnect()
    await connect()


async def test_a_log_that_cannot_be_opened_is_503(
    settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.MATYAN_BUS = {"ENGINE": "no.such.Log"}
    await expect_503("the event log is failing")
    # Why is for whoever reads the log, not for whoever knocks.
    assert "no such event log class" in str([vars(one) for one in caplog.records])


async def test_a_failing_log_is_503_until_it_recovers(
    scripted_log: ScriptedLog, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backend.errors import EventLogUnavailableError

    monkeypatch.setattr("frontier.gateway.PROBE_INTERVAL_S", 0.0)
    scripted_log.failing_check = True
    get_gateway().log_health.note_failure(EventLogUnavailableError(reason="down"))
    await expect_503("the event log is failing")
    scripted_log.failing_check = False
    await connect()
    assert get_gateway().log_health.failure is None

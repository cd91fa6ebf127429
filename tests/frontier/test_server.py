"""A real gateway process, real sockets."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from backend.bus.factory import open_event_log
from matyan_wire import limits
from matyan_wire.frames import SUBPROTOCOL
from tests.frontier.conftest import batches
from tests.frontier.processes import GatewayProcess, running_gateway
from tests.frontier.test_binary_protocol import make_batch, make_frame

pytestmark = pytest.mark.e2e

OK = {"status": "ok", "error": None}
REFUSING = {"ENGINE": "tests.frontier.failing_logs.RefusingLog"}


def line(step: int) -> str:
    return json.dumps({"type": "log_terminal_line", "line": "x", "step": step})


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    directory = tmp_path_factory.mktemp("gateway")
    with running_gateway(directory) as process:
        yield process


def test_plain_and_large_frames_over_one_socket(gateway: GatewayProcess) -> None:
    big = json.dumps(
        [
            {"type": "log_terminal_line", "line": "é" * 500_000, "step": s}
            for s in range(7)
        ]
    )
    assert len(big) > 20 * 1024 * 1024
    with connect(gateway.run_url("plain"), max_size=None) as socket:
        for frame in (line(0), f"[{line(1)}]", "[]", big, line(2)):
            socket.send(frame)
            assert json.loads(socket.recv(timeout=30)) == OK
        for bad in ("nonsense", b"\x00binary"):
            socket.send(bad)
            assert json.loads(socket.recv(timeout=10))["status"] == "error"
        # Fragmented messages are one frame to the gateway.
        socket.send(iter(["[", line(3), "]"]))
        assert json.loads(socket.recv(timeout=10)) == OK


def test_binary_frames_in_a_window(gateway: GatewayProcess) -> None:
    protocols = [Subprotocol(SUBPROTOCOL)]
    with connect(gateway.run_url("run"), subprotocols=protocols) as socket:
        assert socket.subprotocol == SUBPROTOCOL
        for seq in range(1, 17):
            socket.send(make_frame(make_batch(seq), level=1 if seq % 2 else None))
        answers = [json.loads(socket.recv(timeout=10)) for _ in range(16)]
        assert answers == [
            {"status": "ok", "seq": seq, "epoch": 4} for seq in range(1, 17)
        ]


def test_a_refused_handshake_is_no_error_of_ours(gateway: GatewayProcess) -> None:
    for path in ("nowhere", "api/v1/ws/runs/a%20b"):
        url = f"ws://127.0.0.1:{gateway.port}/{path}"
        with pytest.raises(InvalidStatus) as refused:
            connect(url)
        assert refused.value.response.status_code in {403, 404}
    assert "ERROR" not in gateway.output.read_text()


def test_a_frame_over_the_limit_closes_with_1009(gateway: GatewayProcess) -> None:
    with connect(gateway.run_url("large"), compression=None) as socket:
        with contextlib.suppress(ConnectionClosed):
            socket.send(b"x" * (limits.MAX_FRAME_BYTES + 1))
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=30)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


def test_hopeless_handshakes(gateway: GatewayProcess) -> None:
    for path, status in {"runs/a b": 403, "runs/": 403, "walks/a": 404}.items():
        with pytest.raises(InvalidStatus) as refused:
            connect(gateway.run_url("").replace("runs/", path.replace(" ", "%20")))
        assert refused.value.response.status_code == status


def test_health_and_metrics(gateway: GatewayProcess) -> None:
    assert gateway.get("/health/live/")[0] == 200
    assert gateway.get("/health/ready/")[0] == 200
    status, body = gateway.get("/metrics/")
    assert status == 200
    assert b"matyan_ws_connections_active" in body


def test_sigterm_acknowledges_what_is_in_flight_and_refuses_the_rest(
    tmp_path: Path,
) -> None:
    with running_gateway(tmp_path, MATYAN_DRAIN_SECONDS=10.0) as gateway:
        urls = [gateway.run_url(f"r{i}") for i in range(4)]
        outcomes: list[Any] = [None] * len(urls)
        started = threading.Barrier(len(urls) + 1)

        def send_until_closed(index: int) -> None:
            acknowledged = 0
            with connect(urls[index], compression=None) as socket:
                started.wait(10)
                try:
                    while True:
                        socket.send(line(acknowledged))
                        assert json.loads(socket.recv(timeout=30)) == OK
                        acknowledged += 1
                except ConnectionClosed as closed:
                    code = closed.rcvd.code if closed.rcvd else None
                    outcomes[index] = (acknowledged, code)

        threads = [
            threading.Thread(target=send_until_closed, args=(i,))
            for i in range(len(urls))
        ]
        for thread in threads:
            thread.start()
        started.wait(10)
        time.sleep(0.3)
        gateway.terminate()
        for thread in threads:
            thread.join(20)
        assert gateway.process.wait(20) == 0
    log = open_event_log(
        engine="backend.bus.local.LocalEventLog",
        options={"path": str(tmp_path / "log")},
    )
    stored = batches(log)
    log.close()
    for index, (acknowledged, code) in enumerate(outcomes):
        assert code == 1012
        assert acknowledged > 0
        mine = sum(batch.run_id == f"r{index}" for batch in stored)
        assert mine in {acknowledged, acknowledged + 1}


def test_while_draining_handshakes_are_503(tmp_path: Path) -> None:
    with running_gateway(
        tmp_path,
        MATYAN_BUS=REFUSING,
        MATYAN_DRAIN_SECONDS=2.0,
        MATYAN_ACK_HOLD_SECONDS=30.0,
    ) as gateway:
        with connect(gateway.run_url("busy")) as busy:
            busy.send(line(0))
            time.sleep(0.2)
            gateway.terminate()
            time.sleep(0.3)
            with pytest.raises(InvalidStatus) as refused:
                connect(gateway.run_url("new"))
            assert refused.value.response.status_code == 503
            assert refused.value.response.headers["Retry-After"] == "1"
            assert gateway.get("/health/ready/")[0] == 503
            with pytest.raises(ConnectionClosed) as closed:
                busy.recv(timeout=10)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
        assert gateway.process.wait(20) == 0


def test_sigint_stops_too(tmp_path: Path) -> None:
    with running_gateway(tmp_path) as gateway:
        gateway.process.send_signal(signal.SIGINT)
        assert gateway.process.wait(20) == 0

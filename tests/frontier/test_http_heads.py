"""Heads of requests at a real gateway process, over real sockets."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest

from tests.frontier.processes import GatewayProcess, running_gateway

pytestmark = pytest.mark.e2e

START = b"GET /health/live/ HTTP/1.1\r\nHost: localhost\r\n"
FIELD = b"x-%d: " + b"a" * 900 + b"\r\n"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with running_gateway(tmp_path_factory.mktemp("gateway")) as process:
        yield process


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    limits = {"head_s": 1.0, "http_connections": 3}
    directory = tmp_path_factory.mktemp("narrow")
    with running_gateway(directory, MATYAN_GATEWAY_LIMITS=limits) as process:
        yield process


def opened(gateway: GatewayProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", gateway.port), timeout=30)


def everything(connection: socket.socket) -> bytes:
    """Return what is answered until the server closes the connection."""
    answer = b""
    try:
        while piece := connection.recv(65536):
            answer += piece
    except ConnectionResetError:
        pass
    return answer


@pytest.mark.parametrize(
    "head",
    [
        START + b"x-big: " + b"a" * 70_000,
        START + b"".join(FIELD % number for number in range(80)),
        START + b"".join(b"x-%d: a\r\n" % number for number in range(120)),
        b"GET /" + b"a" * 70_000,
        b"GET /?q=" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        START + b"".join(b"x-%d: a\r\n" % number for number in range(120)) + b"\r\n",
    ],
    ids=["value", "all", "fields", "address", "whole address", "whole head"],
)
def test_a_head_over_its_limits_is_refused(
    gateway: GatewayProcess, head: bytes
) -> None:
    with opened(gateway) as connection:
        connection.sendall(head)
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 431 ")
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert error["code"] == "head_too_large"


def test_a_head_within_its_limits_is_taken(gateway: GatewayProcess) -> None:
    fields = b"".join(FIELD % number for number in range(60))
    with opened(gateway) as connection:
        for _ in range(2):
            connection.sendall(START + fields + b"\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_trailers_are_bounded_too(gateway: GatewayProcess) -> None:
    chunked = START.replace(b"GET", b"POST") + b"Transfer-Encoding: chunked\r\n\r\n"
    with opened(gateway) as connection:
        connection.sendall(chunked + b"1\r\na\r\n0\r\nx-big: " + b"a" * 600_000)
        assert b"HTTP/1.1 431 " in everything(connection)


@pytest.mark.parametrize("sent", [b"", START, START + b"\r\n"])
def test_who_brings_no_head_is_cut(narrow: GatewayProcess, sent: bytes) -> None:
    with opened(narrow) as connection:
        connection.sendall(sent)
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 200 ") == sent.endswith(b"\r\n\r\n")


def drip(connection: socket.socket) -> None:
    connection.sendall(START)
    for _ in range(600):
        connection.sendall(b"x: a\r\n")
        time.sleep(0.05)


def test_a_head_that_drips_is_cut(narrow: GatewayProcess) -> None:
    with opened(narrow) as connection, pytest.raises(OSError, match=r"reset|pipe"):
        drip(connection)


def test_those_that_wait_make_room(narrow: GatewayProcess) -> None:
    idle = [opened(narrow) for _ in range(20)]
    try:
        assert narrow.get("/health/live/")[0] == 200
        assert everything(idle[0]) == b""
    finally:
        for connection in idle:
            connection.close()


def test_with_nobody_waiting_a_new_one_is_answered_503(narrow: GatewayProcess) -> None:
    unfinished = START.replace(b"GET", b"POST") + b"Content-Length: 9\r\n\r\n"
    busy = []
    try:
        for _ in range(3):
            busy.append(opened(narrow))
            busy[-1].sendall(unfinished + b"a")
            busy[-1].settimeout(1.0)
            with pytest.raises(TimeoutError):
                busy[-1].recv(1)
        with opened(narrow) as connection:
            answer = everything(connection)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in answer
    finally:
        for connection in busy:
            connection.close()

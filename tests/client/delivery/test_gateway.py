from __future__ import annotations

import base64

import pytest

from matyan_client.urls import BaseUrl, choose
from tests.client.fake_server import FakeServer


def test_one_port_needs_one_address(server, open_run):
    run = open_run(server.url + "/")
    assert run.flush(5)
    assert server.received.requests == [f"/api/v1/ws/runs/{run.hash}"]


def test_two_ports_are_found_from_one_address(server, open_run):
    with FakeServer() as backend:
        backend.refuse_status = 404
        backend.version["gateway"] = {"same_origin": False, "port": server.port}
        run = open_run(backend.url)
        run.track(1.0, "loss")
        assert run.flush(5)
    assert len(server.points()) == 1
    assert run.delivery.address == server.url


def test_the_gateway_can_be_given(server, open_run):
    run = open_run("http://127.0.0.1:1", frontier_url=server.url)
    run.track(1.0, "loss")
    assert run.flush(5)
    assert len(server.points()) == 1


def test_the_environment_is_used_when_nothing_is_given(server, open_run, monkeypatch):
    monkeypatch.setenv("MATYAN_BACKEND_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("MATYAN_FRONTIER_URL", server.url)
    assert open_run().flush(5)


def test_prefix_and_credentials_are_kept(server, open_run):
    run = open_run(f"http://ann:p%40ss@127.0.0.1:{server.port}/team/x/")
    assert run.flush(5)
    assert server.received.requests == [f"/team/x/api/v1/ws/runs/{run.hash}"]
    expected = base64.b64encode(b"ann:p@ss").decode()
    assert server.received.authorizations == [f"Basic {expected}"]
    assert "p%40ss" not in run.delivery.address


@pytest.mark.parametrize(
    ("text", "websocket"),
    [
        ("http://h:1", "ws://h:1/api/v1/ws/runs/r"),
        ("https://h", "wss://h/api/v1/ws/runs/r"),
        ("wss://h/p/", "wss://h/p/api/v1/ws/runs/r"),
        ("http://[::1]:5", "ws://[::1]:5/api/v1/ws/runs/r"),
    ],
)
def test_addresses_become_websocket_addresses(text, websocket):
    assert BaseUrl.parse(text).websocket("r") == websocket


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("localhost:53800", "http://"),
        ("", "http://"),
        ("ftp://h", "http://"),
        ("http://", "no host"),
        ("http://h:port", "not a server address"),
        ("http://h/?token=x", "query"),
    ],
)
def test_what_is_no_address_is_said_at_once(text, problem):
    with pytest.raises(ValueError, match=problem):
        BaseUrl.parse(text)


@pytest.mark.parametrize(
    ("arguments", "environment", "chosen"),
    [
        (("http://a", None), ("http://b", "http://c"), ("http://a", None)),
        (("http://a", "http://d"), ("", ""), ("http://a", "http://d")),
        ((None, None), ("http://b", "http://c"), ("http://b", "http://c")),
        ((None, None), ("http://b", ""), ("http://b", None)),
        ((None, None), ("", ""), ("http://localhost:53800", None)),
    ],
)
def test_arguments_go_before_the_environment(arguments, environment, chosen):
    backend_env, frontier_env = environment
    found = choose(*arguments, backend_env=backend_env, frontier_env=frontier_env)
    assert str(found.backend) == chosen[0]
    assert (found.frontier and str(found.frontier)) == chosen[1]

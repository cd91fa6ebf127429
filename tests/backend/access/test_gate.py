# ruff: noqa: S104 - addresses are compared here, not bound
from __future__ import annotations

import logging
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIHandler

from backend.access.addresses import is_loopback
from backend.access.credentials import token_in
from backend.access.gate import AccessGate, without_token_path
from backend.access.verifier import VERIFIER
from matyan_project.access import (
    UnsafeListenError,
    auth_required,
    require_safe_host,
    tls_options,
)
from tests.backend.access.asgi import ask

HOST = {"host": "localhost"}
TOKEN = "mty_" + "a" * 12 + "_" + "b" * 40


@pytest.mark.parametrize(
    ("header", "token"),
    [
        (None, None),
        ("", None),
        (f"Bearer {TOKEN}", TOKEN),
        (f"bearer  {TOKEN} ", TOKEN),
        ("Bearer", ""),
        ("Session cookie", None),
        ("Negotiate abc", ""),
        ("Basic !!!", ""),
        ("Basic /w==", ""),
        ("Basic YW5uOnNlY3JldA==", ""),  # ann:secret
    ],
)
def test_where_a_header_carries_a_token(header: str | None, token: str | None) -> None:
    assert token_in(header) == token


@pytest.mark.parametrize("pair", [f"{TOKEN}:", f"token:{TOKEN}", f"{TOKEN}:x", TOKEN])
def test_a_token_may_be_either_half_of_basic_credentials(pair: str) -> None:
    import base64

    assert token_in("Basic " + base64.b64encode(pair.encode()).decode()) == TOKEN


@pytest.mark.parametrize(
    ("path", "without"),
    [
        (f"/t/{TOKEN}/api/v1/rest/runs", "/api/v1/rest/runs"),
        (f"//t/{TOKEN}//api/v1/rest/runs", "//api/v1/rest/runs"),
        (f"/team/x/t/{TOKEN}/api/v1/ws/runs/r", "/team/x/api/v1/ws/runs/r"),
    ],
)
def test_a_token_in_the_path_becomes_a_header(path: str, without: str) -> None:
    headers = [(b"authorization", b"Basic x"), (b"host", b"h")]
    scope = without_token_path({"path": path, "headers": headers, "raw_path": b"x"})
    assert scope["path"] == without
    bearer = (b"authorization", f"Bearer {TOKEN}".encode())
    assert scope["headers"] == [(b"host", b"h"), bearer]
    assert TOKEN not in str(scope["raw_path"])


@pytest.mark.parametrize(
    "path", ["/", "/api/v1/rest/runs", f"/t/{TOKEN}", f"/t/{TOKEN}/runs", "/t/api/v1/x"]
)
def test_other_paths_stay(path: str) -> None:
    scope = {"path": path, "headers": []}
    assert without_token_path(scope) is scope


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("fe80::1%eth0", False),
        ("nowhere.invalid", False),
        ("", False),
    ],
)
def test_what_is_this_machine_alone(host: str, *, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("configured", "host", "production", "required"),
    [
        ("", "127.0.0.1", False, False),
        ("", "0.0.0.0", False, True),
        ("", "127.0.0.1", True, True),
        ("off", "127.0.0.1", True, False),
        ("off", "0.0.0.0", False, False),  # refused when it listens
        ("required", "127.0.0.1", False, True),
    ],
)
def test_when_credentials_are_needed(
    configured: str, host: str, *, production: bool, required: bool
) -> None:
    assert auth_required(configured, host=host, production=production) is required


def test_open_access_is_for_this_machine_only() -> None:
    require_safe_host("127.0.0.1", required=False)
    require_safe_host("0.0.0.0", required=True)
    with pytest.raises(UnsafeListenError, match="MATYAN_AUTH=required"):
        require_safe_host("0.0.0.0", required=False)


def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Any) -> None:
    assert tls_options("", "") == {}
    with pytest.raises(UnsafeListenError, match="together"):
        tls_options("cert.pem", "")
    with pytest.raises(UnsafeListenError, match="No such file"):
        tls_options(str(tmp_path / "cert"), str(tmp_path / "key"))
    (tmp_path / "cert").write_text("nonsense")
    with pytest.raises(UnsafeListenError, match="belong together"):
        tls_options(str(tmp_path / "cert"), str(tmp_path / "cert"))


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_open_access_is_refused_on_an_address_others_reach(
    kind: str, settings: Any
) -> None:
    settings.MATYAN_AUTH_REQUIRED = False
    status, body = await ask("/health/live/", kind=kind, server=("192.0.2.1", 80))
    assert status == 403
    assert b"MATYAN_AUTH=required" in body


async def test_on_a_loopback_address_it_is_open(settings: Any) -> None:
    settings.MATYAN_AUTH_REQUIRED = False
    assert (await ask("/health/live/"))[0] == 200
    assert (await ask("/health/live/", server=("/run/s", None), headers=HOST))[0] == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:53800", 200),
        ("a.localhost", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:53800", 200),
        ("known.example", 200),
        ("evil.example", 403),
        ("localhost.evil.example:80", 403),
        ("192.0.2.1", 403),
        ("?", 403),
    ],
)
async def test_open_access_is_refused_to_names_that_are_made_to_lead_here(
    host: str, status: int, settings: Any
) -> None:
    settings.MATYAN_AUTH_REQUIRED = False
    settings.ALLOWED_HOSTS = ["*", "known.example"]
    assert (await ask("/health/live/", headers={"host": host}))[0] == status


@pytest.mark.django_db(transaction=True)
async def test_a_token_in_the_path_works_and_is_not_logged(
    write_token: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    path = f"/t/{write_token}//api/v1/rest/version/"
    assert (await ask(path))[0] == 200
    assert (await ask(f"/t/{write_token}/api/v1/rest/runs/nothing/nowhere"))[0] == 404
    assert (await ask(f"/t/{write_token}x/api/v1/rest/version/"))[0] == 401

    def crash(*_: Any, **__: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr("backend.api.viewsets.service.VersionViewSet.retrieve", crash)
    assert (await ask(path))[0] == 500
    logged = "\n".join(str(vars(record)) for record in caplog.records)
    assert "api.crashed" in logged
    assert write_token.rsplit("_", 1)[1] not in logged + caplog.text


def test_tests_use_the_process_wide_verifier() -> None:
    assert AccessGate(ASGIHandler()) is not None
    assert VERIFIER.find_known("x") is None

"""Bodies at the server's own ASGI application: how much of one is read, and by whom."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from backend.access import tokens
from backend.access.verifier import VERIFIER
from backend.api import request_bodies
from backend.domain.access import Scope
from matyan_project.asgi import application

PIECE = b"[" + b" " * (64 * 1024 - 1)
TAGS = "/api/v1/rest/tags"
BATCH = "/api/v1/rest/runs/r/metric/get-batch"

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _restricted(settings: Any, runtime: Any) -> Iterator[None]:
    settings.MATYAN_AUTH_REQUIRED = True
    VERIFIER.clear()
    yield
    VERIFIER.clear()


def bearer(scope: str) -> dict[str, str]:
    _, text = tokens.create_token(name="a token", scope=Scope(scope))
    return {"authorization": f"Bearer {text}"}


class Sender:
    """A client that sends pieces for as long as it is read."""

    def __init__(self, pieces: int = 10_000) -> None:
        self.left = pieces
        self.sent = 0

    async def receive(self) -> dict[str, Any]:
        if self.left == 0:
            await asyncio.Event().wait()
        self.left -= 1
        self.sent += len(PIECE)
        return {"type": "http.request", "body": PIECE, "more_body": self.left > 0}


def ask(
    sender: Sender,
    path: str = TAGS,
    *,
    method: str = "POST",
    headers: dict[str, str] | None = None,
    size: int | None = None,
) -> tuple[int, dict[str, Any]]:
    fields = {"host": "localhost", "content-type": "application/json"} | (headers or {})
    if size is not None:
        fields["content-length"] = str(size)
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(k.encode(), v.encode()) for k, v in fields.items()],
        "client": ("192.0.2.7", 1),
        "server": ("127.0.0.1", 80),
    }
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(application(scope, sender.receive, send))
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(body)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/sign-in"),
        ("POST", "/sign-out"),
        ("POST", "/health/live/"),
        ("POST", "/api/auth/refresh"),
        ("POST", "/nowhere/at/all"),
        ("GET", TAGS),
        ("GET", "/static/admin/css/base.css"),
    ],
)
@pytest.mark.parametrize("size", [None, 5 * 1024**3])
def test_routes_without_a_body_read_none(
    method: str, path: str, size: int | None
) -> None:
    sender = Sender()
    status, answer = ask(
        sender, path, method=method, headers=bearer("admin"), size=size
    )
    assert (status, answer["error"]["code"]) == (413, "payload_too_large")
    assert sender.sent == (2 * len(PIECE) if size is None else 0)


@pytest.mark.parametrize("size", [None, 20 * 1024 * 1024])
@pytest.mark.parametrize(
    ("credentials", "path", "status"),
    [
        ({}, TAGS, 401),
        ({}, "/admin/login/", 401),
        ({"authorization": "Bearer mty_wrong"}, TAGS, 401),
        ({"cookie": f"{settings.SESSION_COOKIE_NAME}=wrong"}, TAGS, 401),
        ("read", TAGS, 403),
        ("write", "/api/v1/rest/runs/delete-batch", 403),
    ],
)
def test_access_is_decided_before_a_large_body_is_read(
    credentials: Any, path: str, status: int, size: int | None
) -> None:
    sender = Sender()
    headers = bearer(credentials) if isinstance(credentials, str) else credentials
    got, answer = ask(sender, path, headers=headers, size=size)
    assert got == status
    assert answer["message"]
    assert sender.sent <= 2 * len(PIECE)


def test_a_foreign_page_sends_no_large_body() -> None:
    headers = bearer("admin") | {"origin": "https://evil.example"}
    assert (ask(Sender(), headers=headers))[0] == 403


@pytest.mark.parametrize("size", [None, 6 * len(PIECE)])
def test_who_may_send_one_is_read_up_to_the_limit(
    settings: Any, size: int | None
) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 5 * len(PIECE)
    headers = bearer("write")
    sender = Sender(6)
    assert (ask(sender, headers=headers, size=size))[0] == 413
    assert sender.sent == (0 if size else 6 * len(PIECE))
    # Within the limit it reaches the view, which does not like what it says.
    size = 5 * len(PIECE)
    status, answer = ask(Sender(5), headers=headers, size=size)
    assert (status, "not JSON" in answer["message"]) == (400, True)
    assert ask(Sender(5), BATCH, headers=bearer("read"), size=size)[0] == 400


def test_a_signed_in_person_may_send_a_large_body(
    django_user_model: Any,
) -> None:
    person = django_user_model.objects.create_user("ann")
    client = Client()
    client.force_login(person)
    name = settings.SESSION_COOKIE_NAME
    cookie = f"{name}={client.cookies[name].value}"
    assert ask(Sender(5), headers={"cookie": cookie}, size=5 * len(PIECE))[0] == 400


def test_while_access_is_open_large_bodies_are_read(settings: Any) -> None:
    settings.MATYAN_AUTH_REQUIRED = False
    assert ask(Sender(5), size=5 * len(PIECE))[0] == 400
    assert ask(Sender(), "/sign-in")[0] == 413


def test_a_gateway_reads_no_large_body(settings: Any) -> None:
    settings.MATYAN_ROLE = "frontier"
    sender = Sender()
    assert (ask(sender, headers=bearer("admin"), size=10**6))[0] == 413
    assert sender.sent == 0


def test_a_body_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_bodies, "SPARE_S", 0.0)
    status, answer = ask(Sender(0))
    assert (status, answer["error"]["code"]) == (408, "request_timeout")

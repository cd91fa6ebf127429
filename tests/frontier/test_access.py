from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import DatabaseError
from django.utils import timezone

from backend.access import tokens
from backend.access.verifier import VERIFIER
from backend.domain.access import Scope
from backend.models import ApiToken
from frontier import auth
from tests.backend.access.asgi import ask
from tests.frontier.conftest import Connect
from tests.frontier.failing_logs import ScriptedLog

pytestmark = pytest.mark.django_db(transaction=True)

PATH = "/api/v1/ws/runs/r"
FRAME = json.dumps({"type": "add_tag", "tag_name": "t"})


@pytest.fixture(autouse=True)
def _restricted(settings: Any) -> Iterator[None]:
    settings.MATYAN_AUTH_REQUIRED = True
    VERIFIER.clear()
    yield
    VERIFIER.clear()


@pytest.fixture
def token(transactional_db: None) -> str:
    return tokens.create_token(name="a job", scope=Scope.WRITE)[1]


def _bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def test_a_token_opens_a_connection(
    scripted_log: ScriptedLog, token: str
) -> None:
    assert (await ask(PATH, kind="websocket", headers=_bearer(token)))[0] == 101
    assert (await ask(f"/t/{token}/{PATH}", kind="websocket"))[0] == 101


async def test_clients_that_come_back_at_once_do_not_ask_the_database(
    scripted_log: ScriptedLog, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await ask(PATH, kind="websocket", headers=_bearer(token)))[0] == 101

    def fail(text: str) -> None:
        raise AssertionError

    monkeypatch.setattr(tokens, "find_token", fail)
    for _ in range(20):
        assert (await ask(PATH, kind="websocket", headers=_bearer(token)))[0] == 101


async def test_an_unreadable_table_may_pass(
    scripted_log: ScriptedLog, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(text: str) -> None:
        raise DatabaseError

    monkeypatch.setattr(tokens, "find_token", fail)
    assert (await ask(PATH, kind="websocket", headers=_bearer(token)))[0] == 503


async def test_too_many_wrong_tokens_may_pass(
    scripted_log: ScriptedLog, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VERIFIER.limiter, "_clock", lambda: 0.0)
    statuses = [
        (await ask(PATH, kind="websocket", headers=_bearer(f"wrong{number}")))[0]
        for number in range(31)
    ]
    assert statuses == [401] * 30 + [503]
    near = await ask(
        PATH, kind="websocket", headers=_bearer(token), client="192.0.2.99"
    )
    assert near[0] == 101


async def test_a_revoked_token_ends_its_open_connections(
    scripted_log: ScriptedLog,
    connect: Connect,
    token: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    socket = await connect(token=token)
    monkeypatch.setattr(auth, "BELIEVED_S", -1.0)
    await socket.send_to(text_data=FRAME)
    assert json.loads(await socket.receive_from(5))["status"] == "ok"

    def fail(text: str) -> None:
        raise DatabaseError

    with monkeypatch.context() as patch:
        patch.setattr(tokens, "find_token", fail)
        VERIFIER.clear()
        await socket.send_to(text_data=FRAME)
        assert json.loads(await socket.receive_from(5))["status"] == "ok"
    await ApiToken.objects.aupdate(revoked_at=timezone.now())
    VERIFIER.clear()
    await socket.send_to(text_data=FRAME)
    closed = await socket.receive_output(5)
    assert (closed["type"], closed["code"]) == ("websocket.close", 1008)
    assert len(scripted_log.taken) == 2

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings

from tests.backend.access.asgi import ask


@pytest.mark.django_db(transaction=True)
async def test_a_signed_in_page_opens_no_websocket(django_user_model: Any) -> None:
    cookie = f"{settings.SESSION_COOKIE_NAME}=x"
    status, _ = await ask(
        "/api/v1/ws/runs/r", kind="websocket", headers={"cookie": cookie}
    )
    assert status == 401


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://evil.example", 403),
        ("null", 403),
        ("http://matyan.example:8000", 403),
        ("http://matyan.example", 403),
        ("https://Matyan.example:53801", 101),
        ("http://localhost:3000", 101),
    ],
)
@pytest.mark.django_db(transaction=True)
async def test_pages_of_other_sites_open_no_websocket(
    origin: str, status: int, write_token: str, settings: Any, *, required: bool
) -> None:
    settings.MATYAN_AUTH_REQUIRED = required
    settings.ALLOWED_HOSTS = ["matyan.example"]
    settings.MATYAN_BUS = {"ENGINE": "tests.frontier.failing_logs.ScriptedLog"}
    headers = {
        "origin": origin,
        "host": "matyan.example:53801",
        "authorization": f"Bearer {write_token}",
    }
    got, _ = await ask("/api/v1/ws/runs/r", kind="websocket", headers=headers)
    assert got == status

"""One request through the application as a server composes it."""

from __future__ import annotations

from typing import Any

from asgiref.testing import ApplicationCommunicator
from django.core.handlers.asgi import ASGIHandler

from backend.access.gate import AccessGate
from frontier.routing import application


async def ask(
    path: str,
    *,
    kind: str = "http",
    method: str = "GET",
    headers: dict[str, str] | None = None,
    server: tuple[str, int | None] = ("127.0.0.1", 80),
    client: str = "192.0.2.7",
) -> tuple[int, bytes]:
    """Return status and body of one request, 101 for an accepted WebSocket."""
    scope: dict[str, Any] = {
        "type": kind,
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(k.encode(), v.encode()) for k, v in (headers or {}).items()],
        "client": (client, 1),
        "server": server,
        "extensions": {"websocket.http.response": {}},
    }
    communicator = ApplicationCommunicator(
        AccessGate(application(ASGIHandler())), scope
    )
    first = "websocket.connect" if kind == "websocket" else "http.request"
    await communicator.send_input({"type": first})
    start = await communicator.receive_output(10)
    if start["type"] == "websocket.accept":
        await communicator.send_input({"type": "websocket.disconnect", "code": 1000})
        await communicator.wait(10)
        return 101, b""
    answer: dict[str, Any] = {"more_body": True}
    body = b""
    while answer.get("more_body"):
        answer = await communicator.receive_output(10)
        body += answer.get("body", b"")
    await communicator.send_input({"type": f"{kind}.disconnect", "code": 1000})
    await communicator.wait(10)
    return start["status"], body

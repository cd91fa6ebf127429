"""The outermost ASGI layer: what must be settled before anything else sees a request.

- `/t/<token>/api/v1/…` becomes `/api/v1/…` with `Authorization: Bearer <token>`. From
  here on no path holds a secret: not in logs, not in errors, not in metrics.
- While access is open, whatever arrives on an address that is not this machine's own
  is refused, however the server was started.

Design note: docs/subsystems/access.md#clients
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

from django.conf import settings

from backend.access.addresses import is_loopback

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_TOKEN_PATH: Final = re.compile(
    r"(?P<before>(?:/+[^/]+)*?)/+t/+(?P<token>[^/]+)(?P<rest>/+api/+v1/.*)\Z", re.DOTALL
)
_EXPOSED: Final = (
    "Access is open (MATYAN_AUTH=off) and this address can be reached from other "
    "machines. Start the server with MATYAN_AUTH=required."
)


class AccessGate:
    """ASGI middleware around the whole application."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, its token where tokens belong."""
        if scope["type"] in {"http", "websocket"}:
            if not settings.MATYAN_AUTH_REQUIRED and _is_exposed(scope):
                await _refuse(scope, receive, send)
                return
            scope = without_token_path(scope)
        await self._application(scope, receive, send)


def without_token_path(scope: Scope) -> Scope:
    """Return the scope with a token in its path moved to its headers."""
    found = _TOKEN_PATH.match(scope["path"])
    if found is None:
        return scope
    path = found["before"] + found["rest"]
    bearer = (b"authorization", f"Bearer {found['token']}".encode(errors="replace"))
    headers = [pair for pair in scope["headers"] if pair[0] != b"authorization"]
    # `raw_path` would still hold the token; nothing needs it.
    return {**scope, "path": path, "raw_path": None, "headers": [*headers, bearer]}


def _is_exposed(scope: Scope) -> bool:
    server = scope.get("server")
    if not server or server[1] is None:
        return False  # a Unix socket
    try:
        ipaddress.ip_address(server[0].split("%", 1)[0])
    except ValueError:
        return False  # a name given by a test or a proxy, not a socket's own address
    return not is_loopback(server[0])


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    body = json.dumps({"message": _EXPOSED, "detail": _EXPOSED}).encode()
    headers = [(b"content-type", b"application/json")]
    prefix = "http"
    if scope["type"] == "websocket":
        await receive()  # the connect event
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": 1008})
            return
        prefix = "websocket.http"
    start = {"type": f"{prefix}.response.start", "status": 403, "headers": headers}
    await send(start)
    await send({"type": f"{prefix}.response.body", "body": body})

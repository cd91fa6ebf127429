"""The outermost ASGI layer: what must be settled before anything else sees a request.

- `/t/<token>/api/v1/…` becomes `/api/v1/…` with `Authorization: Bearer <token>`. From
  here on no path holds a secret: not in logs, not in errors, not in metrics.
- While access is open, whatever arrives on an address that is not this machine's own,
  or for a host name that is not, is refused, however the server was started: the first
  is another machine, the second a proxy, or a page whose name was made to resolve here.

Design note: docs/subsystems/access.md#clients
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

from django.conf import settings
from django.http.request import split_domain_port, validate_host

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
_FOREIGN_HOST: Final = (
    "Access is open (MATYAN_AUTH=off) and this server is asked for by a name that is "
    "not this machine's own. Use localhost, name the host in MATYAN_ALLOWED_HOSTS, or "
    "start the server with MATYAN_AUTH=required."
)


class AccessGate:
    """ASGI middleware around the whole application."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, its token where tokens belong."""
        if scope["type"] in {"http", "websocket"}:
            problem = None if settings.MATYAN_AUTH_REQUIRED else _exposure(scope)
            if problem is not None:
                await _refuse(scope, receive, send, problem)
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


def _exposure(scope: Scope) -> str | None:
    """Return why a request cannot be this machine's own business; None if it can."""
    server = scope.get("server")
    # A Unix socket has no port; a name comes from tests, not from a socket.
    has_address = server and server[1] is not None and _is_address(server[0])
    if server and has_address and not is_loopback(server[0]):
        return _EXPOSED
    return None if _is_own_host(scope) else _FOREIGN_HOST


def _is_own_host(scope: Scope) -> bool:
    found = (value for name, value in scope["headers"] if name == b"host")
    host = next(found, b"").decode("latin-1")
    name, _ = split_domain_port(host)
    if not host or name == "localhost" or name.endswith(".localhost"):
        return True
    address = name.strip("[]")
    if _is_address(address):
        return is_loopback(address)
    allowed = [pattern for pattern in settings.ALLOWED_HOSTS if pattern != "*"]
    return validate_host(name, allowed)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.split("%", 1)[0])
    except ValueError:
        return False
    return True


async def _refuse(scope: Scope, receive: Receive, send: Send, problem: str) -> None:
    body = json.dumps({"message": problem, "detail": problem}).encode()
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

"""Which WebSocket handshakes are taken, and what the others are answered.

Clients retry a 5xx for ever and give up at a 4xx, losing what they have queued. So a
4xx is only for what can never succeed: a path that is no run's, a run id that cannot be
one. Everything that may pass (starting, stopping, a failing event log, too many
connections, credentials that cannot be checked just now) is 503.

The path may have repeated slashes (a base URL ending in one) and any prefix (a base URL
with a path, behind a proxy that does not remove it).
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

from backend.errors import (
    AccessError,
    AccessUnavailableError,
    TooManyAttemptsError,
)
from frontier import metrics
from frontier.auth import authenticate
from frontier.gateway import get_gateway
from matyan_wire.limits import is_run_id

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

TRY_AGAIN_LATER: Final = 1013
POLICY_VIOLATION: Final = 1008

_SLASHES: Final = re.compile(r"/{2,}")
_RUN_PATH: Final = re.compile(r".*/api/v1/ws/runs/(?P<run_id>[^/]*)/?\Z", re.DOTALL)


def find_run_id(path: str) -> str | None:
    """Return the run id that a WebSocket path names, None if it is no run's path."""
    match = _RUN_PATH.match(_SLASHES.sub("/", path))
    return match["run_id"] if match else None


class Admission:
    """ASGI middleware around the WebSocket application."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the handshake through with a plain path, or answer it."""
        run_id = find_run_id(scope["path"])
        refused = await self._refusal(scope, run_id)
        if refused is not None:
            await deny(scope, receive, send, *refused)
            return
        inner = {**scope, "path": f"/api/v1/ws/runs/{run_id}", "root_path": ""}
        await self._application(inner, receive, send)

    async def _refusal(
        self, scope: Scope, run_id: str | None
    ) -> tuple[HTTPStatus, str] | None:
        if run_id is None:
            return HTTPStatus.NOT_FOUND, "no such WebSocket path"
        if not is_run_id(run_id):
            reason = "a run id is 1 to 128 letters, digits, '_', '-' and '.'"
            return HTTPStatus.FORBIDDEN, reason
        unavailable = await get_gateway().refusal()
        if unavailable is not None:
            return HTTPStatus.SERVICE_UNAVAILABLE, unavailable
        try:
            scope["principal"] = await authenticate(scope)
        except AccessError as error:
            return _status(error), str(error)
        return None


def _status(error: AccessError) -> HTTPStatus:
    """Return 503 for what may pass: clients give up for good at a 429."""
    if isinstance(error, (TooManyAttemptsError, AccessUnavailableError)):
        return HTTPStatus.SERVICE_UNAVAILABLE
    return HTTPStatus(error.http_status)


async def deny(
    scope: Scope, receive: Receive, send: Send, status: HTTPStatus, reason: str
) -> None:
    """Answer a handshake with `status` and a JSON body that tells `reason`."""
    metrics.REFUSED_HANDSHAKES.labels(str(int(status))).inc()
    await receive()  # the connect event
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        # The server turns this into 403: the best that can be said through it.
        passing = status is HTTPStatus.SERVICE_UNAVAILABLE
        code = TRY_AGAIN_LATER if passing else POLICY_VIOLATION
        await send({"type": "websocket.close", "code": code, "reason": reason[:100]})
        return
    body = json.dumps({"message": reason, "detail": reason}).encode()
    headers = [(b"content-type", b"application/json")]
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append((b"retry-after", b"1"))
    start = {"type": "websocket.http.response.start", "status": int(status)}
    await send({**start, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})

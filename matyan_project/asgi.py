"""The ASGI application of a server process, composed by its role.

`backend` serves HTTP only; `frontier` and `all` also take the SDK's WebSockets.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.core.asgi import get_asgi_application

from matyan_project import env

env.use_settings("matyan_project.settings.dev")
django = get_asgi_application()

# After get_asgi_application(): these modules need the app registry.
from backend.access.gate import AccessGate  # noqa: E402
from backend.api.request_bodies import BodyGate  # noqa: E402
from frontier import admission, routing  # noqa: E402

http: Any = BodyGate(django)

_NO_GATEWAY = "this server takes no runs; /api/v1/rest/version/ tells which one does"


async def _http_only(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await admission.deny(scope, receive, send, HTTPStatus.NOT_FOUND, _NO_GATEWAY)
    else:
        await http(scope, receive, send)


application: Any = AccessGate(
    _http_only if settings.MATYAN_ROLE == "backend" else routing.application(http)
)

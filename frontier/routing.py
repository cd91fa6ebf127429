"""WebSocket routes, and the ASGI application made of them and the HTTP side."""

from __future__ import annotations

from typing import Any

from channels.routing import URLRouter
from django.urls import re_path

from frontier.admission import Admission, Application, Receive, Scope, Send
from frontier.blob_routes import BlobRoutes
from frontier.consumers import IngestConsumer

websocket_urlpatterns = [
    re_path(r"^api/v1/ws/runs/(?P<run_id>[^/]+)$", IngestConsumer.as_asgi()),
]


def application(http_application: Any) -> Application:
    """Return an ASGI application: runs and blobs here, everything else inside.

    Args:
        http_application: ASGI application for every other scope.
    """
    websocket_application = Admission(URLRouter(websocket_urlpatterns))
    http = BlobRoutes(http_application)

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await websocket_application(scope, receive, send)
        else:
            await http(scope, receive, send)

    return route

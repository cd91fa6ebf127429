"""The ASGI application of a server process, composed by its role.

`backend` serves HTTP only; `frontier` and `all` also take the SDK's WebSockets.
"""

from __future__ import annotations

from django.conf import settings
from django.core.asgi import get_asgi_application

from matyan_project import env

env.use_settings("matyan_project.settings.dev")

_http = get_asgi_application()

if settings.MATYAN_ROLE == "backend":
    application = _http
else:
    # After get_asgi_application(): the gateway's modules need the app registry.
    from frontier.routing import application as gateway

    application = gateway(_http)

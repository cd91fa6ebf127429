"""`manage.py serve`: one server process, in the role that MATYAN_ROLE names."""

from __future__ import annotations

import logging
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from typing_extensions import override

from frontier.server import serve
from matyan_project import access
from matyan_project.asgi import application

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    help = "Serve HTTP and WebSocket in the role of MATYAN_ROLE, until SIGTERM."
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's declaration

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default=settings.MATYAN_HOST)
        parser.add_argument("--port", type=int, default=_default_port())

    @override
    def handle(self, **options: Any) -> None:
        try:
            access.require_safe_host(
                options["host"], required=settings.MATYAN_AUTH_REQUIRED
            )
            tls: dict[str, Any] = access.tls_options(
                settings.MATYAN_TLS_CERT, settings.MATYAN_TLS_KEY
            )
        except access.UnsafeListenError as error:
            raise CommandError(str(error)) from None
        logger.info(
            "server.starting",
            extra={
                "host": options["host"],
                "port": options["port"],
                "auth": "required" if settings.MATYAN_AUTH_REQUIRED else "off",
                "tls": bool(tls),
            },
        )
        serve(application, host=options["host"], port=options["port"], **tls)


def _default_port() -> int:
    if settings.MATYAN_ROLE == "frontier":
        return settings.MATYAN_FRONTIER_PORT
    return settings.MATYAN_BACKEND_PORT

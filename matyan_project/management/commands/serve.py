"""`manage.py serve`: one server process, in the role that MATYAN_ROLE names."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from typing_extensions import override

from frontier.server import serve
from matyan_project.asgi import application


class Command(BaseCommand):
    help = "Serve HTTP and WebSocket in the role of MATYAN_ROLE, until SIGTERM."
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's declaration

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default=settings.MATYAN_HOST)
        parser.add_argument("--port", type=int, default=_default_port())

    @override
    def handle(self, **options: Any) -> None:
        serve(application, host=options["host"], port=options["port"])


def _default_port() -> int:
    if settings.MATYAN_ROLE == "frontier":
        return settings.MATYAN_FRONTIER_PORT
    return settings.MATYAN_BACKEND_PORT

"""`manage.py taskworker`: a Celery worker for maintenance and control tasks."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from typing_extensions import override

from backend import runtime
from matyan_project.celery import app
from workers.task_worker import run_worker


class Command(BaseCommand):
    help = (
        "Run a Celery worker in the foreground: acts on control events, runs "
        "maintenance jobs. One of an installation also keeps the schedule (--beat)."
    )

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--beat", action="store_true", help="keep the schedule as well"
        )
        parser.add_argument(
            "--name", default="tasks", help="name in health files (%(default)s)"
        )

    @override
    def handle(self, *, beat: bool, name: str, **_options: Any) -> None:
        status = run_worker(
            app,
            name=name,
            beat=beat,
            log_level="WARNING",
        )
        runtime.close()
        sys.exit(status)

"""`manage.py health`: is this process's neighbour fine? For containers' health checks.

Without options: the server of the configured role and port answers that it is ready.
With `--worker`: the worker that reports into the data directory has done so lately and
is not failing.

Exit status: 0 fine, 1 not.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from typing_extensions import override

from workers.health import read_reports, trouble_of

ANSWER_S: Final = 5.0
EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}  # noqa: S104 - compared, not bound


class Command(BaseCommand):
    help = "Tell by the exit status whether the server, or the worker, here is fine."
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's declaration

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--worker",
            nargs="?",
            const="",
            metavar="NAME",
            help="look at the worker of this name (all that report here)",
        )

    @override
    def handle(self, *, worker: str | None, **_later: Any) -> None:
        if worker is None:
            self._ask_server()
        else:
            self._look_at_workers(worker)

    def _ask_server(self) -> None:
        url = _ready_url()
        try:
            with urllib.request.urlopen(url, timeout=ANSWER_S) as answer:  # noqa: S310 - our own http URL
                self.stdout.write(answer.read().decode())
        except urllib.error.HTTPError as error:
            msg = f"{url}: {error.read().decode()}"
            raise CommandError(msg) from None
        except OSError as error:
            msg = f"{url}: {error}"
            raise CommandError(msg) from None

    def _look_at_workers(self, name: str) -> None:
        directory = Path(settings.DATA_DIR) / "health"
        reports = [r for r in read_reports(directory) if name in {"", r["name"]}]
        if not reports:
            which = f"worker {name}" if name else "worker"
            msg = f"No {which} has reported in {directory}."
            raise CommandError(msg)
        now_us = time.time_ns() // 1000
        troubles = []
        for report in reports:
            trouble = trouble_of(report, now_us=now_us)
            if trouble:
                troubles.append(f"{report['name']}: {trouble}")
            elif report.get("warning"):
                self.stdout.write(f"{report['name']}: {report['warning']}")
        if troubles:
            raise CommandError("\n".join(troubles))


def _ready_url() -> str:
    host = EVERYWHERE.get(settings.MATYAN_HOST, settings.MATYAN_HOST)
    is_gateway = settings.MATYAN_ROLE == "frontier"
    port = settings.MATYAN_FRONTIER_PORT if is_gateway else settings.MATYAN_BACKEND_PORT
    return f"http://{host}:{port}/health/ready/"

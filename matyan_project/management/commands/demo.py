"""`manage.py demo`: train the example against a server and show what it found."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from typing_extensions import override

from matyan_project import env
from matyan_project.local_server import LocalServer

EXAMPLE = env.BASE_DIR / "examples" / "digits.py"


class Command(BaseCommand):
    help = "Train examples/digits.py against a server; start one if none runs."

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--repo", help="URL of a running server")
        parser.add_argument("--quick", action="store_true", help="a smaller grid")

    @override
    def handle(self, **options: Any) -> None:
        url = (options["repo"] or _default_url()).rstrip("/")
        if _is_ready(url):
            self._train(url, quick=options["quick"])
            return
        if options["repo"]:
            msg = f"No server is ready at {url}. Start one with `make up`."
            raise CommandError(msg)
        self.stderr.write(f"No server at {url}; starting one on {settings.DATA_DIR}.")
        ports = (settings.MATYAN_BACKEND_PORT, settings.MATYAN_FRONTIER_PORT)
        try:
            with LocalServer(settings.DATA_DIR, ports=ports):
                self._train(url, quick=options["quick"])
                self._wait()
        except RuntimeError as error:
            raise CommandError(str(error)) from None

    def _train(self, url: str, *, quick: bool) -> None:
        command = [sys.executable, str(EXAMPLE), "--repo", url]
        status = subprocess.run(  # noqa: S603 - our own command line
            [*command, "--quick"] if quick else command, check=False
        ).returncode
        if status != 0:
            msg = f"The example ended with exit status {status}."
            raise CommandError(msg)
        self.stdout.write(
            f"\nLook at the runs:  {url}/\n"
            f"As an API:         {url}/api/v1/rest/projects/params\n"
            f"Every endpoint:    {url}/api/v1/schema/"
        )

    def _wait(self) -> None:
        """Keep the server for a person to look at; a script wants its prompt back."""
        if not sys.stdin.isatty():
            self.stdout.write("The server stops now; `make up` shows the same runs.")
            return
        self.stdout.write(
            "The server runs until Ctrl-C; `make up` shows the same runs."
        )
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


def _default_url() -> str:
    return f"http://localhost:{settings.MATYAN_BACKEND_PORT}"


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health/ready/", timeout=2.0) as answer:  # noqa: S310 - http
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False

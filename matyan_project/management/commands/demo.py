"""`manage.py demo`: train the example against a server and show what it found."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
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
        with self._server(options["repo"]) as url:
            command = [sys.executable, str(EXAMPLE), "--repo", url]
            if options["quick"]:
                command.append("--quick")
            status = subprocess.run(command, check=False).returncode  # noqa: S603 - our own
            if status != 0:
                msg = f"The example ended with exit status {status}."
                raise CommandError(msg)
            self.stdout.write(
                f"\nLook at the runs: {url}/api/v1/rest/projects/params\n"
                f"Every endpoint:   {url}/api/v1/schema/"
            )

    @contextlib.contextmanager
    def _server(self, wanted: str | None) -> Iterator[str]:
        default = f"http://localhost:{settings.MATYAN_BACKEND_PORT}"
        if wanted or _is_matyan(default):
            yield (wanted or default).rstrip("/")
            return
        with tempfile.TemporaryDirectory(prefix="matyan-demo-") as directory:
            self.stderr.write(
                f"No server at {default}; starting one for the demo. "
                "Start your own with `make up` to keep what is trained."
            )
            with LocalServer(Path(directory)) as server:
                yield server.url


def _is_matyan(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health/ready/", timeout=2.0) as answer:  # noqa: S310 - http
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False

"""`manage.py restore`: fill an empty store from a backup."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from typing_extensions import override

from backend.errors import MatyanError
from backend.services.backup import restore
from backend.storage.factory import open_engine
from workers.maintenance_command import report_text, shown_progress


class Command(BaseCommand):
    help = (
        "Fill the store of the settings, which must be empty, from a backup. Stop the "
        "servers and workers first. The file is checked before anything is written. "
        "Interrupted, begin again with the same command."
    )

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="the backup")
        parser.add_argument(
            "--dry-run", action="store_true", help="check the file and write nothing"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    @override
    def handle(self, *, file: Path, dry_run: bool, json: bool, **_options: Any) -> None:
        config = settings.MATYAN_STORE
        try:
            with (
                contextlib.closing(
                    open_engine(
                        engine=config["ENGINE"], options=config.get("OPTIONS", {})
                    )
                ) as engine,
                shown_progress("Restoring") as show,
            ):
                report = restore(engine, file, dry_run=dry_run, on_step=show)
        except KeyboardInterrupt:
            stopped = "Interrupted. Begin again with the same command."
            raise CommandError(stopped) from None
        except (MatyanError, OSError) as error:
            raise CommandError(str(error)) from None
        self.stdout.write(report_text(report, as_json=json))

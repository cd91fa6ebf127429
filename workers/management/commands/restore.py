"""`manage.py restore`: fill an empty store from a backup."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.files.storage import Storage
from django.core.management.base import BaseCommand, CommandError, CommandParser
from typing_extensions import override

from backend.errors import MatyanError
from backend.services.backup import restore
from backend.storage.factory import open_engine
from workers import backups
from workers.maintenance_command import report_text, shown_progress


class Command(BaseCommand):
    help = (
        "Fill the store of the settings, which must be empty, from a backup. Stop the "
        "servers and workers first. The file is checked before anything is written. "
        "Interrupted, begin again with the same command."
    )

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "file",
            nargs="?",
            type=Path,
            help="the backup: a file, or with --stored the name of one in the storage",
        )
        parser.add_argument(
            "--stored",
            action="store_true",
            help="fetch it from MATYAN_BACKUP_STORAGE; without a name: list them",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="check the file and write nothing"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    @override
    def handle(
        self,
        *,
        file: Path | None,
        stored: bool,
        dry_run: bool,
        json: bool,
        **_options: Any,
    ) -> None:
        try:
            if stored and file is None:
                self._list()
            elif stored:
                with backups.fetched(str(file), _storage()) as copy:
                    self._restore(copy, dry_run=dry_run, as_json=json)
            elif file is None:
                msg = "Name the backup: a file, or with --stored one of the storage."
                raise CommandError(msg, returncode=2)
            else:
                self._restore(file, dry_run=dry_run, as_json=json)
        except KeyboardInterrupt:
            stopped = "Interrupted. Begin again with the same command."
            raise CommandError(stopped) from None
        except (MatyanError, OSError) as error:
            raise CommandError(str(error)) from None

    def _list(self) -> None:
        storage = _storage()
        for name in backups.list_storage(storage):
            self.stdout.write(f"{name}  {storage.size(name):,} bytes")

    def _restore(self, file: Path, *, dry_run: bool, as_json: bool) -> None:
        config = settings.MATYAN_STORE
        options = config.get("OPTIONS", {})
        with (
            contextlib.closing(
                open_engine(engine=config["ENGINE"], options=options)
            ) as engine,
            shown_progress("Restoring") as show,
        ):
            report = restore(engine, file, dry_run=dry_run, on_step=show)
        self.stdout.write(report_text(report, as_json=as_json, dry_run=dry_run))


def _storage() -> Storage:
    storage = backups.find_storage()
    if storage is None:
        msg = "MATYAN_BACKUP_STORAGE names no object store."
        raise CommandError(msg)
    return storage

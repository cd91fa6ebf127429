"""`manage.py backup`: write all records to one file."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from typing_extensions import override

from backend.domain.jobs import JobName
from workers import backups
from workers.maintenance_command import MaintenanceCommand


class Command(MaintenanceCommand):
    job = JobName.BACK_UP

    @override
    def handle(self, **options: Any) -> None:
        # The schedule passes over it; who asks for a backup must not believe in one.
        directory = options["directory"] or settings.MATYAN_BACKUP_DIR
        if backups.working_directory(directory) is None:
            msg = (
                "Nowhere to back up to: give --directory, or set MATYAN_BACKUP_DIR or "
                "MATYAN_BACKUP_STORAGE."
            )
            raise CommandError(msg, returncode=2)
        super().handle(**options)

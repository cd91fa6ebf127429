"""`manage.py store_sizes`: count the bytes of runs by kind."""

from __future__ import annotations

from typing import Any

from django.db import DatabaseError
from typing_extensions import override

from backend.domain.jobs import JobName
from backend.maintenance import note_done
from workers.maintenance_command import MaintenanceCommand


class Command(MaintenanceCommand):
    job = JobName.MEASURE_STORE

    @override
    def done(self, arguments: dict[str, Any], report: dict[str, Any]) -> None:
        """Let the admin show what was measured."""
        try:
            note_done(self.job, arguments, report, requester="manage.py store_sizes")
        except DatabaseError as error:
            self.stderr.write(f"The admin will not show it: {error}")

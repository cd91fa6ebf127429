"""`manage.py finish_stale`: finish runs that have received nothing for long."""

from __future__ import annotations

from backend.domain.jobs import JobName
from workers.maintenance_command import MaintenanceCommand


class Command(MaintenanceCommand):
    job = JobName.FINISH_STALE_RUNS

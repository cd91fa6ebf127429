"""`manage.py expire_tombstones`: let ids of runs deleted long ago be used again."""

from __future__ import annotations

from backend.domain.jobs import JobName
from workers.maintenance_command import MaintenanceCommand


class Command(MaintenanceCommand):
    job = JobName.EXPIRE_TOMBSTONES

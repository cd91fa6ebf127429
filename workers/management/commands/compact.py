"""`manage.py compact`: merge small chunks of runs that are not active."""

from __future__ import annotations

from backend.domain.jobs import JobName
from workers.maintenance_command import MaintenanceCommand


class Command(MaintenanceCommand):
    job = JobName.COMPACT_CHUNKS

"""`manage.py sweep_blobs`: remove files that no run knows."""

from __future__ import annotations

from backend.domain.jobs import JobName
from workers.maintenance_command import MaintenanceCommand


class Command(MaintenanceCommand):
    job = JobName.SWEEP_BLOBS

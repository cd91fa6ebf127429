"""`manage.py store_sizes`: count the bytes of runs by kind."""

from __future__ import annotations

from backend.domain.jobs import JobName
from workers.maintenance_command import MaintenanceCommand


class Command(MaintenanceCommand):
    job = JobName.MEASURE_STORE

"""`manage.py trim_log`: delete what the event log need not keep."""

from __future__ import annotations

from backend.domain.jobs import JobName
from workers.maintenance_command import MaintenanceCommand


class Command(MaintenanceCommand):
    job = JobName.TRIM_EVENT_LOG

"""Asking for maintenance jobs.

A request is a row of `MaintenanceRequest`; the task that is sent for it says only that
there is something to do. Without a broker the row waits and is found later.

Design note: docs/subsystems/maintenance.md#requests
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from backend import task_queue
from backend.domain.jobs import JOBS
from backend.errors import InvalidInputError, TaskQueueUnavailableError
from backend.models import MaintenanceRequest

logger = logging.getLogger(__name__)

State = MaintenanceRequest.State

SILENT_S: Final = 120.0
"""A running request whose worker has been silent for so long is taken up again."""

KEPT: Final = timedelta(days=90)
KEPT_SCHEDULED: Final = timedelta(days=14)


def resolve_arguments(job: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job's arguments, those not given from its settings and defaults.

    Raises:
        InvalidInputError: If there is no such job, or it takes no such argument.
    """
    if job not in JOBS:
        raise InvalidInputError(field="job", reason=f"no job {job!r}")
    spec = JOBS[job]
    names = {parameter.name for parameter in spec.parameters}
    unknown = set(given) - names - ({"dry_run"} if spec.dry_run else set())
    if unknown:
        raise InvalidInputError(field=min(unknown), reason=f"{job} does not take it")
    resolved = {
        p.name: getattr(settings, p.setting) if p.setting else p.default
        for p in spec.parameters
    }
    return {**resolved, **given}


def request_job(
    job: str,
    *,
    arguments: Mapping[str, Any],
    user: Any = None,
    requester: str = "",
) -> MaintenanceRequest:
    """Note that a job is wanted and, once that is committed, send a task for it.

    Args:
        job: Its name.
        arguments: What is not given comes from settings when it is requested.
        user: Who asks; None for a machine.
        requester: Who asks, in words, where `user` is None.

    Raises:
        InvalidInputError: If there is no such job, or it takes no such argument.
    """
    request = MaintenanceRequest.objects.create(
        job=job,
        arguments=resolve_arguments(job, arguments),
        requested_by=user,
        requester=user.get_username() if user is not None else requester,
    )
    transaction.on_commit(lambda: send_request(request.pk))
    return request


def note_done(
    job: str, arguments: Mapping[str, Any], report: Mapping[str, Any], *, requester: str
) -> MaintenanceRequest:
    """Keep the report of a job that was done elsewhere, as if it had been requested."""
    now = timezone.now()
    return MaintenanceRequest.objects.create(
        job=job,
        arguments=dict(arguments),
        requester=requester,
        state=State.DONE,
        started_at=now,
        heard_at=now,
        finished_at=now,
        attempts=1,
        result=dict(report),
    )


def request_scheduled(job: str) -> MaintenanceRequest | None:
    """Note that the schedule wants a job, unless it is under way already."""
    waiting = MaintenanceRequest.objects.filter(
        job=job, state__in=[State.QUEUED, State.RUNNING]
    )
    if waiting.exists():
        return None
    return request_job(job, arguments={}, requester="schedule")


def send_request(request_id: int) -> bool:
    """Send a task for a request; return whether the broker took it."""
    try:
        task_queue.send_task(task_queue.RUN_REQUEST, request_id=request_id)
    except TaskQueueUnavailableError as error:
        extra = {"request_id": request_id, "reason": str(error)}
        logger.warning("maintenance.not_sent", extra=extra)
        return False
    return True


def cancel_request(request_id: int) -> bool:
    """Have a request end where it is; return whether it was still open."""
    now = timezone.now()
    rows = MaintenanceRequest.objects.filter(pk=request_id)
    waiting = rows.filter(state=State.QUEUED).update(
        state=State.CANCELLED, finished_at=now, cancel_requested=True
    )
    return bool(
        waiting or rows.filter(state=State.RUNNING).update(cancel_requested=True)
    )


def find_due() -> list[int]:
    """Return requests that wait, or whose worker is gone; these wait again."""
    now = timezone.now()
    silent = now - timedelta(seconds=SILENT_S)
    MaintenanceRequest.objects.filter(state=State.RUNNING, heard_at__lt=silent).update(
        state=State.QUEUED
    )
    due = MaintenanceRequest.objects.filter(state=State.QUEUED, due_at__lte=now)
    return list(due.order_by("pk").values_list("pk", flat=True)[:100])


def prune_requests() -> int:
    """Remove rows of requests that were over long ago; return how many."""
    now = timezone.now()
    over = MaintenanceRequest.objects.filter(
        state__in=[State.DONE, State.FAILED, State.CANCELLED]
    )
    old, _ = over.filter(finished_at__lt=now - KEPT).delete()
    scheduled, _ = over.filter(
        requester="schedule", requested_by=None, finished_at__lt=now - KEPT_SCHEDULED
    ).delete()
    return old + scheduled

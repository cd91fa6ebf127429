"""Tasks that run maintenance requests, and those the schedule sends.

A request's row tells its state to whoever looks; it is written at most once a second.
A worker that is stopped leaves the row waiting, with where it came to; one that is
killed leaves it running and silent, and it is taken up again after two minutes.

Design note: docs/subsystems/maintenance.md#requests
"""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import Any, Final

from celery import shared_task
from django.utils import timezone

from backend import maintenance
from backend.errors import (
    BlobStoreError,
    EventLogError,
    MatyanError,
    StoreError,
)
from backend.models import MaintenanceRequest
from backend.services.long_work import Step
from backend.task_queue import RUN_REQUEST
from workers import stopping
from workers.jobs import run_job

logger = logging.getLogger(__name__)

State = MaintenanceRequest.State

TELL_S: Final = 1.0
MAX_ATTEMPTS: Final = 6
FIRST_RETRY_S: Final = 15
SURROUNDINGS: Final = (StoreError, EventLogError, BlobStoreError, OSError)
"""What may be different in a while."""


class CancelledError(Exception):
    """Somebody has cancelled the request."""


@shared_task(name=RUN_REQUEST)  # type: ignore[untyped-decorator] # Celery has no types
def run_request(*, request_id: int, **_later: Any) -> None:
    """Run a request that waits; nothing happens to one that does not.

    Args:
        request_id: Its row.
    """
    if not _claim(request_id):
        return
    request = MaintenanceRequest.objects.get(pk=request_id)
    extra = {"request_id": request_id, "job": request.job}
    logger.info("maintenance.started", extra=extra)
    watch = _Watch(request)
    try:
        result = run_job(
            request.job,
            request.arguments,
            on_step=watch,
            checkpoint=request.checkpoint,
        )
    except stopping.StoppedError:
        _wait_again(request, watch.checkpoint)
        logger.info("maintenance.interrupted", extra=extra)
    except CancelledError:
        _end(request, State.CANCELLED)
        logger.info("maintenance.cancelled", extra=extra)
    except Exception as error:  # noqa: BLE001 - whatever it is, its row tells
        _fail(request, watch.checkpoint, error)
    else:
        _end(request, State.DONE, result=result, note="")
        logger.info("maintenance.done", extra=extra)


@shared_task(name="matyan.request_job")  # type: ignore[untyped-decorator] # as above
def request_scheduled_job(*, job: str, **_later: Any) -> None:
    """Ask for a job the schedule wants, and run it, unless it is under way."""
    request = maintenance.request_scheduled(job)
    if request is not None:
        run_request(request_id=request.pk)


@shared_task(name="matyan.resume_requests")  # type: ignore[untyped-decorator] # as above
def resume_requests(**_later: Any) -> None:
    """Take up requests whose task was lost or whose worker is gone; forget old ones."""
    for request_id in maintenance.find_due():
        run_request(request_id=request_id)
    maintenance.prune_requests()


def _claim(request_id: int) -> bool:
    """Take a waiting request; return False if another has, or it does not wait."""
    now = timezone.now()
    waiting = MaintenanceRequest.objects.filter(
        pk=request_id, state=State.QUEUED, due_at__lte=now
    )
    return bool(
        waiting.update(state=State.RUNNING, started_at=now, heard_at=now, error="")
    )


class _Watch:
    """Writes a job's progress to its row, and ends the job when it is to end."""

    def __init__(self, request: MaintenanceRequest) -> None:
        self.checkpoint: dict[str, Any] = request.checkpoint
        self._request = request
        self._told_s = time.monotonic()

    def __call__(self, step: Step) -> None:
        """Note a step.

        Raises:
            StoppedError: If this process is stopping.
            CancelledError: If the request was cancelled.
        """
        self.checkpoint = dict(step.checkpoint)
        stopping.check()
        if time.monotonic() - self._told_s < TELL_S:
            return
        self._told_s = time.monotonic()
        row = MaintenanceRequest.objects.filter(pk=self._request.pk)
        row.update(
            heard_at=timezone.now(),
            done_units=step.done,
            total_units=step.total,
            note=step.note[:200],
            checkpoint=self.checkpoint,
        )
        if row.filter(cancel_requested=True).exists():
            raise CancelledError


def _end(request: MaintenanceRequest, state: State, **fields: Any) -> None:
    MaintenanceRequest.objects.filter(pk=request.pk).update(
        state=state, finished_at=timezone.now(), checkpoint={}, **fields
    )


def _wait_again(
    request: MaintenanceRequest, checkpoint: dict[str, Any], **fields: Any
) -> None:
    MaintenanceRequest.objects.filter(pk=request.pk).update(
        state=State.QUEUED, checkpoint=checkpoint, **fields
    )


def _fail(
    request: MaintenanceRequest, checkpoint: dict[str, Any], error: Exception
) -> None:
    attempts = request.attempts + 1
    is_known = isinstance(error, (MatyanError, OSError))
    text = str(error) if is_known else f"{type(error).__name__}: {error}"
    extra = {"request_id": request.pk, "job": request.job, "attempts": attempts}
    if isinstance(error, SURROUNDINGS) and attempts < MAX_ATTEMPTS:
        wait = timedelta(seconds=FIRST_RETRY_S * 2**attempts)
        _wait_again(
            request,
            checkpoint,
            attempts=attempts,
            error=text,
            due_at=timezone.now() + wait,
        )
        logger.warning("maintenance.waiting", extra={**extra, "reason": text})
        return
    _end(request, State.FAILED, error=text, attempts=attempts)
    logger.error("maintenance.failed", extra=extra, exc_info=error)

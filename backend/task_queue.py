"""Sending tasks to the Celery workers, from any process.

Senders know tasks by their names, `TASKS`, and import none of their code. A task sent
is a hint: what is to be done is written down before (a reaction in the store, a row of
`MaintenanceRequest`), and is sent again if nothing comes of it.

Thread-safe. What is open is forgotten when `settings.CELERY` changes.

Design note: docs/subsystems/maintenance.md#the-task-queue
"""

from __future__ import annotations

import threading
from typing import Any, Final

from celery import Celery
from django.conf import settings
from django.core.signals import setting_changed
from django.dispatch import receiver
from kombu.exceptions import KombuError, OperationalError

from backend import task_files  # noqa: F401 - stands behind filesystem:// from here on
from backend.errors import TaskQueueUnavailableError

REACT: Final = "matyan.react"
"""Acts on control events; `event_ids`."""

RUN_REQUEST: Final = "matyan.run_request"
"""Runs a `MaintenanceRequest`; `request_id`."""

_UNAVAILABLE: Final = (KombuError, OperationalError, OSError)

_lock = threading.RLock()
_app: Celery | None = None


def make_app() -> Celery:
    """Return a Celery application of `settings.CELERY`; not the current one."""
    app = Celery("matyan", set_as_current=False, fixups=[])
    app.config_from_object(settings.CELERY)
    return app


def send_task(name: str, **kwargs: Any) -> None:
    """Send a task; return once the broker has accepted it.

    Args:
        name: One of the constants here.
        kwargs: Its keyword arguments, JSON values.

    Raises:
        TaskQueueUnavailableError: If the broker does not accept it in a few seconds.
    """
    try:
        _get_app().send_task(name, kwargs=kwargs, retry=False, ignore_result=True)
    except _UNAVAILABLE as error:
        close()
        reason = str(error) or type(error).__name__
        raise TaskQueueUnavailableError(reason=reason) from error


def close() -> None:
    """Let go of the connection; the next task opens it again."""
    global _app  # noqa: PLW0603 - one per process is the point
    with _lock:
        if _app is not None:
            _app.close()
        _app = None


def _get_app() -> Celery:
    global _app  # noqa: PLW0603 - one per process is the point
    with _lock:
        if _app is None:
            _app = make_app()
        return _app


@receiver(setting_changed)
def _forget(*, setting: str, **_later: Any) -> None:
    if setting == "CELERY":
        close()

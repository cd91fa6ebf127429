"""A worker's word about itself, for every machine: a row of Django's own tables.

Only where those are shared (`MATYAN_SHARED_HEARTBEATS`: PostgreSQL). The health file
stays: containers look at it, and it needs no database. The row follows within seconds,
from a thread of its own, so that a database that is away costs the worker nothing.

Design note: docs/subsystems/workers.md#health
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.db import DatabaseError, close_old_connections
from django.utils import timezone

from backend.models import WorkerHeartbeat
from workers.health import Health, HealthFile

logger = logging.getLogger(__name__)

PUBLISH_S: Final = 5.0
LAST_WORD_S: Final = 2.0
"""How long a stopping worker waits for its last word to be published."""

STOPPED_KEPT: Final = timedelta(hours=1)
SILENT_KEPT: Final = timedelta(days=1)
"""Containers that are replaced come back under another host name."""

Publish = Callable[[Mapping[str, Any]], None]


def open_health(name: str) -> Health:
    """Return where a worker of this name reports to.

    Args:
        name: In health files and heartbeats.
    """
    file = HealthFile(
        Path(settings.DATA_DIR) / "health" / f"{name}.json",
        name=name,
        now_us=lambda: time.time_ns() // 1000,
    )
    return SharedHealth(file, publish) if settings.MATYAN_SHARED_HEARTBEATS else file


class SharedHealth:
    """A health file whose newest report is also published.

    Reports between two publications are left out, but for changes of state, which are
    published at once. Any thread may report.

    Args:
        file: The health file.
        publish: Takes the report that stands in it; what it raises is logged.
        interval_s: Between two publications.
    """

    def __init__(
        self, file: HealthFile, publish: Publish, *, interval_s: float = PUBLISH_S
    ) -> None:
        self._file = file
        self._publish = publish
        self._interval_s = interval_s
        self._state = ""
        self._fresh = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def report(self, state: str, **fields: Any) -> None:
        """Replace the file, and see that it is published; see `Health.report`."""
        self._file.report(state, **fields)
        if not self._thread.ident:
            self._thread.start()
        if state != self._state:
            self._state = state
            self._fresh.set()
        if state == "stopped":
            self._over.set()
            self._thread.join(LAST_WORD_S)

    def _run(self) -> None:
        while True:
            over = self._over.is_set()
            self._fresh.clear()
            try:
                self._publish(self._file.last)
            except DatabaseError as error:
                extra = {"reason": type(error).__name__}
                logger.warning("worker.heartbeat_not_published", extra=extra)
            if over:
                return
            self._fresh.wait(self._interval_s)


def publish(said: Mapping[str, Any]) -> None:
    """Write a worker's report into its row.

    Raises:
        DatabaseError: If the database is away.
    """
    close_old_connections()
    try:
        WorkerHeartbeat.objects.update_or_create(
            name=said["name"],
            host=socket.gethostname()[:100],
            defaults={"said": dict(said), "heard_at": timezone.now()},
        )
        if said["state"] == "starting":
            forget_the_gone()
    finally:
        close_old_connections()


def forget_the_gone() -> None:
    """Remove rows of workers that stopped or fell silent long ago."""
    now = timezone.now()
    WorkerHeartbeat.objects.filter(heard_at__lt=now - SILENT_KEPT).delete()
    stopped = WorkerHeartbeat.objects.filter(said__state="stopped")
    stopped.filter(heard_at__lt=now - STOPPED_KEPT).delete()

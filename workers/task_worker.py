"""A Celery worker in this process: one task at a time, the schedule, a health file.

Everything runs in threads: the store may not be used across a fork. When told to stop,
it has the task in hand end at its next step; what is left goes on in the next worker.

Design note: docs/subsystems/maintenance.md#the-task-worker
"""

from __future__ import annotations

import logging
import threading
import warnings
from pathlib import Path
from typing import Any, Final

from celery import Celery, bootsteps, signals
from celery.beat import EmbeddedService
from celery.exceptions import SecurityWarning
from typing_extensions import override

from workers import stopping
from workers.health import Health as HealthReports
from workers.heartbeats import open_health

logger = logging.getLogger(__name__)

REPORT_S: Final = 5.0


class Beat(bootsteps.StartStopStep):  # type: ignore[misc] # Celery has no types
    """The schedule, in a thread of the worker."""

    requires = ("celery.worker.components:Pool",)

    @override
    def __init__(self, parent: Any, **_options: Any) -> None:
        super().__init__(parent, **_options)
        self._service = EmbeddedService(parent.app, thread=True)
        signals.worker_shutting_down.connect(self._stop_early)

    @override
    def start(self, parent: Any) -> None:
        self._service.start()

    def _stop_early(self, **_: Any) -> None:
        # It takes a second to notice, which passes while the worker winds up.
        threading.Thread(target=self._service.stop, daemon=True).start()

    @override
    def stop(self, parent: Any) -> None:
        self._service.stop()


class Health(bootsteps.StartStopStep):  # type: ignore[misc] # Celery has no types
    """Says that the worker is alive, now and then."""

    @override
    def __init__(self, parent: Any, **_options: Any) -> None:
        super().__init__(parent, **_options)
        self._file: HealthReports = parent.app.health_file
        self._done = 0
        self._running: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._report, daemon=True)

    @override
    def start(self, parent: Any) -> None:
        signals.task_prerun.connect(self._on_begin)
        signals.task_postrun.connect(self._on_end)
        self._thread.start()

    @override
    def stop(self, parent: Any) -> None:
        signals.task_prerun.disconnect(self._on_begin)
        signals.task_postrun.disconnect(self._on_end)
        self._stop.set()
        self._thread.join()
        self._say("stopping")

    def _report(self) -> None:
        self._say("ok")
        while not self._stop.wait(REPORT_S):
            self._say("ok")

    def _on_begin(self, task_id: str, task: Any, **_: Any) -> None:
        self._running[task_id] = task.name
        self._say("ok")

    def _on_end(self, task_id: str, **_: Any) -> None:
        self._running.pop(task_id, None)
        self._done += 1

    def _say(self, state: str) -> None:
        running = ", ".join(self._running.values())
        self._file.report(state, applied=self._done, running=running)


def run_worker(app: Celery, *, name: str, beat: bool, log_level: str) -> int:
    """Work until SIGTERM or SIGINT; return the exit status.

    Args:
        app: The application.
        name: In the health file and heartbeats.
        beat: Whether to keep the schedule as well: one worker of an installation.
        log_level: Least severe level that Celery itself logs.
    """
    stopping.forget_request()
    Path(app.conf.beat_schedule_filename).parent.mkdir(
        mode=0o700, parents=True, exist_ok=True
    )
    health = open_health(name)
    app.health_file = health
    app.steps["worker"].add(Health)
    if beat:
        app.steps["worker"].add(Beat)
    # It takes JSON only, which is what makes root harmless.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    signals.worker_shutting_down.connect(_on_shutdown)
    health.report("starting")
    worker = app.Worker(
        hostname=f"{name}@%h",
        loglevel=log_level,
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
    health.report("stopped")
    return int(worker.exitcode or 0)


def _on_shutdown(**_: Any) -> None:
    stopping.request_stop()

"""`manage.py runworker ingestion|control`: an event-log worker in the foreground.

Any other name is a Channels channel: those go to Channels' own command of this name,
which this one extends.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from channels.management.commands.runworker import Command as ChannelsCommand
from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from backend import runtime, task_queue
from backend.bus.topics import (
    CONTROL,
    CONTROL_GROUP,
    INGESTION,
    INGESTION_GROUP,
    TOPICS,
)
from backend.errors import EventLogError, MatyanError, StoreError
from backend.services.outbox import drain_outbox
from backend.services.reactions import DueReactions
from backend.services.runs import purge_pending
from workers.handlers import control, ingest
from workers.handlers.base import Handler
from workers.heartbeats import open_health
from workers.loop import Chore, LoopOptions, Source, WorkerLoop
from workers.metrics import WorkerMetrics
from workers.reactions import types_with_reaction

logger = logging.getLogger(__name__)

RETRY_OPEN_S = 1.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of worker: what it reads, as which group."""

    topic: str
    group: str


KINDS = {
    "ingestion": Kind(INGESTION, INGESTION_GROUP),
    "control": Kind(CONTROL, CONTROL_GROUP),
}


class Command(ChannelsCommand):  # type: ignore[misc] # Channels has no types
    help = (
        "Run an event-log worker in the foreground: `ingestion` or `control`. "
        "Other names are channels, served by Channels' own worker."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--name", help="name in health files (default: its kind)")
        parser.add_argument(
            "--max-records",
            type=_positive,
            default=settings.MATYAN_INGEST_BATCH_RECORDS,
            help="most records of a batch (%(default)s)",
        )
        parser.add_argument(
            "--max-bytes",
            type=_positive,
            default=settings.MATYAN_INGEST_BATCH_BYTES,
            help="most bytes of a batch (%(default)s)",
        )
        parser.add_argument(
            "--metrics-port", type=_port, help="serve Prometheus metrics on this port"
        )
        parser.add_argument(
            "--metrics-host",
            default="127.0.0.1",
            help="address of the metrics (%(default)s)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        names = options["channels"]
        if not KINDS.keys() & set(names):
            super().handle(*args, **options)
            return
        if len(names) > 1:
            msg = f"{' '.join(names)}: name one worker a process."
            raise CommandError(msg, returncode=2)
        Worker(names[0], options).run()


class Worker:
    """One worker process."""

    def __init__(self, kind: str, options: dict[str, Any]) -> None:
        self._kind = kind
        self._options = options
        self._stop = threading.Event()
        self._loop: WorkerLoop | None = None
        self._name = options["name"] or kind
        self._registry = CollectorRegistry()
        self._metrics = WorkerMetrics(kind, registry=self._registry)
        self._health = open_health(self._name)

    def run(self) -> None:
        """Work until SIGTERM or SIGINT.

        Raises:
            CommandError: If the metrics port is taken, or the batch in hand could not
                be finished in time.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._serve_metrics()
        loop = self._open()
        if loop is None:
            return
        extra = {"kind": self._kind, "worker": self._name}
        logger.info("worker.started", extra=extra)
        finished = loop.run()
        logger.info("worker.stopped", extra={**extra, "finished": finished})
        if not finished:
            # The handler is still at work: its store cannot be closed under it.
            msg = "The batch in hand did not finish in time; it will be applied again."
            raise CommandError(msg)
        runtime.close()

    def _on_signal(self, *_signal: Any) -> None:
        self._stop.set()
        if self._loop is not None:
            self._loop.request_stop()

    def _serve_metrics(self) -> None:
        port = self._options["metrics_port"]
        if port is None:
            return
        try:
            ProcessCollector(registry=self._registry)
            start_http_server(
                port, addr=self._options["metrics_host"], registry=self._registry
            )
        except OSError as error:
            msg = f"Cannot serve metrics on port {port}: {error.strerror}."
            raise CommandError(msg) from None

    def _open(self) -> WorkerLoop | None:
        """Open store and log, for as long as that takes; return None if stopped."""
        while not self._stop.is_set():
            try:
                loop = self._make_loop()
            except (StoreError, EventLogError) as error:
                self._report_unopened(error)
                self._stop.wait(RETRY_OPEN_S)
                continue
            self._loop = loop
            if self._stop.is_set():
                loop.request_stop()
            return loop
        return None

    def _report_unopened(self, error: MatyanError) -> None:
        logger.warning("worker.cannot_open", extra={"reason": str(error)})
        self._health.report("failing", reason=str(error))

    def _make_loop(self) -> WorkerLoop:
        kind = KINDS[self._kind]
        log = runtime.get_event_log()
        log.ensure_topics(TOPICS)
        source = Source(log, runtime.get_producer(), kind.group, (kind.topic,))
        return WorkerLoop(
            source,
            _make_handler(self._kind),
            metrics=self._metrics,
            now_us=_now_us,
            options=LoopOptions(
                max_records=self._options["max_records"],
                max_bytes=self._options["max_bytes"],
            ),
            health=self._health,
            chores=_make_chores(self._kind),
        )


def _make_handler(kind: str) -> Handler:
    store = runtime.get_store()
    if kind == "ingestion":
        return partial(ingest.handle, store=store)
    return control.ControlHandler(
        store=store, send=_send, types=types_with_reaction(), now_us=_now_us
    )


def _send(event_ids: Sequence[str]) -> None:
    task_queue.send_task(task_queue.REACT, event_ids=list(event_ids))


def _make_chores(kind: str) -> list[Chore]:
    if kind == "ingestion":
        return []
    store, producer = runtime.get_store(), runtime.get_producer()
    due = DueReactions(store)
    return [
        Chore("outbox", 1.0, lambda: drain_outbox(store, producer)),
        Chore("purge", 1.0, lambda: purge_pending(store, max_transactions=20)),
        Chore(
            "reactions", 2.0, lambda: control.resend_due(due, _send, now_us=_now_us())
        ),
    ]


def _now_us() -> int:
    return time.time_ns() // 1000


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _port(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 65_535:
        raise ValueError
    return number

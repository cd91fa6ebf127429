"""The process-wide event log and producer, opened from settings on first use.

Thread-safe. They are closed and forgotten when `MATYAN_BUS` changes, which is how tests
give each case its own. The gateway has its own copy of this (and not the backend's
`runtime`) because it must not reach the store.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed
from django.dispatch import receiver

from backend.bus.base import EventLog, Producer
from backend.bus.factory import open_event_log
from backend.bus.topics import TOPICS
from backend.errors import EventLogError

_lock = threading.RLock()
_event_log: EventLog | None = None
_producer: Producer | None = None


def get_event_log() -> EventLog:
    """Return the event log of `settings.MATYAN_BUS`, its topics made. May block.

    Raises:
        EventLogError: If it cannot be opened; the next call tries again.
    """
    global _event_log  # noqa: PLW0603 - one per process is the point
    with _lock:
        if _event_log is None:
            config = settings.MATYAN_BUS
            opened = open_event_log(
                engine=config["ENGINE"], options=config.get("OPTIONS", {})
            )
            try:
                opened.ensure_topics(TOPICS)
            except EventLogError:
                opened.close()
                raise
            _event_log = opened
        return _event_log


def get_producer() -> Producer:
    """Return this process's producer. May block the first time.

    Raises:
        EventLogError: If the log cannot be opened; the next call tries again.
    """
    global _producer  # noqa: PLW0603 - one per process is the point
    with _lock:
        if _producer is None:
            _producer = get_event_log().producer()
        return _producer


def find_producer() -> Producer | None:
    """Return the producer if it is open already. Never blocks for long."""
    return _producer


def close() -> None:
    """Close what is open, flushing first; the next use opens it again."""
    global _event_log, _producer
    with _lock:
        producer, _producer = _producer, None
        event_log, _event_log = _event_log, None
    with contextlib.suppress(EventLogError):
        if producer is not None:
            producer.close()
        if event_log is not None:
            event_log.close()


@receiver(setting_changed)
def _forget(*, setting: str, **_later: Any) -> None:
    if setting == "MATYAN_BUS":
        close()

"""The event log's lag among the backend's metrics.

Asked for when Prometheus comes, at most every `INTERVAL_S`; an event log that does not
answer within a second is left out rather than waited for.

Design note: docs/subsystems/eventlog.md#lag
"""

from __future__ import annotations

import math
import threading
import time
from typing import Final

from prometheus_client import Gauge

from backend import runtime
from backend.bus.base import EventLog, PartitionLag
from backend.bus.topics import TOPICS
from backend.errors import MatyanError

INTERVAL_S: Final = 5.0
_LABELS: Final = ("group", "topic", "partition")

_RECORDS: Final = Gauge(
    "matyan_backend_event_log_lag_records",
    "Records a consumer group has not consumed yet.",
    _LABELS,
)
_AGE: Final = Gauge(
    "matyan_backend_event_log_oldest_age_seconds",
    "Age of the oldest of them, 0 if there are none.",
    _LABELS,
)
_LEFT: Final = Gauge(
    "matyan_backend_event_log_seconds_to_loss",
    "Seconds until retention deletes the oldest of them unconsumed; +Inf if never.",
    _LABELS,
)
_ANSWERS: Final = Gauge(
    "matyan_backend_event_log_up", "1 if the event log answered, 0 if it did not."
)

_lock = threading.Lock()
_asked_s = float("-inf")


def refresh() -> None:
    """Bring the gauges up to date. Takes about a second at most, mostly no time."""
    global _asked_s  # noqa: PLW0603 - one per process, as the gauges are
    with _lock:
        if time.monotonic() - _asked_s < INTERVAL_S:
            return
        _asked_s = time.monotonic()
        try:
            log = runtime.get_event_log()
            log.check()
            _show(log)
        except MatyanError:
            _ANSWERS.set(0)
        else:
            _ANSWERS.set(1)


def _show(log: EventLog) -> None:
    for spec in TOPICS:
        for group in spec.groups:
            for lag in log.lag(group=group, topics=[spec.name]):
                _show_one(group, lag)


def _show_one(group: str, lag: PartitionLag) -> None:
    labels = (group, lag.topic, str(lag.partition))
    _RECORDS.labels(*labels).set(lag.lag)
    _AGE.labels(*labels).set(lag.oldest_age_s)
    left_s = math.inf if lag.expires_in_s is None else lag.expires_in_s
    _LEFT.labels(*labels).set(left_s)

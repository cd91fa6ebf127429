"""Metrics of the workers, all of them in `METRICS`.

Each name is preceded by `matyan_ingestion_` or `matyan_control_`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from backend.bus.base import PartitionLag, seconds_to_loss
from workers.handlers.base import Outcome

SIZES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
SECONDS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: Without the worker's prefix; the unit is its end.
        help: Its meaning.
        kind: "counter", "gauge" or "histogram".
        labels: Names of its labels.
        buckets: Of a histogram.
    """

    name: str
    help: str
    kind: str = "counter"
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_COMMON: Final = (
    Metric("records_skipped_total", "Records that had been applied before"),
    Metric("records_dropped_total", "Records about something deleted"),
    Metric("dead_letters_total", "Records set aside", labels=("code",)),
    Metric("points_total", "Points stored"),
    Metric("lag_records", "Records not consumed yet", kind="gauge"),
    Metric("oldest_age_seconds", "Age of the oldest of them", kind="gauge"),
    Metric(
        "partition_lag_records",
        "Records not consumed yet",
        kind="gauge",
        labels=("group", "topic", "partition"),
    ),
    Metric(
        "seconds_to_loss",
        "Time until retention deletes the first unconsumed record; +Inf if never",
        kind="gauge",
    ),
    Metric("processing_errors_total", "Failures of a batch", labels=("error_type",)),
)

METRICS: Final = {
    "ingestion": (
        Metric("messages_consumed_total", "Records taken from the event log"),
        Metric("messages_processed_total", "Records applied", labels=("message_type",)),
        Metric("batch_size", "Records in a batch", kind="histogram", buckets=SIZES),
        Metric(
            "batch_processing_seconds",
            "Time to apply a batch",
            kind="histogram",
            buckets=SECONDS,
        ),
        *_COMMON,
    ),
    "control": (
        Metric("events_consumed_total", "Events taken from the event log"),
        Metric("events_processed_total", "Events reacted to", labels=("event_type",)),
        Metric("batch_size", "Events in a batch", kind="histogram", buckets=SIZES),
        Metric(
            "processing_duration_seconds",
            "Time to react to a batch",
            kind="histogram",
            buckets=SECONDS,
        ),
        *_COMMON,
    ),
}
"""By kind of worker."""


class WorkerMetrics:
    """The metrics of one worker.

    Args:
        kind: A key of `METRICS`.
        registry: Where they are registered.
    """

    def __init__(self, kind: str, *, registry: CollectorRegistry) -> None:
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in METRICS[kind]:
            self._register(f"matyan_{kind}_{metric.name}", metric, registry)
        noun = "messages" if kind == "ingestion" else "events"
        self._consumed = f"{noun}_consumed_total"
        self._processed = f"{noun}_processed_total"
        self._seconds = (
            "batch_processing_seconds"
            if kind == "ingestion"
            else "processing_duration_seconds"
        )

    def observe_batch(self, *, records: int, seconds: float, outcome: Outcome) -> None:
        """Count a batch that was applied."""
        self._counters[self._consumed].inc(records)
        self._histograms["batch_size"].observe(records)
        self._histograms[self._seconds].observe(seconds)
        for kind, count in outcome.counts.items():
            self._counters[self._processed].labels(kind).inc(count)
        self._counters["records_skipped_total"].inc(outcome.skipped)
        self._counters["records_dropped_total"].inc(outcome.dropped)
        self._counters["points_total"].inc(outcome.points)

    def count_dead_letter(self, code: str) -> None:
        """Count a record that was set aside."""
        self._counters["dead_letters_total"].labels(code).inc()

    def count_error(self, error: Exception) -> None:
        """Count a batch that failed."""
        name = type(error).__name__
        self._counters["processing_errors_total"].labels(name).inc()

    def show_lag(self, group: str, lags: Sequence[PartitionLag]) -> None:
        """Show how far behind the worker's group is."""
        self._gauges["lag_records"].set(sum(lag.lag for lag in lags))
        oldest_s = max((lag.oldest_age_s for lag in lags), default=0.0)
        self._gauges["oldest_age_seconds"].set(oldest_s)
        left_s = seconds_to_loss(lags)
        self._gauges["seconds_to_loss"].set(math.inf if left_s is None else left_s)
        for lag in lags:
            gauge = self._gauges["partition_lag_records"]
            gauge.labels(group, lag.topic, str(lag.partition)).set(lag.lag)

    def _register(self, name: str, metric: Metric, registry: CollectorRegistry) -> None:
        if metric.kind == "histogram":
            self._histograms[metric.name] = Histogram(
                name, metric.help, buckets=metric.buckets, registry=registry
            )
        elif metric.kind == "gauge":
            self._gauges[metric.name] = Gauge(
                name, metric.help, metric.labels, registry=registry
            )
        else:
            self._counters[metric.name] = Counter(
                name, metric.help, metric.labels, registry=registry
            )

"""What a loop says about itself: log lines, health, lag figures.

A line `worker.progress` every 10 s in which there was work, health every 2 s and with
each change of state.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, Final

from backend.bus.base import EventLog, PartitionLag, seconds_to_loss
from backend.errors import EventLogError
from workers.handlers.base import Outcome
from workers.health import Health
from workers.metrics import WorkerMetrics

logger = logging.getLogger(__name__)

LINE_INTERVAL_S: Final = 10.0
HEALTH_INTERVAL_S: Final = 2.0


class Progress:
    """Counts what a loop does and tells it; see the module.

    Args:
        log: Asked for the lag.
        group: The loop's consumer group.
        topics: The loop's topics.
        metrics: Shown the lag.
        health: Told the state.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        group: str,
        topics: Sequence[str],
        metrics: WorkerMetrics,
        health: Health,
    ) -> None:
        self._log = log
        self._group = group
        self._topics = topics
        self._metrics = metrics
        self._health = health
        self._total = Outcome()
        self._records = 0
        self._dead_letters = 0
        self._state = ""
        self._told_s = float("-inf")
        self._line_s = time.monotonic()
        self._line_records = 0
        self._line_points = 0
        self._lag = 0
        self._oldest_age_s = 0.0
        self._warning = ""
        self._warned_s = float("-inf")

    def count(self, *, records: int, outcome: Outcome) -> None:
        """Count a batch that was applied."""
        self._records += records
        self._dead_letters += len(outcome.poison)
        outcome.poison = []
        self._total.add(outcome)

    def keep(self, *, failing: bool, reason: str = "") -> None:
        """Tell what is due; call it often."""
        state = "failing" if failing else "ok"
        if state != self._state or self._is_due():
            self._ask_lag()
            self.say(state, reason=reason)
        if time.monotonic() - self._line_s >= LINE_INTERVAL_S:
            self._write_line()

    def say(self, state: str, *, reason: str = "") -> None:
        """Tell the state now."""
        self._state = state
        self._told_s = time.monotonic()
        self._health.report(state, reason=reason, **self._figures())

    def _is_due(self) -> bool:
        return time.monotonic() - self._told_s >= HEALTH_INTERVAL_S

    def _figures(self) -> dict[str, Any]:
        return {
            "records": self._records,
            "applied": self._total.applied,
            "skipped": self._total.skipped,
            "dropped": self._total.dropped,
            "dead_letters": self._dead_letters,
            "points": self._total.points,
            "lag": self._lag,
            "oldest_age_s": round(self._oldest_age_s, 3),
            "warning": self._warning,
        }

    def _ask_lag(self) -> None:
        try:
            lags = self._log.lag(group=self._group, topics=self._topics)
        except EventLogError as error:
            logger.info("worker.lag_unknown", extra={"reason": str(error)})
            return
        self._lag = sum(lag.lag for lag in lags)
        self._oldest_age_s = max((lag.oldest_age_s for lag in lags), default=0.0)
        self._metrics.show_lag(self._group, lags)
        self._warn(lags)

    def _warn(self, lags: Sequence[PartitionLag]) -> None:
        """Say so long before retention deletes what was not consumed."""
        left_s = seconds_to_loss([lag for lag in lags if lag.is_near_loss])
        if left_s is None:
            self._warning = ""
            return
        self._warning = (
            f"retention will delete unconsumed records in {left_s:.0f} s: add workers, "
            "or raise the retention"
        )
        if time.monotonic() - self._warned_s >= LINE_INTERVAL_S:
            self._warned_s = time.monotonic()
            extra = {"group": self._group, "seconds_left": round(left_s)}
            logger.error("worker.retention_near", extra=extra)

    def _write_line(self) -> None:
        now_s = time.monotonic()
        seconds = now_s - self._line_s
        records = self._records - self._line_records
        points = self._total.points - self._line_points
        self._line_s = now_s
        self._line_records, self._line_points = self._records, self._total.points
        if records:
            extra = {
                "group": self._group,
                "records_per_s": round(records / seconds, 1),
                "points_per_s": round(points / seconds, 1),
                "lag": self._lag,
                "oldest_age_s": round(self._oldest_age_s, 3),
                "dead_letters": self._dead_letters,
            }
            logger.info("worker.progress", extra=extra)

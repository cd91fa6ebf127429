"""Failures on demand: what a cluster does now and then, made to happen in a test.

An engine built with a `FaultInjector` asks it once for every commit of a transaction
that writes. Code that gives the same result under any injector is right on a cluster,
where conflicts and commits of unknown result are part of the day.

Design note: docs/subsystems/engines.md#faults
"""

from __future__ import annotations

import random
import threading
from collections import Counter, deque
from collections.abc import Iterable
from enum import Enum


class Fault(Enum):
    """What happens to one commit."""

    NONE = "none"
    CONFLICT = "conflict"
    """Not applied; the caller is told so."""
    UNKNOWN_APPLIED = "unknown_applied"
    """Applied; the caller is told that nobody knows."""
    UNKNOWN_LOST = "unknown_lost"
    """Not applied; the caller is told that nobody knows."""


class FaultInjector:
    """Decides the fault of each commit: first a schedule, then by probability.

    May be shared by threads and by engines.

    Attributes:
        fired: How often each fault was handed out.
    """

    def __init__(
        self,
        *,
        schedule: Iterable[Fault] = (),
        conflict: float = 0.0,
        unknown_applied: float = 0.0,
        unknown_lost: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Plan the faults.

        Args:
            schedule: The faults of the first commits, in order.
            conflict: Probability of `CONFLICT` for each commit after those.
            unknown_applied: Probability of `UNKNOWN_APPLIED`.
            unknown_lost: Probability of `UNKNOWN_LOST`.
            seed: Makes the drawn faults repeatable.
        """
        self.fired: Counter[Fault] = Counter()
        self._schedule = deque(schedule)
        self._odds = (
            (Fault.CONFLICT, conflict),
            (Fault.UNKNOWN_APPLIED, unknown_applied),
            (Fault.UNKNOWN_LOST, unknown_lost),
        )
        self._random = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._lock = threading.Lock()

    def plan(self, *faults: Fault) -> None:
        """Add to the end of the schedule."""
        with self._lock:
            self._schedule.extend(faults)

    def draw(self) -> Fault:
        """Return the fault of the commit about to happen."""
        with self._lock:
            fault = self._schedule.popleft() if self._schedule else self._roll()
            self.fired[fault] += 1
            return fault

    def _roll(self) -> Fault:
        rest = self._random.random()
        for fault, probability in self._odds:
            if rest < probability:
                return fault
            rest -= probability
        return Fault.NONE

"""What the loop asks of a handler, and what a handler answers.

Design note: docs/subsystems/workers.md
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from backend.bus.base import Record

Poison = tuple[Record, Exception]
"""A record that can never be applied, and why."""


@dataclass(slots=True)
class Outcome:
    """What became of a batch.

    Attributes:
        applied: Records whose data is now stored.
        skipped: Records that were stored before.
        dropped: Records about something that was deleted.
        points: Points stored.
        poison: Records that can never be applied; the loop dead-letters them.
        counts: Applied items by type, for the metrics.
        rest: Records not applied yet, because of the poison before them: to be handled
            once that is a dead letter. What comes later is how a handler recognises a
            record as applied; applied sooner, it would hide the poison when that has
            to be delivered again.
    """

    applied: int = 0
    skipped: int = 0
    dropped: int = 0
    points: int = 0
    poison: list[Poison] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    rest: list[Record] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        """Add the outcome of what came next, but for its rest."""
        self.applied += other.applied
        self.skipped += other.skipped
        self.dropped += other.dropped
        self.points += other.points
        self.poison += other.poison
        for kind, count in other.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + count


Handler = Callable[[Sequence[Record]], Outcome]
"""Applies a batch of records, durably and idempotently.

Called with one to many records, those of one key in order, always from the same thread.
It may be called again with the same records.

Raises `StoreError`, `EventLogError` or `TaskQueueUnavailableError` when the
surroundings failed: the loop tries again later. Anything else it raises is taken as the
fault of a record.
"""

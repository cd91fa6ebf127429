"""Runs: what is known about one, apart from its series and attributes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_NUMBER_DRIFT_US: Final = 1_000_000
"""How far a run's number may lie above its creation time, unless it is antedated: range
scans by time rely on it. Reached only by a million runs created in one second."""

MAX_CLOCK_OFFSET_US: Final = 100 * 366 * 86_400_000_000
"""A century: what lies beyond says nothing about a clock."""


def plausible_offset_us(offset_us: int) -> int:
    """Return `offset_us` if two clocks can differ by it, else 0."""
    return offset_us if abs(offset_us) <= MAX_CLOCK_OFFSET_US else 0


@dataclass(frozen=True, slots=True)
class Run:
    """One training run.

    Attributes:
        number: Internal identity: unique, ascending with creation, never shown. It is
            the creation time in microseconds, moved on to the next free integer; the
            one first known, if an earlier opening was delivered later.
        run_id: The client's name for it.
        name: Shown to people.
        description: Free text.
        created_us: When it was first opened, microseconds since the epoch, server's
            clock; when the server first heard of it, if the writer does not tell.
        finished_us: When it ended, server's clock, None while it has not.
        active: Whether it is being written.
        archived: Whether it is hidden from default listings.
        experiment_id: UUID text, None for none.
        tag_ids: UUID texts, sorted.
        clock_offset_us: Server's clock minus the writer's, 0 when too small to be told
            from latency. Point times are stored as the writer's; add this to compare
            them with `created_us`.
        resumed_count: How many times it was opened again.
    """

    number: int
    run_id: str
    name: str
    description: str
    created_us: int
    finished_us: int | None = None
    active: bool = True
    archived: bool = False
    experiment_id: str | None = None
    tag_ids: tuple[str, ...] = ()
    clock_offset_us: int = 0
    resumed_count: int = 0

    @property
    def antedated(self) -> bool:
        """Whether it was created longer before its number than numbers drift."""
        return self.number - self.created_us > MAX_NUMBER_DRIFT_US

    def duration_us(self, *, now_us: int) -> int:
        """Return the run's duration so far, or in all if it has finished."""
        return max(0, (self.finished_us or now_us) - self.created_us)

"""Which of many series' points are read together, and how many one answer may have.

A caller may name one series any number of times, and a series may have a million
points. Answers are made trace by trace, in the order asked for; what is read together
is bounded in series, in points read and in points held, whatever is named.

Design note: docs/subsystems/api.md#limits
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from backend.domain.series import Series
from backend.errors import LimitExceededError

GROUP_SERIES: Final = 10_000
GROUP_POINTS: Final = 4_000_000
"""Series and stored points read in one transaction, at most, if one series is less:
well within the time a transaction has."""

HELD_POINTS: Final = 1_000_000
"""Points in memory at once, if one series has fewer."""

MAX_ANSWER_POINTS: Final = 20_000_000
"""Points of one answer: repetitions cost a caller nothing to name."""

T = TypeVar("T", bound=tuple[Any, Series])


class Sampling(NamedTuple):
    """Which points of a series are wanted.

    Attributes:
        density: Most points of one series.
        start: First step, None for the first there is.
        stop: Step after the last, None for all that follow.
    """

    density: int
    start: int | None = None
    stop: int | None = None

    def points_of(self, series: Series) -> int:
        """Return how many points of `series` that is, at most."""
        found = min(_stored(series), self.density)
        if self.start is None or self.stop is None:
            return found
        return max(0, min(found, self.stop - self.start))


def check_answer(points: int) -> None:
    """Refuse an answer that would have too many points.

    Raises:
        LimitExceededError: If it would.
    """
    if points > MAX_ANSWER_POINTS:
        raise LimitExceededError(
            what="points of one answer", size=points, limit=MAX_ANSWER_POINTS
        )


def iter_groups(wanted: Sequence[T], sampling: Sampling) -> Iterator[list[T]]:
    """Yield what is wanted in order, in groups whose series are read together."""
    group: list[T] = []
    numbers: set[int] = set()
    stored = held = 0
    for one in wanted:
        series = one[1]
        if series.number not in numbers:
            stored += _stored(series)
            held += sampling.points_of(series)
            if group and _is_full(len(numbers), stored=stored, held=held):
                yield group
                group, numbers = [], set()
                stored, held = _stored(series), sampling.points_of(series)
            numbers.add(series.number)
        group.append(one)
    if group:
        yield group


def _is_full(series: int, *, stored: int, held: int) -> bool:
    return series >= GROUP_SERIES or stored > GROUP_POINTS or held > HELD_POINTS


def _stored(series: Series) -> int:
    return series.summary.count if series.summary else 0

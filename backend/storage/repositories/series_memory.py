"""What a process remembers of runs between transactions; not the truth, yet right.

- Series numbers, once committed, never change within an incarnation of a run: they
  may be remembered for as long as there is room, whatever other workers do.
- Greatest steps are remembered with the number of the next tail block: any append by
  anyone moves that number on, and what was remembered is not used again.

Only what a committed transaction has found is remembered. An incarnation is random and
made with the run's state: a run deleted and made again under its old number is another.

Design note: docs/subsystems/storage.md#dictionary
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

from matyan_wire.batch import SeriesRef

MAX_SERIES: Final = 200_000
"""About 60 MB at worst; a run of more series alone is remembered all the same."""

MAX_RUNS: Final = 4096

Numbers = dict[SeriesRef, int]
Incarnation = tuple[int, int]
"""Run number and `RunState.incarnation`."""


@dataclass(slots=True)
class LastSteps:
    """Greatest steps of some series of a run.

    Attributes:
        next_tail: `RunState.next_tail` at which they are right.
        steps: Series number -> greatest step, None for a series without points.
    """

    next_tail: int = 0
    steps: dict[int, int | None] = field(default_factory=dict)


@dataclass(slots=True)
class _RunMemory:
    run_id: str
    numbers: Numbers = field(default_factory=dict)
    last: LastSteps = field(default_factory=LastSteps)


class SeriesMemory:
    """The most recently written runs; bounded, used by any thread."""

    def __init__(
        self, *, max_series: int = MAX_SERIES, max_runs: int = MAX_RUNS
    ) -> None:
        self._runs: OrderedDict[Incarnation, _RunMemory] = OrderedDict()
        self._by_id: dict[str, Incarnation] = {}
        self._count = 0
        self._max_series = max_series
        self._max_runs = max_runs
        self._lock = Lock()

    def numbers(self, run: Incarnation) -> Mapping[SeriesRef, int]:
        """Return the known numbers of a run; later additions may appear in it."""
        with self._lock:
            found = self._runs.get(run)
            return {} if found is None else found.numbers

    def last_steps(self, run: Incarnation, next_tail: int) -> dict[int, int | None]:
        """Return a copy of the greatest steps known to be right at `next_tail`."""
        with self._lock:
            found = self._runs.get(run)
            if found is None or found.last.next_tail != next_tail:
                return {}
            return dict(found.last.steps)

    def count_unknown(self, run_id: str, refs: Iterable[SeriesRef]) -> int:
        """Return how many of `refs` are not known of the run: about the new ones."""
        with self._lock:
            found = self._runs.get(self._by_id.get(run_id, (0, 0)))
            numbers = {} if found is None else found.numbers
            return sum(ref not in numbers for ref in refs)

    def remember(
        self, run_id: str, run: Incarnation, numbers: Numbers, last: LastSteps
    ) -> None:
        """Keep what a committed transaction has found; forget the oldest runs."""
        with self._lock:
            kept = self._runs.setdefault(run, _RunMemory(run_id))
            self._runs.move_to_end(run)
            self._by_id[run_id] = run
            self._count -= len(kept.numbers)
            kept.numbers.update(numbers)
            kept.last = last
            self._count += len(kept.numbers)
            while len(self._runs) > 1 and (
                self._count > self._max_series or len(self._runs) > self._max_runs
            ):
                oldest, dropped = self._runs.popitem(last=False)
                self._count -= len(dropped.numbers)
                if self._by_id.get(dropped.run_id) == oldest:
                    del self._by_id[dropped.run_id]

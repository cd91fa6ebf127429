"""Points in columns, of either kind of series, while they are merged.

Private to the series modules: callers get `Points` and `ObjectPoints`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from backend.domain.series import Float64s, Int64s, ObjectPoints, Points
from backend.storage.codecs import summaries

FIRST: Final = np.zeros(1, np.int64)


@dataclass(frozen=True, slots=True)
class Columns:
    """n points.

    Attributes:
        steps: n × int64.
        values: n × float64 for metrics; n payloads (dtype object) for objects; n
        payload
            lengths (int64) for objects whose payloads were not read.
        times_us: n × int64.
        epochs: n × float64.
    """

    steps: Int64s
    values: npt.NDArray[Any]
    times_us: Int64s
    epochs: Float64s

    def __len__(self) -> int:
        return len(self.steps)

    def take(self, index: slice | npt.NDArray[Any]) -> Columns:
        """Return the points at `index`."""
        return Columns(
            self.steps[index],
            self.values[index],
            self.times_us[index],
            self.epochs[index],
        )

    def between(self, start: int | None, stop: int | None) -> Columns:
        """Return the points with start <= step < stop; steps must ascend."""
        first = 0 if start is None else int(np.searchsorted(self.steps, start))
        last = len(self) if stop is None else int(np.searchsorted(self.steps, stop))
        return (
            self if (first, last) == (0, len(self)) else self.take(slice(first, last))
        )

    def last_wins(self) -> Columns:
        """Return the points ascending by step, the last given one of each step."""
        steps = self.steps
        if bool((steps[1:] > steps[:-1]).all()):
            return self
        order = np.argsort(steps, kind="stable")
        sorted_steps = steps[order]
        keep = np.append(sorted_steps[1:] != sorted_steps[:-1], True)
        return self.take(order[keep])

    def summarise(self) -> summaries.Rows:
        """Return one summary row of non-empty, ascending points."""
        return summarise_groups(self, FIRST)

    def to_points(self) -> Points:
        """Return a metric's points."""
        return Points(self.steps, self.values, self.times_us, self.epochs)

    def to_object_points(self) -> ObjectPoints:
        """Return an object series' points."""
        return ObjectPoints(
            self.steps, self.times_us, self.epochs, self.values.tolist()
        )


def empty(*, is_object: bool) -> Columns:
    """Return no points."""
    values: npt.NDArray[Any] = np.empty(0, object if is_object else np.float64)
    nothing = np.empty(0, np.int64)
    return Columns(nothing, values, nothing, np.empty(0))


def from_points(points: Points) -> Columns:
    """Return a metric's points as columns."""
    return Columns(points.steps, points.values, points.times_us, points.epochs)


def from_object_points(points: ObjectPoints) -> Columns:
    """Return an object series' points as columns."""
    return Columns(
        points.steps, payload_array(points.payloads), points.times_us, points.epochs
    )


def payload_array(payloads: Sequence[bytes]) -> npt.NDArray[Any]:
    """Return payloads as an array that can be indexed by arrays."""
    # np.array(payloads) would make fixed-width bytes and strip trailing zeros.
    array = np.empty(len(payloads), object)
    array[:] = payloads
    return array


def concat(pieces: Sequence[Columns], *, is_object: bool = False) -> Columns:
    """Return the points of all pieces, in order."""
    if len(pieces) == 1:
        return pieces[0]
    if not pieces:
        return empty(is_object=is_object)
    return Columns(
        np.concatenate([piece.steps for piece in pieces]),
        np.concatenate([piece.values for piece in pieces]),
        np.concatenate([piece.times_us for piece in pieces]),
        np.concatenate([piece.epochs for piece in pieces]),
    )


def sizes_of(values: npt.NDArray[Any]) -> Int64s:
    """Return the payload lengths of an object series' values column."""
    if values.dtype == np.int64:
        return values
    return np.fromiter(map(len, values), np.int64, len(values))


def summarise_groups(points: Columns, starts: Int64s) -> summaries.Rows:
    """Return one summary row per group of points, groups beginning at `starts`."""
    if points.values.dtype == np.float64:
        return summaries.summarise(points.steps, points.values, starts)
    return summaries.summarise_objects(points.steps, sizes_of(points.values), starts)


@dataclass(frozen=True, slots=True)
class Grouped:
    """Points of many series: grouped by series, ascending by step, one per step.

    Attributes:
        numbers: Series numbers, ascending.
        starts: Where each group begins.
        points: The points.
    """

    numbers: Int64s
    starts: Int64s
    points: Columns

    def items(self) -> Iterator[tuple[int, Columns]]:
        """Yield (series number, its points)."""
        ends = [*self.starts[1:].tolist(), len(self.points)]
        for number, start, end in zip(
            self.numbers.tolist(), self.starts.tolist(), ends, strict=True
        ):
            yield number, self.points.take(slice(start, end))


def group(series: Int64s, points: Columns) -> Grouped:
    """Return points in log order grouped by series, last write wins per step."""
    order = np.lexsort((points.steps, series))
    sorted_series, steps = series[order], points.steps[order]
    new_series = sorted_series[1:] != sorted_series[:-1]
    keep = np.append(new_series | (steps[1:] != steps[:-1]), True)
    order = order[keep[: len(order)]]
    sorted_series = series[order]
    edges = np.flatnonzero(sorted_series[1:] != sorted_series[:-1]) + 1
    starts = np.concatenate((FIRST, edges)) if len(order) else edges
    return Grouped(sorted_series[starts], starts, points.take(order))

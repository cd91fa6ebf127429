"""Searches as frames: each `next` is one bounded piece of work and one chunk of bytes.

Every response is, unless progress is unwanted: `[0, total]` at once, then runs, each
followed by `[checked, total]`, heartbeats while nothing matches, and `[0, 0]`.

Points are read in groups of about `GROUP_SERIES` series or `GROUP_POINTS` points:
several small runs share a transaction, and a large run is sent in several chunks. A
client that does not read makes one chunk wait in memory.

Design note: docs/subsystems/api.md#streams
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from backend.api.streaming import Progress
from backend.api.trees import (
    array_flag,
    metric_overview,
    metric_state,
    metric_trace,
    params_tree,
    props_tree,
    trace_path,
    traces_path,
    x_axis_columns,
)
from backend.domain.series import Points, Series
from backend.services.damage import read_intact
from backend.services.search import RunMatch, SearchStep
from backend.storage.engine.base import ReadTransaction
from backend.storage.factory import Store
from matyan_wire.batch import METRIC, SeriesRef
from matyan_wire.tree_stream import encode_tree

GROUP_SERIES: Final = 400
"""Series whose points are read in one transaction, about."""

GROUP_POINTS: Final = 100_000
"""Points read in one transaction: 3.2 MB of columns, once more as the chunk."""


def run_frames(
    steps: Iterator[SearchStep],
    progress: Progress,
    *,
    skip_system: bool,
) -> Iterator[bytes]:
    """Yield a run search: attributes, metrics with their aggregates, properties."""
    for step in steps:
        frames = [opening_frame(step, progress)]
        for match in step.matches:
            tree = {
                "params": params_tree(match.attributes, skip_system=skip_system),
                "traces": {"metric": [metric_overview(one) for one in match.series]},
                "props": match_props(match),
            }
            frames.append(encode_tree({match.run.run_id: tree}))
            frames.append(progress.frame(step.checked, step.total))
        yield b"".join(frames)
    yield progress.frame(0, 0)


def active_frames(steps: Iterator[SearchStep], progress: Progress) -> Iterator[bytes]:
    """Yield the active runs: metrics with their last point, properties."""
    for step in steps:
        frames = [opening_frame(step, progress)]
        for match in step.matches:
            tree = {
                "traces": {"metric": [metric_state(one) for one in match.series]},
                "props": match_props(match),
            }
            frames.append(encode_tree({match.run.run_id: tree}))
            frames.append(progress.frame(step.checked, step.total))
        yield b"".join(frames)
    yield progress.frame(0, 0)


def opening_frame(step: SearchStep, progress: Progress) -> bytes:
    """Return the first frame, or a heartbeat when a step has found nothing."""
    if not progress.has_begun:
        return progress.frame(step.checked, step.total)
    return b"" if step.matches else progress.heartbeat(step.checked, step.total)


def match_props(match: RunMatch) -> dict[str, Any]:
    """Return a match's `props`."""
    return props_tree(match.run, experiment=match.experiment, tags=match.tags)


@dataclass(frozen=True, slots=True)
class MetricSearch:
    """What a metric search was asked for.

    Attributes:
        store: Where the points are.
        max_points: Most points of a trace.
        x_axis: Name of the metric to send along, "" for none.
        skip_system: Whether to leave out the attributes about the system.
    """

    store: Store
    max_points: int
    x_axis: str
    skip_system: bool

    def frames(
        self, steps: Iterator[SearchStep], progress: Progress
    ) -> Iterator[bytes]:
        """Yield a metric search: attributes, sampled points, properties."""
        for step in steps:
            yield opening_frame(step, progress)
            for group in _groups(step.matches, max_points=self.max_points):
                frames: list[bytes] = []
                points = self._read(group)
                for part in group:
                    frames += self._encode(part, points[part.match.run.number])
                    if part.is_last:
                        frames.append(progress.frame(step.checked, step.total))
                yield b"".join(frames)
        yield progress.frame(0, 0)

    def _read(self, group: Sequence[_Part]) -> dict[int, _Read]:
        def read(tr: ReadTransaction) -> dict[int, _Read]:
            return {part.match.run.number: self._read_part(tr, part) for part in group}

        return self.store.engine.read(read)

    def _read_part(self, tr: ReadTransaction, part: _Part) -> _Read:
        run_number = part.match.run.number
        axes = self._find_axes(tr, run_number, part.series) if self.x_axis else {}
        numbers = {one.number for one in part.series}
        numbers.update(one.number for one in axes.values())
        points = read_intact(
            lambda some: self.store.series.sample_points(
                tr, run_number, some, max_points=self.max_points
            ),
            sorted(numbers),
        )
        return _Read(points, axes)

    def _find_axes(
        self, tr: ReadTransaction, run_number: int, series: Sequence[Series]
    ) -> dict[str, Series]:
        contexts = {one.context_text for one in series}
        refs = [SeriesRef(METRIC, self.x_axis, text) for text in sorted(contexts)]
        found = read_intact(
            lambda some: self.store.series.find_many(tr, run_number, some), refs
        )
        return {ref.context: one for ref, one in found.items()}

    def _encode(self, part: _Part, read: _Read) -> Iterator[bytes]:
        run = part.match.run
        if part.first == 0:
            head = {
                "params": params_tree(
                    part.match.attributes, skip_system=self.skip_system
                ),
                "props": match_props(part.match),
            }
            yield encode_tree({run.run_id: head})
            yield array_flag(traces_path(run))
        for index, series in enumerate(part.series, start=part.first):
            path = trace_path(run, index)
            yield metric_trace(path, run, series, read.points.get(series.number))
            if self.x_axis:
                axis = read.axes.get(series.context_text)
                yield x_axis_columns(
                    path, read.points.get(axis.number) if axis else None
                )


@dataclass(frozen=True, slots=True)
class _Read:
    points: dict[int, Points]
    axes: dict[str, Series]


@dataclass(frozen=True, slots=True)
class _Part:
    """Some of a run's traces: all of them, unless it has very many."""

    match: RunMatch
    first: int
    series: Sequence[Series]

    @property
    def is_last(self) -> bool:
        return self.first + len(self.series) == len(self.match.series)


def _groups(matches: Sequence[RunMatch], *, max_points: int) -> Iterator[list[_Part]]:
    """Yield the matches cut and joined into groups within the two bounds."""
    group: list[_Part] = []
    series = points = 0
    for match in matches:
        for part in _parts(match, max_points=max_points):
            more = sum(_points_of(one, max_points) for one in part.series)
            is_full = (
                series + len(part.series) > GROUP_SERIES or points + more > GROUP_POINTS
            )
            if group and is_full:
                yield group
                group, series, points = [], 0, 0
            group.append(part)
            series += len(part.series)
            points += more
    if group:
        yield group


def _parts(match: RunMatch, *, max_points: int) -> Iterator[_Part]:
    """Yield a match in parts, each of at least one series and within the bounds."""
    first = points = 0
    for index, one in enumerate(match.series):
        more = _points_of(one, max_points)
        if index > first and (
            index - first == GROUP_SERIES or points + more > GROUP_POINTS
        ):
            yield _Part(match, first, match.series[first:index])
            first, points = index, 0
        points += more
    yield _Part(match, first, match.series[first:])


def _points_of(series: Series, max_points: int) -> int:
    return min(max_points, series.summary.count) if series.summary else 0

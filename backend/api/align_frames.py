"""Metrics aligned by another metric: its values and steps beside each trace.

The x axis is sent as it was tracked, not sampled: a browser joins it with the trace's
points by step, and a step left out would be a point left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from backend.api.point_groups import Sampling, check_answer, iter_groups
from backend.api.serializers.runs import AlignRun, TraceRef
from backend.api.series_refs import canonical_text
from backend.api.trees import array_flag, x_axis_columns
from backend.domain.series import Points, Series
from backend.storage.engine.base import ReadTransaction
from backend.storage.factory import Store
from matyan_wire.batch import METRIC, SeriesRef
from matyan_wire.tree_stream import encode_key, encode_tree

MAX_AXIS_POINTS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class _Aligned:
    """A run's traces that have an axis in their context, each with it."""

    run_id: str
    number: int
    traces: list[tuple[TraceRef, Series]]
    sampling: Sampling


def align_frames(
    store: Store, *, align_by: str, runs: Sequence[AlignRun]
) -> Iterator[bytes]:
    """Yield each run's traces that have the metric `align_by` in their context.

    Raises:
        LimitExceededError: If that is too much for one answer; before the first frame.
    """
    aligned = [
        found
        for run in runs
        if (found := _find_axes(store, run, align_by=align_by)) is not None
    ]
    check_answer(
        sum(one.sampling.points_of(axis) for one in aligned for _, axis in one.traces)
    )
    for one in aligned:
        yield from _run_frames(store, one)


def _find_axes(store: Store, run: AlignRun, *, align_by: str) -> _Aligned | None:
    """Return a run's traces with their axes, None if there are none."""
    contexts = [canonical_text(trace.context) for trace in run.traces]
    refs = [SeriesRef(METRIC, align_by, text) for text in sorted(set(contexts))]

    def find(tr: ReadTransaction) -> tuple[int, dict[str, Series]]:
        found = store.runs.find(tr, run.run_id)
        if found is None:
            return 0, {}
        axes = store.series.find_many(tr, found.number, refs)
        return found.number, {ref.context: one for ref, one in axes.items()}

    number, axes = store.engine.read(find)
    traces = [
        (trace, axes[context])
        for trace, context in zip(run.traces, contexts, strict=True)
        if context in axes
    ]
    stop = 1 + max((one.slice[1] for one in run.traces if one.slice), default=-1)
    sampling = Sampling(MAX_AXIS_POINTS, None, stop or None)
    return _Aligned(run.run_id, number, traces, sampling) if traces else None


def _run_frames(store: Store, run: _Aligned) -> Iterator[bytes]:
    root = encode_key(run.run_id)
    yield array_flag(root)
    index = 0
    for group in iter_groups(run.traces, run.sampling):
        axes = _read_axes(store, run, sorted({axis.number for _, axis in group}))
        for trace, axis in group:
            path = root + encode_key(index)
            yield _head(path, trace)
            yield x_axis_columns(path, axes.get(axis.number))
            index += 1


def _read_axes(store: Store, run: _Aligned, numbers: list[int]) -> dict[int, Points]:
    def read(tr: ReadTransaction) -> dict[int, Points]:
        return store.series.sample_points(
            tr,
            run.number,
            numbers,
            max_points=run.sampling.density,
            stop=run.sampling.stop,
        )

    return store.engine.read(read)


def _head(path: bytes, trace: TraceRef) -> bytes:
    return encode_tree(
        {"name": trace.name, "context": trace.context or {}}, prefix=path
    )

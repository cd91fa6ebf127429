"""Metrics aligned by another metric: its values and steps beside each trace.

The x axis is sent as it was tracked, not sampled: a browser joins it with the trace's
points by step, and a step left out would be a point left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from backend.api.serializers.runs import AlignRun, TraceRef
from backend.api.series_refs import canonical_text
from backend.api.trees import array_flag, x_axis_columns
from backend.domain.series import Points
from backend.storage.engine.base import ReadTransaction
from backend.storage.factory import Store
from matyan_wire.batch import METRIC, SeriesRef
from matyan_wire.tree_stream import encode_key, encode_tree

MAX_AXIS_POINTS: Final = 1_000_000


def align_frames(
    store: Store, *, align_by: str, runs: Sequence[AlignRun]
) -> Iterator[bytes]:
    """Yield each run's traces that have the metric `align_by` in their context."""
    for run in runs:
        stop = 1 + max((one.slice[1] for one in run.traces if one.slice), default=-1)

        def read(
            tr: ReadTransaction, run: AlignRun = run, stop: int = stop
        ) -> dict[str, Points]:
            return _read_axes(store, tr, run, align_by=align_by, stop=stop or None)

        yield _run_frame(run, store.engine.read(read))


def _read_axes(
    store: Store,
    tr: ReadTransaction,
    run: AlignRun,
    *,
    align_by: str,
    stop: int | None,
) -> dict[str, Points]:
    """Return the x axis of each context of the run's traces that has one."""
    found = store.runs.find(tr, run.run_id)
    if found is None:
        return {}
    contexts = sorted({canonical_text(one.context) for one in run.traces})
    refs = [SeriesRef(METRIC, align_by, text) for text in contexts]
    axes = store.series.find_many(tr, found.number, refs)
    points = store.series.sample_points(
        tr,
        found.number,
        sorted(one.number for one in axes.values()),
        max_points=MAX_AXIS_POINTS,
        stop=stop,
    )
    return {ref.context: points[one.number] for ref, one in axes.items()}


def _run_frame(run: AlignRun, axes: dict[str, Points]) -> bytes:
    pairs = ((trace, axes.get(canonical_text(trace.context))) for trace in run.traces)
    aligned = [(trace, points) for trace, points in pairs if points is not None]
    if not aligned:
        return b""
    root = encode_key(run.run_id)
    frames = [array_flag(root)]
    for index, (trace, points) in enumerate(aligned):
        path = root + encode_key(index)
        frames.append(_head(path, trace))
        frames.append(x_axis_columns(path, points))
    return b"".join(frames)


def _head(path: bytes, trace: TraceRef) -> bytes:
    return encode_tree(
        {"name": trace.name, "context": trace.context or {}}, prefix=path
    )

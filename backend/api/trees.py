"""What a run looks like in an answer: plain trees, for JSON and for streams alike.

Times are seconds since the epoch on the server's clock: a point's time is the
writer's, corrected by the offset measured when the run was opened, so that it can be
compared with `props.creation_time`.

Design note: docs/subsystems/api.md#trees
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from backend.domain.entities import Artifact, Experiment, Tag
from backend.domain.runs import Run
from backend.domain.series import Points, Series
from matyan_wire.tree_stream import encode_float64s, encode_key, encode_tree

SEQUENCE_KINDS: Final = (
    "metric",
    "images",
    "texts",
    "distributions",
    "audios",
    "figures",
)
"""Kinds of series a run's pages list; logs have endpoints of their own."""

_HIDDEN_PARAMS: Final = ("__blobs__",)
_SYSTEM_PARAMS: Final = "__system_params"
_NO_EXPERIMENT: Final = {"id": None, "name": None, "description": None}
_ARRAY_FLAG: Final = b"\x01\x00\x00\x00\x06"


def seconds(time_us: int) -> float:
    """Return stored microseconds as float seconds."""
    return time_us / 1e6


def props_tree(
    run: Run, *, experiment: Experiment | None, tags: Iterable[Tag]
) -> dict[str, Any]:
    """Return a run's properties; the run's own `experiment` and `tags` are given."""
    return {
        "name": run.name,
        "description": run.description,
        "experiment": _experiment_tree(experiment),
        "tags": [_tag_tree(tag) for tag in tags],
        "creation_time": seconds(run.created_us),
        "end_time": None if run.finished_us is None else seconds(run.finished_us),
        "archived": run.archived,
        "active": run.active,
    }


def _experiment_tree(experiment: Experiment | None) -> dict[str, Any]:
    if experiment is None:
        return dict(_NO_EXPERIMENT)
    return {
        "id": experiment.experiment_id,
        "name": experiment.name,
        "description": experiment.description,
    }


def _tag_tree(tag: Tag) -> dict[str, Any]:
    return {
        "id": tag.tag_id,
        "name": tag.name,
        "color": tag.color or None,
        "description": tag.description or None,
    }


def params_tree(attributes: Mapping[str, Any], *, skip_system: bool) -> dict[str, Any]:
    """Return a run's attributes without what is not for people."""
    hidden = (*_HIDDEN_PARAMS, _SYSTEM_PARAMS) if skip_system else _HIDDEN_PARAMS
    return {name: value for name, value in attributes.items() if name not in hidden}


def artifact_tree(artifact: Artifact, *, uri: str) -> dict[str, Any]:
    """Return an artifact as `info` lists it; `uri` is for display only."""
    return {
        "name": artifact.path.rsplit("/", 1)[-1],
        "path": artifact.path,
        "uri": uri,
    }


def info_traces(
    series: Iterable[Series], *, kinds: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Return every series by kind, with a list for each of `kinds`."""
    traces: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for one in series:
        if one.kind in traces:
            traces[one.kind].append(
                {
                    "context": one.context,
                    "name": one.name,
                    "last_value": _last_value(one),
                }
            )
    return traces


def _last_value(series: Series) -> float | None:
    if series.summary is None or (
        series.kind != "metric" and math.isnan(series.summary.last)
    ):
        return 0.0 if series.kind != "metric" else None
    return series.summary.last


def metric_overview(series: Series) -> dict[str, Any]:
    """Return a metric with its aggregates, as run search lists it."""
    summary = series.summary
    if summary is None:
        values = dict.fromkeys(("last", "last_step", "first", "min", "max"))
    else:
        values = {
            "last": summary.last,
            "last_step": summary.last_step,
            "first": summary.first,
            "min": summary.min,
            "max": summary.max,
        }
    return {"name": series.name, "context": series.context, "values": values}


def metric_state(series: Series) -> dict[str, Any]:
    """Return a metric with its last point, as `active` lists it."""
    values = metric_overview(series)["values"]
    return {
        "name": series.name,
        "context": series.context,
        "values": {"last": values["last"], "last_step": values["last_step"]},
    }


_VALUES: Final = encode_key("values")
_ITERS: Final = encode_key("iters")
_EPOCHS: Final = encode_key("epochs")
_TIMESTAMPS: Final = encode_key("timestamps")
_X_VALUES: Final = encode_key("x_axis_values")
_X_ITERS: Final = encode_key("x_axis_iters")
_TRACES: Final = encode_key("traces")
_NO_INTS: Final = np.empty(0, dtype=np.int64)
_NO_FLOATS: Final = np.empty(0, dtype=np.float64)
_EMPTY: Final = Points(_NO_INTS, _NO_FLOATS, _NO_INTS, _NO_FLOATS)


def array_flag(path: bytes) -> bytes:
    """Return the pair that announces an array at `path`."""
    return len(path).to_bytes(4, "little") + path + _ARRAY_FLAG


def traces_path(run: Run) -> bytes:
    """Return the path of the run's traces in a metric search."""
    return encode_key(run.run_id) + _TRACES


def trace_path(run: Run, index: int) -> bytes:
    """Return the path of the run's `index`-th trace in a metric search."""
    return traces_path(run) + encode_key(index)


def metric_trace(path: bytes, run: Run, series: Series, points: Points | None) -> bytes:
    """Return one trace of a metric search; its arrays are of equal length.

    They are empty when `points` is None: the run is being deleted meanwhile.
    """
    points = points or _EMPTY
    last_step = series.summary.last_step if series.summary else 0
    head = {
        "name": series.name,
        "context": series.context,
        "slice": [0, last_step, 1],
    }
    count = len(points)
    times_s = (points.times_us + run.clock_offset_us) / 1e6
    return b"".join(
        (
            encode_tree(head, prefix=path),
            encode_float64s(path + _VALUES, count, _blob(points.values)),
            encode_float64s(path + _ITERS, count, _blob(points.steps)),
            encode_float64s(path + _EPOCHS, count, _blob(points.epochs)),
            encode_float64s(path + _TIMESTAMPS, count, _blob(times_s)),
        )
    )


def x_axis_columns(path: bytes, points: Points | None) -> bytes:
    """Return the x axis of the trace at `path`; empty arrays when there is none."""
    points = points or _EMPTY
    return encode_float64s(
        path + _X_VALUES, len(points), _blob(points.values)
    ) + encode_float64s(path + _X_ITERS, len(points), _blob(points.steps))


def _blob(column: npt.NDArray[Any]) -> bytes:
    return column.astype("<f8", copy=False).tobytes()

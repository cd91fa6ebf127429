"""What the series tests share: a naive model of a run, and makers of records."""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backend.bus.base import Record, RecordPosition
from backend.domain.series import ObjectPoints, Points, Series, Summary
from backend.storage.factory import Store
from matyan_wire.batch import (
    AUTO_STEP,
    METRIC,
    UNKNOWN_TIME,
    Batch,
    Event,
    ObjectColumns,
    PointColumns,
    Position,
    SeriesRef,
    encode_batch,
    encode_envelope,
    encode_payload,
)

RECEIVED_US = 1_760_000_000_000_000


@dataclass
class Point:
    """One tracked point; `value` is a float or, for objects, anything MessagePack."""

    ref: SeriesRef
    step: int
    value: Any
    time_us: int = RECEIVED_US
    epoch: float = math.nan


@dataclass
class Frame:
    """A batch as a client would send it."""

    points: list[Point] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    position: Position | None = None
    run_id: str = "run"
    digest: bytes = b""
    sent_us: int = UNKNOWN_TIME


def encode_frame(frame: Frame) -> bytes:
    refs = list(dict.fromkeys(point.ref for point in frame.points))
    index = {ref: at for at, ref in enumerate(refs)}
    metrics = [point for point in frame.points if point.ref.kind == METRIC]
    others = [point for point in frame.points if point.ref.kind != METRIC]
    batch = Batch(
        1,
        frame.run_id,
        frame.sent_us,
        frame.position,
        refs,
        _metric_columns(metrics, index) if metrics else None,
        _object_columns(others, index) if others else None,
        frame.events,
    )
    return encode_batch(batch)


def _metric_columns(points: list[Point], index: dict[SeriesRef, int]) -> PointColumns:
    return PointColumns(
        len(points),
        np.array([index[p.ref] for p in points], "<u4").tobytes(),
        np.array([p.step for p in points], "<i8").tobytes(),
        np.array([p.value for p in points], "<f8").tobytes(),
        np.array([p.time_us for p in points], "<i8").tobytes(),
        np.array([p.epoch for p in points], "<f8").tobytes(),
    )


def _object_columns(points: list[Point], index: dict[SeriesRef, int]) -> ObjectColumns:
    return ObjectColumns(
        len(points),
        np.array([index[p.ref] for p in points], "<u4").tobytes(),
        np.array([p.step for p in points], "<i8").tobytes(),
        np.array([p.time_us for p in points], "<i8").tobytes(),
        [encode_payload(p.value) for p in points],
        np.array([p.epoch for p in points], "<f8").tobytes(),
    )


class Log:
    """An event-log partition: turns frames into records with ascending offsets."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._offsets = itertools.count()

    def append(self, frame: Frame) -> Record:
        offset = next(self._offsets)
        value = encode_envelope(
            received_us=RECEIVED_US + offset,
            digest=frame.digest,
            batch=encode_frame(frame),
        )
        return self.append_value(value, frame.run_id, offset)

    def append_value(
        self, value: bytes, run_id: str = "run", offset: int | None = None
    ) -> Record:
        at = next(self._offsets) if offset is None else offset
        position = RecordPosition("log", "data-ingestion", 0, at)
        record = Record(position, run_id.encode(), value, RECEIVED_US)
        self.records.append(record)
        return record


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


class Model:
    """A run as a dict per series: step -> point. The truth the store is held to."""

    def __init__(self) -> None:
        self.series: dict[SeriesRef, dict[int, Point]] = {}

    def apply(self, points: Sequence[Point], *, repeated: bool = False) -> None:
        for point in points:
            known = self.series.setdefault(point.ref, {})
            is_auto = point.step == AUTO_STEP
            if repeated and (is_auto or point.ref.kind == "log_records"):
                continue
            step = max(known, default=-1) + 1 if is_auto else point.step
            known[step] = Point(
                point.ref, step, point.value, point.time_us, point.epoch
            )

    def points(self, ref: SeriesRef) -> list[Point]:
        return [point for _, point in sorted(self.series[ref].items())]


def columns_of(points: Points) -> list[tuple[int, bytes, int, bytes]]:
    """Return points as comparable rows, floats by their bits."""
    return list(
        zip(
            points.steps.tolist(),
            [bits(value) for value in points.values],
            points.times_us.tolist(),
            [bits(epoch) for epoch in points.epochs],
            strict=True,
        )
    )


def object_columns_of(points: ObjectPoints) -> list[tuple[int, bytes, int, bytes]]:
    return list(
        zip(
            points.steps.tolist(),
            points.payloads,
            points.times_us.tolist(),
            [bits(epoch) for epoch in points.epochs],
            strict=True,
        )
    )


def expected_columns(points: Sequence[Point]) -> list[tuple[int, bytes, int, bytes]]:
    return [
        (
            point.step,
            bits(point.value)
            if point.ref.kind == METRIC
            else encode_payload(point.value),
            point.time_us,
            bits(point.epoch),
        )
        for point in points
    ]


def expected_summary(points: Sequence[Point]) -> Summary | None:
    """Summarise a metric's points the slow way."""
    if not points:
        return None
    nans = [p for p in points if math.isnan(p.value)]
    infs = [p for p in points if math.isinf(p.value)]
    real = [p for p in points if not math.isnan(p.value)]
    least = min(real, key=lambda p: (p.value, p.step), default=None)
    most = min(real, key=lambda p: (-p.value, p.step), default=None)
    bad = sorted(p.step for p in [*nans, *infs])
    first, last = points[0], points[-1]
    return Summary(
        count=len(points),
        first_step=first.step,
        last_step=last.step,
        first=first.value,
        last=last.value,
        min=math.nan if least is None else least.value,
        min_step=first.step if least is None else least.step,
        max=math.nan if most is None else most.value,
        max_step=first.step if most is None else most.step,
        sum=sum(p.value for p in real) if real else math.nan,
        nan_count=len(nans),
        inf_count=len(infs),
        first_non_finite_step=bad[0] if bad else None,
    )


def assert_same_summary(found: Summary | None, expected: Summary | None) -> None:
    if found is None or expected is None:
        assert found is expected
        return
    assert exact_part(found) == exact_part(expected)
    assert np.isclose(found.sum, expected.sum, rtol=1e-9, atol=1e-9, equal_nan=True)


def exact_part(summary: Summary) -> tuple[Any, ...]:
    return (
        summary.count,
        summary.first_step,
        summary.last_step,
        bits(summary.first),
        bits(summary.last),
        bits(summary.min) if not math.isnan(summary.min) else "nan",
        summary.min_step,
        bits(summary.max) if not math.isnan(summary.max) else "nan",
        summary.max_step,
        summary.nan_count,
        summary.inf_count,
        summary.first_non_finite_step,
    )


def assert_store_equals_model(store: Store, model: Model, run_id: str = "run") -> None:
    """Compare everything that can be read of the run with the model."""
    engine, series = store.engine, store.series
    run = engine.read(lambda tr: store.runs.get(tr, run_id))
    listed = engine.read(lambda tr: series.list(tr, run.number))
    found = {SeriesRef(s.kind, s.name, s.context_text): s for s in listed}
    assert found.keys() == model.series.keys()
    for ref, described in found.items():
        points = model.points(ref)
        read, iterated = _rows_of(store, run.number, described)
        assert read == iterated == expected_columns(points)
        summary = described.summary
        if ref.kind == METRIC:
            assert_same_summary(summary, expected_summary(points))
        else:
            stored = None if summary is None else (summary.count, summary.last_step)
            assert stored == ((len(points), points[-1].step) if points else None)


def _rows_of(store: Store, run: int, described: Series) -> tuple[list[Any], list[Any]]:
    engine, series, number = store.engine, store.series, described.number
    if described.kind == METRIC:
        points = engine.read(lambda tr: series.read_points(tr, run, number))
        pieces = series.iter_points(engine, run, number)
        return columns_of(points), [row for some in pieces for row in columns_of(some)]
    objects = engine.read(lambda tr: series.read_objects(tr, run, number))
    parts = series.iter_objects(engine, run, number)
    return (
        object_columns_of(objects),
        [row for some in parts for row in object_columns_of(some)],
    )

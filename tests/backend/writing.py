"""Fill a store as ingestion does: one record per call, by way of the real service."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from backend.bus.base import Record, RecordPosition
from backend.services.ingestion import apply_records
from backend.storage.factory import Store
from matyan_wire.batch import (
    AddTag,
    Batch,
    CreateRun,
    Event,
    PointColumns,
    SeriesRef,
    SetAttributes,
    SetProperties,
    encode_batch,
    encode_envelope,
    encode_payload,
)

START_US = 1_700_000_000_000_000
_offsets = itertools.count()


def write(
    store: Store,
    run_id: str,
    *events: Event,
    metrics: Mapping[SeriesRef, Sequence[float]] | None = None,
    at_us: int = START_US,
) -> None:
    """Apply one batch of events and metric values (steps from 0) to a run."""
    metrics = metrics or {}
    refs = list(metrics)
    series = np.repeat(
        np.arange(len(refs), dtype="<u4"), [len(metrics[ref]) for ref in refs]
    )
    values = np.array([v for ref in refs for v in metrics[ref]], dtype="<f8")
    steps = np.array([i for ref in refs for i in range(len(metrics[ref]))], dtype="<i8")
    times = np.full(len(values), at_us, dtype="<i8")
    points = PointColumns(
        len(values),
        series.tobytes(),
        steps.tobytes(),
        values.tobytes(),
        times.tobytes(),
    )
    batch = Batch(
        1,
        run_id,
        sent_us=at_us,
        series=refs,
        points=points if len(values) else None,
        events=list(events),
    )
    value = encode_envelope(received_us=at_us, digest=b"", batch=encode_batch(batch))
    position = RecordPosition("test", "data-ingestion", 0, next(_offsets))
    result = apply_records(store, [Record(position, run_id.encode(), value, at_us)])
    assert not result.poison


def make_run(
    store: Store,
    run_id: str,
    *,
    at_us: int = START_US,
    name: str | None = None,
    experiment: str | None = None,
    tags: Sequence[str] = (),
    params: Mapping[str, Any] | None = None,
    metrics: Mapping[SeriesRef, Sequence[float]] | None = None,
) -> None:
    """Create a run as the SDK does, with everything given."""
    write(
        store,
        run_id,
        CreateRun(at_us),
        SetProperties(name=name, experiment=experiment),
        *[AddTag(tag) for tag in tags],
        *[
            SetAttributes([([key], encode_payload(value))])
            for key, value in (params or {}).items()
        ],
        metrics=metrics,
        at_us=at_us,
    )

"""Batches and JSON frames of made-up but realistic points."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from backend.bus.base import Record, RecordPosition
from backend.bus.topics import INGESTION
from matyan_wire.batch import (
    BATCH_VERSION,
    METRIC,
    Batch,
    CreateRun,
    Event,
    FinishRun,
    PointColumns,
    Position,
    SeriesRef,
    SetAttributes,
    SetProperties,
    encode_batch,
    encode_envelope,
    encode_payload,
)

EPOCH_US = 1_790_000_000_000_000
STEP_US = 1_000


def series_refs(count: int) -> list[SeriesRef]:
    """Return `count` distinct metric series."""
    return [
        SeriesRef(METRIC, f"metric_{i}", '{"subset":"train"}') for i in range(count)
    ]


def loss_values(generator: np.random.Generator, count: int) -> np.ndarray:
    """Return `count` float32-born values like a noisy loss."""
    trend = 2.0 / np.sqrt(1.0 + np.arange(count))
    noise = generator.normal(scale=0.02, size=count)
    return (trend + noise).astype(np.float32).astype("<f8")


def point_columns(
    generator: np.random.Generator, *, series: int, first_step: int, steps: int
) -> PointColumns:
    """Return steps × series points as a training loop tracks them: step by step."""
    count = series * steps
    step_column = np.repeat(
        np.arange(first_step, first_step + steps, dtype="<i8"), series
    )
    jitter = generator.integers(0, STEP_US // 2, size=count)
    times = (
        EPOCH_US + step_column * STEP_US + np.tile(np.arange(series), steps) + jitter
    )
    return PointColumns(
        count=count,
        series=np.tile(np.arange(series, dtype="<u4"), steps).tobytes(),
        steps=step_column.tobytes(),
        values=loss_values(generator, count).tobytes(),
        times_us=np.sort(times).astype("<i8").tobytes(),
    )


def point_batch(
    run_id: str,
    generator: np.random.Generator,
    *,
    series: int,
    first_step: int,
    steps: int,
    seq: int,
    writer: str = "bench",
) -> bytes:
    """Return an encoded batch of steps × series points."""
    return encode_batch(
        Batch(
            BATCH_VERSION,
            run_id,
            position=Position(epoch=1, seq=seq, writer=writer),
            series=series_refs(series),
            points=point_columns(
                generator, series=series, first_step=first_step, steps=steps
            ),
        )
    )


def whole_run(
    run_id: str, generator: np.random.Generator, *, series: int, steps: int
) -> bytes:
    """Return one batch with a finished run: its attributes and all its points."""
    events: list[Event] = [
        CreateRun(client_time_us=EPOCH_US),
        SetProperties(experiment=f"experiment-{int(generator.integers(20))}"),
        SetAttributes(
            [
                (["hparams", "lr"], encode_payload(float(generator.random()))),
                (["hparams", "batch_size"], encode_payload(32)),
            ]
        ),
        FinishRun(client_time_us=EPOCH_US + steps * STEP_US),
    ]
    points = point_columns(generator, series=series, first_step=0, steps=steps)
    return encode_batch(
        Batch(
            BATCH_VERSION,
            run_id,
            series=series_refs(series),
            points=points,
            events=events,
        )
    )


def records(batches: Sequence[tuple[str, bytes]], *, first_offset: int) -> list[Record]:
    """Return event-log records as a worker would be given them."""
    return [
        Record(
            position=RecordPosition("bench", INGESTION, 0, first_offset + i),
            key=run_id.encode(),
            value=encode_envelope(
                received_us=EPOCH_US + first_offset + i, digest=b"", batch=batch
            ),
            time_us=EPOCH_US,
        )
        for i, (run_id, batch) in enumerate(batches)
    ]


def json_frame(
    run_id: str,
    generator: np.random.Generator,
    *,
    series: int,
    first_step: int,
    steps: int,
) -> str:
    """Return a frame of the JSON protocol with steps × series points."""
    values = loss_values(generator, series * steps)
    return json.dumps(
        [
            {
                "type": "log_metric",
                "run_id": run_id,
                "name": f"metric_{s}",
                "value": float(values[(step - first_step) * series + s]),
                "step": step,
                "epoch": None,
                "context": {"subset": "train"},
                "dtype": "float",
                "client_datetime": "2026-11-23T08:47:41.470650+00:00",
            }
            for step in range(first_step, first_step + steps)
            for s in range(series)
        ]
    )

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matyan_wire import batch as wire
from matyan_wire.batch_builder import BatchBuilder, unpack_column
from matyan_wire.split import Split

MAX_BYTES = 64 * 1024


def rows(batch: wire.Batch) -> tuple[list[Any], list[Any], list[Any]]:
    """Return points, objects and events of a batch, independent of its indexes."""
    points: list[Any] = []
    if batch.points is not None:
        p = batch.points
        points = list(
            zip(
                [batch.series[i] for i in unpack_column("I", p.series)],
                unpack_column("q", p.steps),
                unpack_column("d", p.values),
                unpack_column("q", p.times_us),
                [repr(e) for e in unpack_column("d", p.epochs)] or ["nan"] * p.count,
                strict=True,
            )
        )
    objects: list[Any] = []
    if batch.objects is not None:
        o = batch.objects
        objects = list(
            zip(
                [batch.series[i] for i in unpack_column("I", o.series)],
                unpack_column("q", o.steps),
                unpack_column("q", o.times_us),
                o.payloads,
                [repr(e) for e in unpack_column("d", o.epochs)] or ["nan"] * o.count,
                strict=True,
            )
        )
    events: list[Any] = []
    for event in batch.events:
        if isinstance(event, wire.SetAttributes):
            events.extend(event.assignments)
        else:
            events.append(event)
    return points, objects, events


def split(batch: wire.Batch, max_bytes: int = MAX_BYTES) -> list[wire.Batch]:
    records = list(Split(batch, max_bytes=max_bytes))
    assert all(len(record) <= max_bytes for record in records)
    return [wire.decode_batch(record) for record in records]


def make_batch(
    *, points: int, series: int, name_length: int, objects: int, payload: int
) -> wire.Batch:
    builder = BatchBuilder(run_id="r", sent_us=5)
    builder.events.append(wire.CreateRun(1))
    builder.events.append(wire.FinishRun(2))
    value = wire.encode_payload("x" * 20_000)
    builder.events.append(wire.SetAttributes([([str(i)], value) for i in range(4)]))
    for i in range(points):
        ref = wire.SeriesRef("metric", f"{i % series}".rjust(name_length, "é"))
        builder.add_point(
            builder.series_index(ref),
            step=i,
            value=i / 7,
            time_us=i * 10,
            epoch=1.5 if i % 3 else float("nan"),
        )
    for i in range(objects):
        builder.add_object(
            builder.series_index(wire.SeriesRef("texts", f"t{i % 2}")),
            step=i,
            payload=wire.encode_payload("y" * payload),
            time_us=wire.UNKNOWN_TIME,
            epoch=float("nan"),
        )
    batch = builder.build()
    assert batch is not None
    return batch


@given(
    points=st.integers(0, 5000),
    series=st.integers(1, 3000),
    name_length=st.integers(1, 100),
    objects=st.integers(0, 30),
    payload=st.integers(0, 30_000),
    positioned=st.booleans(),
)
def test_parts_say_what_the_batch_said(
    points: int,
    series: int,
    name_length: int,
    objects: int,
    payload: int,
    *,
    positioned: bool,
) -> None:
    batch = make_batch(
        points=points,
        series=series,
        name_length=name_length,
        objects=objects,
        payload=payload,
    )
    if positioned:
        batch.position = wire.Position(epoch=3, seq=9, writer="w")
    parts = split(batch)
    assert len(parts) > 1
    all_points, all_objects, all_events = rows(batch)
    split_rows = [rows(part) for part in parts]
    assert [p for part in split_rows for p in part[0]] == all_points
    assert [o for part in split_rows for o in part[1]] == all_objects
    # What finishes the run comes last.
    finish = wire.FinishRun(2)
    assert [e for part in split_rows for e in part[2]] == [
        *(event for event in all_events if event != finish),
        finish,
    ]
    assert parts[-1].events[-1] == finish
    assert all(part.run_id == "r" and part.sent_us == 5 for part in parts)


@given(points=st.integers(3000, 6000))
def test_parts_of_a_positioned_batch_are_numbered(points: int) -> None:
    batch = make_batch(points=points, series=5, name_length=3, objects=0, payload=0)
    batch.position = wire.Position(epoch=3, seq=9, writer="w")
    positions = [part.position for part in split(batch)]
    assert positions == [
        wire.Position(3, 9, part=i, last_part=i == len(positions) - 1, writer="w")
        for i in range(len(positions))
    ]


def test_parts_name_only_their_series() -> None:
    batch = make_batch(points=5000, series=5000, name_length=9, objects=0, payload=0)
    for part in split(batch):
        assert part.points is None or set(
            unpack_column("I", part.points.series)
        ) == set(range(len(part.series)))


def test_a_small_batch_is_one_record_as_it_came() -> None:
    batch = make_batch(points=3, series=1, name_length=1, objects=1, payload=1)
    encoded = wire.encode_batch(batch)
    assert list(Split(batch, encoded=encoded, max_bytes=10**6)) == [encoded]


def test_an_item_too_large_for_any_record_is_named_and_its_neighbours_kept() -> None:
    builder = BatchBuilder(run_id="r")
    builder.events.append(wire.SetAttributes([(["big"], bytes(MAX_BYTES))]))
    builder.events.append(wire.AddTag("kept"))
    ref = builder.series_index(wire.SeriesRef("texts", "t"))
    for step, size in enumerate([10, 8 * 1024 * 1024, 10]):
        builder.add_object(
            ref, step=step, payload=bytes(size), time_us=0, epoch=float("nan")
        )
    batch = builder.build()
    assert batch is not None
    result = Split(batch, max_bytes=MAX_BYTES)
    parts = [wire.decode_batch(record) for record in result]
    assert [event for part in parts for event in part.events] == [wire.AddTag("kept")]
    assert [row[1] for part in parts for row in rows(part)[1]] == [0, 2]
    assert [text.split(":")[0] for text in result.refused] == [
        "events[0]",
        "objects[1]",
    ]


def test_a_part_is_not_split_again() -> None:
    batch = make_batch(points=5000, series=1, name_length=1, objects=0, payload=0)
    batch.position = wire.Position(epoch=0, seq=1, part=1, writer="w")
    with pytest.raises(ValueError, match=r"a part of \d+ bytes; the limit is 65536"):
        Split(batch, max_bytes=MAX_BYTES)

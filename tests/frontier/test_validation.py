from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from frontier.validation import BatchError, validate_batch
from matyan_wire import batch as wire
from matyan_wire import limits
from matyan_wire.batch_builder import BatchBuilder


def make_batch() -> wire.Batch:
    builder = BatchBuilder(run_id="run")
    loss = builder.series_index(wire.SeriesRef("metric", "loss", '{"a":1}'))
    logs = builder.series_index(wire.SeriesRef("logs", "logs"))
    text = builder.series_index(wire.SeriesRef("texts", "t"))
    for step in (wire.AUTO_STEP, -1, 2**63 - 1):
        builder.add_point(loss, step=step, value=math.nan, time_us=0, epoch=0.5)
    for series, value in ((logs, "line"), (text, {"data": "x"})):
        builder.add_object(
            series,
            step=0,
            payload=wire.encode_payload(value),
            time_us=wire.UNKNOWN_TIME,
            epoch=math.nan,
        )
    builder.events.extend(
        [
            wire.CreateRun(1),
            wire.SetAttributes([(["a", "b"], wire.encode_payload({"c": [1]}))]),
            wire.DeleteAttributes([["a"]]),
            wire.SetProperties(name="n"),
            wire.AddTag("t"),
            wire.RemoveTag("t"),
            wire.BlobRef("d/a", "run/d/a"),
            wire.FinishRun(),
        ]
    )
    batch = builder.build()
    assert batch is not None
    batch.position = wire.Position(epoch=0, seq=1, writer="w")
    return batch


def test_a_batch_of_everything_is_valid() -> None:
    batch = make_batch()
    for sent_us in (wire.UNKNOWN_TIME, 0, 10**16, -(10**16)):
        batch.sent_us = sent_us
        validate_batch(batch, run_id="run")


@pytest.mark.parametrize(
    ("kind", "value", "is_taken"),
    [
        ("images", [{"caption": "a"}, {}], True),
        ("audios", [{}], True),
        ("texts", [{"data": "a"}], True),
        ("texts", [], False),
        ("texts", [{}, 1], False),
        ("figures", [{}], False),
        ("logs", ["a"], False),
    ],
)
def test_some_kinds_may_have_lists_of_objects(kind, value, is_taken) -> None:
    batch = make_batch()
    batch.series[2] = wire.SeriesRef(kind, "t")
    assert batch.objects is not None
    batch.objects.payloads[1] = wire.encode_payload(value)
    if is_taken:
        validate_batch(batch, run_id="run")
    else:
        with pytest.raises(BatchError, match=r"objects.payloads\[1\]: expected"):
            validate_batch(batch, run_id="run")


def nested(levels: int) -> bytes:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return wire.encode_payload(value)


def edit(**changes: Any) -> Callable[[wire.Batch], None]:
    """Return a function setting nested attributes: `points__count=3`."""

    def apply(batch: wire.Batch) -> None:
        for path, value in changes.items():
            *parents, name = path.split("__")
            target: Any = batch
            for parent in parents:
                target = getattr(target, parent)
            setattr(target, name, value)

    return apply


def series(index: int, *ref: str) -> Callable[[wire.Batch], None]:
    def apply(batch: wire.Batch) -> None:
        batch.series[index] = wire.SeriesRef(*ref)

    return apply


def event(value: Any) -> Callable[[wire.Batch], None]:
    return edit(events=[value])


def position(**fields: Any) -> Callable[[wire.Batch], None]:
    return edit(
        position=wire.Position(**{"epoch": 0, "seq": 1, "writer": "w", **fields})
    )


LONG = "x" * 5000


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (edit(version=2), "version: unknown version 2; known is 1"),
        (edit(run_id="other"), "run_id: is not the run"),
        (edit(sent_us=10**16 + 1), "sent_us: must be microseconds since the epoch"),
        (edit(sent_us=5 - 2**63), "sent_us: must be microseconds since the epoch"),
        (position(writer=""), "position.writer: must be 1 to 64"),
        (position(writer="w" * 65), "position.writer: must be 1 to 64"),
        (position(seq=0), "position.seq: must be 1 or more"),
        (position(epoch=-1), "position.epoch: must be 0 or more"),
        (position(part=-1), "position.part: must be 0 or more"),
        (series(0, "metrics", "a"), r"series\[0\].kind: unknown kind 'metrics'"),
        (series(1, "logs", ""), r"series\[1\].name: 0 bytes; must be 1 to 1024"),
        (series(0, "metric", "é" * 513), r"series\[0\].name: 1026 bytes"),
        (series(0, "metric", "a", '{"a": 1}'), r"series\[0\].context: is not an obj"),
        (series(0, "metric", "a", "[]"), r"series\[0\].context: is not an object"),
        (series(0, "metric", "a", LONG), r"series\[0\].context: 5000 bytes"),
        (edit(points__count=0), "points.count: must be 1 to 1000000, is 0"),
        (edit(points__count=-1), "points.count: must be 1 to 1000000, is -1"),
        (edit(points__count=10**7), "points.count: must be 1 to 1000000"),
        (edit(points__count=4), "points.series: 12 bytes for 4 rows; expected 16"),
        (edit(points__steps=b""), "points.steps: 0 bytes for 3 rows; expected 24"),
        (edit(points__values=bytes(23)), "points.values: 23 bytes for 3 rows"),
        (edit(points__times_us=bytes(25)), "points.times_us: 25 bytes for 3 rows"),
        (edit(points__epochs=bytes(8)), "points.epochs: 8 bytes for 3 rows"),
        (edit(series=[]), "points.series: index 0; the batch names 0 series"),
        (edit(points__series=b"\xff" * 12), "points.series: index 4294967295; the"),
        (edit(points__series=bytes(8) + b"\1\0\0\0"), "points.series: row 2 names a"),
        (edit(objects__series=bytes(8)), "objects.series: row 0 names a series of"),
        (edit(objects__payloads=[b"\xa0"]), "objects.payloads: 1 payloads for 2"),
        (
            edit(objects__payloads=[b"\x80", b"\x80"]),
            r"objects.payloads\[0\]: expected str, got dict",
        ),
        (
            edit(objects__payloads=[b"\xa0", b"\xa0"]),
            r"objects.payloads\[1\]: expected dict, got str",
        ),
        (
            edit(objects__payloads=[b"\xc1", b"\x80"]),
            r"objects.payloads\[0\]: not usable: MessagePack data is malformed",
        ),
        (
            edit(objects__payloads=[b"\xa0", b"\x91" * 10_000]),
            r"objects.payloads\[1\]: not usable",
        ),
        (
            edit(objects__payloads=[b"\xa0", nested(65)]),
            r"objects.payloads\[1\]: not usable: nests too deeply",
        ),
        (
            edit(objects__payloads=[bytes(limits.MAX_OBJECT_BYTES + 1), b"\x80"]),
            r"objects.payloads\[0\]: 7340033 bytes; the limit is 7340032",
        ),
        (
            event(wire.SetAttributes([([], b"\x01")])),
            r"events\[0\].assignments\[0\]: a",
        ),
        (event(wire.SetAttributes([(["a"], b"")])), r"assignments\[0\]: not usable"),
        (event(wire.SetAttributes([(["a"], nested(64))])), "nests too deeply"),
        (event(wire.DeleteAttributes([["a"], []])), r"events\[0\].paths\[1\]: a path"),
        (event(wire.AddTag("")), r"events\[0\].name: 0 bytes; must be 1 to 256"),
        (event(wire.RemoveTag("x" * 257)), r"events\[0\].name: 257 bytes"),
        (event(wire.SetProperties(name=LONG)), r"events\[0\].name: 5000 bytes"),
        (event(wire.SetProperties(experiment=LONG)), r"events\[0\].experiment: 5000"),
        (event(wire.BlobRef("../a", "k")), r"events\[0\].path: must not have empty"),
        (event(wire.BlobRef("a", "")), r"events\[0\].key: 0 bytes"),
        (event(wire.BlobRef("a", "k", LONG)), r"events\[0\].content_type: 5000"),
    ],
)
def test_what_cannot_be_stored_is_named(
    spoil: Callable[[wire.Batch], None], error: str
) -> None:
    batch = make_batch()
    spoil(batch)
    with pytest.raises(BatchError, match=error):
        validate_batch(batch, run_id="run")

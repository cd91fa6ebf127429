"""A run in signal handlers and finalizers: they run in the middle of its methods."""

from __future__ import annotations

from collections import defaultdict

import msgspec

from matyan_client import Run, attributes, writing
from matyan_client.journal import points, records, writer
from matyan_client.journal.points import PointReader
from matyan_client.journal.records import RecordReader
from matyan_wire.batch import SeriesRef
from tests.client.journal.interrupts import interrupted, places

NOBODY = "http://127.0.0.1:9"


def steps_by_series(run: Run) -> dict[str, list[int]]:
    path = run.delivery.journal
    definitions, names = RecordReader(path, writer.SERIES), {}
    while (record := definitions.take()) is not None:
        ref = msgspec.msgpack.decode(record.payload, type=SeriesRef)
        names[record.index + 1] = ref.name
    reader = PointReader(path)
    columns = reader.read(0, reader.find_end())
    steps = defaultdict(list)
    for number, step in zip(
        memoryview(columns.series).cast("I"),
        memoryview(columns.steps).cast("q"),
        strict=True,
    ):
        steps[names[number]].append(step)
    return steps


def test_a_series_begun_by_two_at_once_counts_its_steps_once(open_run):
    run = open_run(NOBODY)

    def attempt(at: int) -> bool:
        return interrupted(
            lambda: run.track(1.0, name=f"series {at}", context={"of": "main"}),
            lambda: run.track(2.0, name=f"series {at}", context={"of": "main"}),
            at=at,
            modules=(writing, points, records, writer),
        )

    tried = list(places(attempt))
    assert len(tried) > 200
    steps = steps_by_series(run)
    assert [sorted(steps[f"series {at}"]) for at in tried] == [[0, 1]] * len(tried)
    assert run.delivery.dropped == {}


def test_an_attribute_set_while_another_is(open_run):
    run = open_run(NOBODY)

    def attempt(at: int) -> bool:
        run["group"] = {"main": 0}
        fired = interrupted(
            lambda: run.set("group.main", at),
            lambda: run.set("group.handler", at),
            at=at,
            modules=(attributes, writing, records, writer),
        )
        expected = {"main": at, "handler": at} if fired else {"main": at}
        assert run["group"] == expected, at
        return fired

    assert len(list(places(attempt))) > 200
    assert run.delivery.dropped == {}

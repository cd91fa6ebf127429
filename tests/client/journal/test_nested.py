"""What a signal handler or a finalizer stores in the middle of a store."""

from __future__ import annotations

import itertools
import math
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from matyan_client.journal import mapping, points, records, writer
from matyan_client.journal.points import PointReader, SeriesState
from matyan_client.journal.records import RecordReader, RecordWriter
from matyan_client.journal.writer import (
    EVENTS,
    JournalEvent,
    JournalWriter,
    ObjectPoint,
)
from matyan_wire.batch import AUTO_STEP, AddTag, SeriesRef
from tests.client.journal.interrupts import interrupted, places

MODULES = (points, records, writer)
CAPACITY = 2048
MAIN, HANDLER = 1, 2

_decoder = msgspec.msgpack.Decoder(JournalEvent)


def journal_in(path: Path, *, capacity: int = CAPACITY) -> JournalWriter:
    path.mkdir(exist_ok=True)
    return JournalWriter(path, max_bytes=2**40, capacity=capacity)


def rows_of(journal: JournalWriter) -> list[tuple[int, int, float, int]]:
    """Return (series, step, value, time) of every point."""
    reader, rows, at = PointReader(journal.path), [], 0
    while at < journal.points.end:
        stop = min(reader.segment_end(at), journal.points.end)
        found = reader.read(at, stop)
        rows += zip(
            memoryview(found.series).cast("I"),
            memoryview(found.steps).cast("q"),
            memoryview(found.values).cast("d"),
            memoryview(found.times_us).cast("q"),
            strict=True,
        )
        at = stop
    return rows


def events_of(journal: JournalWriter) -> tuple[list[JournalEvent], int]:
    reader = RecordReader(journal.path, EVENTS)
    events = []
    while (record := reader.take()) is not None:
        events.append(_decoder.decode(record.payload))
    return events, reader.lost


@pytest.mark.parametrize("before", [1, CAPACITY], ids=["in a segment", "at its end"])
def test_a_point_in_the_middle_of_another_is_stored_behind_it(before, tmp_path):
    def attempt(at: int) -> bool:
        journal = journal_in(tmp_path / str(at))
        main, handler = (
            SeriesState(MAIN, counts=True),
            SeriesState(HANDLER, counts=True),
        )

        def track() -> None:
            journal.points.append(main, None, 1.0, math.nan, 10)

        def track_both() -> None:
            journal.points.append(handler, None, 2.0, math.nan, 20)
            journal.points.append(main, None, 1.0, math.nan, 10)

        for _ in range(before):
            track()
        fired = interrupted(track, track_both, at=at, modules=MODULES)
        track()
        expected = [(MAIN, step, 1.0, 10) for step in range(before + 2 + fired)]
        expected += [(HANDLER, 0, 2.0, 20)] * fired
        assert sorted(rows_of(journal)) == expected, at
        assert journal.refused() == {}
        journal.close(remove=True)
        return fired

    assert len(list(places(attempt))) > 50


@pytest.mark.parametrize("size", [10, 3000], ids=["in a segment", "larger than one"])
def test_an_event_in_the_middle_of_another_is_stored_behind_it(
    size, tmp_path, monkeypatch
):
    monkeypatch.setattr(records, "SEGMENT_BYTES", 1024)

    def attempt(at: int) -> bool:
        journal = journal_in(tmp_path / str(at))
        text = "x" * size
        journal.append_event(AddTag("before"))
        fired = interrupted(
            lambda: journal.append_event(AddTag(f"main {text}")),
            lambda: journal.append_event(AddTag(f"handler {text}")),
            at=at,
            modules=MODULES,
        )
        journal.append_event(AddTag("behind"))
        events, lost = events_of(journal)
        names = [event.name for event in events]
        expected = ["before", "behind", *[f"handler {text}"] * fired, f"main {text}"]
        assert sorted(names) == expected, at
        assert (names[-1], lost, journal.refused()) == ("behind", 0, {})
        journal.close(remove=True)
        return fired

    assert len(list(places(attempt))) > 100


def test_objects_in_the_middle_of_others_get_steps_of_their_own(tmp_path):
    def attempt(at: int) -> bool:
        journal = journal_in(tmp_path / str(at))
        series = SeriesState(MAIN, counts=True)

        def track() -> None:
            journal.append_object(series, None, math.nan, {"data": "x"})

        track()
        fired = interrupted(track, track, at=at, modules=MODULES)
        events, lost = events_of(journal)
        steps = [event.step for event in events if isinstance(event, ObjectPoint)]
        assert (steps, lost) == (list(range(2 + fired)), 0), at
        assert journal.accepted == len(steps)
        journal.close(remove=True)
        return fired

    assert len(list(places(attempt))) > 100


def test_series_defined_in_the_middle_of_a_definition_have_their_own_numbers(tmp_path):
    def attempt(at: int) -> bool:
        journal = journal_in(tmp_path / str(at))
        found: list[tuple[int, str]] = []

        def define(name: str) -> None:
            state = journal.define_series(SeriesRef("metric", name), counts=True)
            found.append((state.number, name))

        fired = interrupted(
            lambda: define("main"), lambda: define("handler"), at=at, modules=MODULES
        )
        define("behind")
        reader, stored = RecordReader(journal.path, writer.SERIES), []
        while (record := reader.take()) is not None:
            ref = msgspec.msgpack.decode(record.payload, type=SeriesRef)
            stored.append((record.index + 1, ref.name))
        assert (sorted(found), reader.lost) == (stored, 0), at
        journal.close(remove=True)
        return fired

    assert len(list(places(attempt))) > 100


@pytest.mark.parametrize("what", ["point", "event"])
def test_closing_in_the_middle_of_a_store_leaves_it_its_memory(what, tmp_path):
    def attempt(at: int) -> bool:
        journal = journal_in(tmp_path / str(at))
        series = SeriesState(MAIN, counts=True)
        store = {
            "point": lambda: journal.points.append(series, None, 1.0, math.nan, 1),
            "event": lambda: journal.append_event(AddTag("x")),
        }[what]
        store()
        fired = interrupted(store, journal.close, at=at, modules=MODULES)
        journal.close()
        return fired

    assert len(list(places(attempt))) > 20


def test_what_a_handler_gets_wrong_is_raised_there(tmp_path):
    journal = journal_in(tmp_path)
    series = SeriesState(MAIN, counts=True)
    raised: list[Exception] = []

    def wrong() -> None:
        for step, epoch in ((2**63, 0.0), (AUTO_STEP, 0.0), (0, "one")):
            try:
                journal.points.append(series, step, 1.0, epoch, 1)
            except (TypeError, ValueError) as error:
                raised.append(error)

    with journal.lock:
        journal.points._busy = True
        wrong()
        journal.points._busy = False
    journal.points.append(series, None, 1.0, math.nan, 1)
    texts = [str(error) for error in raised]
    assert [text.partition(" ")[2] for text in texts] == [
        "9223372036854775808 does not fit 64 bits",
        "-9223372036854775808 is reserved",
        "epoch is a number, not 'one'",
    ]
    assert rows_of(journal) == [(MAIN, 0, 1.0, 1)]


def test_objects_with_steps_beyond_64_bits_are_refused(tmp_path):
    journal = journal_in(tmp_path)
    series = SeriesState(MAIN, counts=True)
    with pytest.raises(ValueError, match="step 9223372036854775808 does not fit"):
        journal.append_object(series, 2**63, math.nan, {})
    assert journal.append_object(series, 2**63 - 1, math.nan, {})


def test_more_than_is_put_aside_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(mapping, "MAX_NESTED", 3)
    journal = journal_in(tmp_path)
    series = SeriesState(MAIN, counts=False)

    def handler() -> None:
        for number in range(5):
            journal.append_event(AddTag(f"handler {number}"))
            journal.points.append(series, number, 1.0, math.nan, 1)

    with journal.lock:
        journal.points._busy = journal._events._busy = True
        handler()
        journal.points._busy = journal._events._busy = False
    journal.append_event(AddTag("behind"))
    journal.points.append(series, 9, 1.0, math.nan, 1)
    events, lost = events_of(journal)
    assert sorted(event.name for event in events) == [
        "behind",
        "handler 0",
        "handler 1",
        "handler 2",
    ]
    assert lost == 0
    assert sorted(step for _, step, _, _ in rows_of(journal)) == [0, 1, 2, 9]
    assert journal.refused() == {"nested_full": 4}


def test_no_room_for_a_record_put_aside_is_counted(tmp_path):
    refused: list[OSError] = []
    log = RecordWriter(
        tmp_path,
        "events",
        budget=mapping.Budget(4096),
        lock=threading.RLock(),
        segment_bytes=4096,
        on_refused=refused.append,
    )
    appended: list[int] = []

    def encode() -> bytes:
        if not appended:
            appended.append(-1)
            appended.append(log.append(b"y" * 5000))
        return b"x"

    assert log.append_encoded(encode) == appended[1] + 1
    assert [error.args[1] for error in refused] == [
        "MATYAN_JOURNAL_MAX_BYTES is reached"
    ]
    assert log.append(b"z") == 2


def test_a_real_signal_handler_loses_nothing(tmp_path):
    journal = journal_in(tmp_path, capacity=4096)
    main, handler = SeriesState(MAIN, counts=True), SeriesState(HANDLER, counts=True)
    numbers, accepted = itertools.count(), []  # the handler may interrupt itself, too

    def store(who: str, series: SeriesState) -> None:
        name = f"{who} {next(numbers)}"
        journal.append_event(AddTag(name))
        journal.points.append(series, None, float(series.number), math.nan, 1)
        accepted.append(name)

    before = signal.signal(signal.SIGALRM, lambda *_: store("handler", handler))
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    try:
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            store("main", main)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    events, lost = events_of(journal)
    stored = Counter(name.partition(" ")[0] for name in accepted)
    assert stored["handler"] > 10
    assert sorted(event.name for event in events) == sorted(accepted)
    assert (lost, journal.refused()) == (0, {})
    rows = [(number, value, step) for number, step, value, _ in rows_of(journal)]
    assert sorted(rows) == [
        (number, float(number), step)
        for number, who in ((MAIN, "main"), (HANDLER, "handler"))
        for step in range(stored[who])
    ]

"""Ingestion: what becomes of each kind of record, one case at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np
import pytest
from typing_extensions import override

from backend.bus.base import Record
from backend.domain.runs import Run
from backend.errors import (
    InvalidInputError,
    LimitExceededError,
    MatyanError,
    StoreUnavailableError,
    TransactionTooOldError,
)
from backend.services.ingestion import ApplyResult, apply_records, read_durable
from backend.services.ingestion_batches import decode_record
from backend.services.reindex import reindex
from backend.services.runs import delete_run
from backend.services.search import search_runs
from backend.services.store_verify import verify_store
from backend.services.store_walk import Problem
from backend.storage import keyspace
from backend.storage.engine.base import Engine, Transaction
from backend.storage.factory import Store
from backend.storage.query.parser import compile_query
from backend.storage.repositories.run_state import get_run_state
from backend.storage.repositories.runs import MAX_TAGS
from matyan_wire.batch import (
    AUTO_STEP,
    UNKNOWN_TIME,
    AddTag,
    Batch,
    CreateRun,
    Envelope,
    Event,
    FinishRun,
    ObjectColumns,
    PointColumns,
    Position,
    SeriesRef,
    SetAttributes,
    SetProperties,
    encode_batch,
    encode_envelope,
    encode_payload,
)
from matyan_wire.limits import MAX_ATTRIBUTES_BYTES, MAX_POINTS_PER_BATCH
from tests.backend.storage.engines import CountingEngine, EngineAround
from tests.backend.storage.series_model import RECEIVED_US, Frame, Log, Point

T = TypeVar("T")

SECOND = 1_000_000
LOSS = SeriesRef("metric", "loss")
LOGS = SeriesRef("logs", "logs")
RECORDS = SeriesRef("log_records", "__log_records")


@pytest.fixture
def log() -> Log:
    return Log()


def run_of(store: Store, run_id: str = "run") -> Run:
    return store.engine.read(lambda tr: store.runs.get(tr, run_id))


def values_of(store: Store, ref: SeriesRef = LOSS, run_id: str = "run") -> Any:
    """Return {step: value} of a series, payloads decoded."""

    def read(tr: Any) -> Any:
        run = store.runs.get(tr, run_id)
        found = store.series.find(
            tr, run.number, kind=ref.kind, name=ref.name, context_text=ref.context
        )
        assert found is not None
        if ref.kind == "metric":
            points = store.series.read_points(tr, run.number, found.number)
            return dict(zip(points.steps.tolist(), points.values.tolist(), strict=True))
        objects = store.series.read_objects(tr, run.number, found.number)
        payloads = [msgspec.msgpack.decode(payload) for payload in objects.payloads]
        return dict(zip(objects.steps.tolist(), payloads, strict=True))

    return store.engine.read(read)


def lines(*texts: str, first: int = 0) -> list[Point]:
    return [Point(LOGS, first + step, text) for step, text in enumerate(texts)]


def send(store: Store, log: Log, *frames: Frame) -> ApplyResult:
    return apply_records(store, [log.append(frame) for frame in frames])


# --- order and repetition ------------------------------------------------------------


def test_points_before_any_opening_create_the_run(store: Store, log: Log) -> None:
    result = send(store, log, Frame([Point(LOSS, 3, 1.5)]))
    assert (result.applied, result.points) == (1, 1)
    assert values_of(store) == {3: 1.5}
    run = run_of(store)
    assert (run.active, run.name) == (True, "Run: run")
    assert run.created_us == RECEIVED_US


@pytest.mark.parametrize("clock_us", [0, -3600 * SECOND, 40 * SECOND])
def test_run_delivered_late_keeps_its_times(
    store: Store, log: Log, clock_us: int
) -> None:
    # Opened an hour ago and over ten minutes later, while no server could be reached.
    sent = RECEIVED_US + clock_us
    opened, ended = sent - 3600 * SECOND, sent - 3000 * SECOND
    frame = Frame(
        [Point(LOSS, 0, 1.0)], [CreateRun(opened), FinishRun(ended)], sent_us=sent
    )
    send(store, log, frame)
    run = run_of(store)
    assert run.created_us == run.number == RECEIVED_US - 3600 * SECOND
    assert run.finished_us == RECEIVED_US - 3000 * SECOND
    assert (run.clock_offset_us, run.resumed_count) == (-clock_us, 0)


@pytest.mark.parametrize("ahead_us", [SECOND, 3600 * SECOND])
def test_run_is_never_created_after_it_was_heard_of(
    store: Store, log: Log, ahead_us: int
) -> None:
    opening = CreateRun(RECEIVED_US + ahead_us)
    send(store, log, Frame(events=[opening], sent_us=RECEIVED_US))
    assert run_of(store).created_us == RECEIVED_US


def test_opening_behind_points_tells_the_creation(store: Store, log: Log) -> None:
    opened = RECEIVED_US - 3600 * SECOND
    send(store, log, Frame([Point(LOSS, 0, 1.0)], sent_us=RECEIVED_US))
    frame = Frame(events=[CreateRun(opened)], sent_us=RECEIVED_US)
    send(store, log, frame, frame)
    run = run_of(store)
    assert (run.created_us, run.number) == (opened, RECEIVED_US)
    later = CreateRun(RECEIVED_US - 60 * SECOND)
    send(store, log, Frame(events=[later], sent_us=RECEIVED_US))
    assert run_of(store).created_us == opened
    for bound, found in ((opened + SECOND, ["run"]), (opened - SECOND, [])):
        query = f"run.created_at < {bound / 1e6}"
        steps = search_runs(store, compile_query(query), now_us=RECEIVED_US)
        assert [m.run.run_id for step in steps for m in step.matches] == found
    problems: list[Problem] = []
    verify_store(store.engine, on_problem=problems.append)
    assert problems == []
    report = reindex(store)
    assert (report["missing"], report["stale"]) == (0, 0)


def test_points_after_the_end_are_stored_and_sealed(store: Store, log: Log) -> None:
    send(store, log, Frame([Point(LOSS, 0, 1.0)], [CreateRun(1), FinishRun(2)]))
    result = send(store, log, Frame([Point(LOSS, 1, 2.0)]))
    assert (result.points, result.sealed_points) == (1, 1)
    assert values_of(store) == {0: 1.0, 1: 2.0}
    assert not run_of(store).active


def test_events_come_before_points_and_the_end_after(store: Store, log: Log) -> None:
    events: list[Event] = [
        FinishRun(RECEIVED_US),
        CreateRun(5),
        SetProperties(name="n", experiment="e"),
        AddTag("t"),
        SetAttributes([(["hparams"], encode_payload({"lr": 1}))]),
    ]
    send(store, log, Frame([Point(LOSS, 0, 1.0)], events))
    run = run_of(store)
    attributes = store.engine.read(lambda tr: store.attributes.get(tr, run.number))
    assert (run.active, run.name, len(run.tag_ids)) == (False, "n", 1)
    assert run.experiment_id is not None
    assert attributes == {"hparams": {"lr": 1}}


def test_a_record_delivered_again_is_skipped(store: Store, log: Log) -> None:
    record = log.append(Frame([Point(LOSS, AUTO_STEP, 1.0)]))
    first = apply_records(store, [record, record])
    second = apply_records(store, [record])
    assert (first.applied, first.skipped, second.skipped) == (1, 1, 1)
    assert values_of(store) == {0: 1.0}


def test_a_frame_sent_again_by_a_writer_is_skipped(store: Store, log: Log) -> None:
    frame = Frame([Point(LOSS, AUTO_STEP, 1.0)], position=Position(1, 1, writer="w"))
    result = send(store, log, frame, frame)
    assert (result.applied, result.skipped) == (1, 1)
    assert values_of(store) == {0: 1.0}


def test_a_stale_epoch_is_skipped_and_a_newer_one_taken(store: Store, log: Log) -> None:
    def frame(epoch: int, seq: int, step: int) -> Frame:
        position = Position(epoch, seq, writer="w")
        return Frame([Point(LOSS, step, float(step))], position=position)

    result = send(store, log, frame(2, 1, 0), frame(1, 9, 1), frame(3, 1, 2))
    assert (result.applied, result.skipped) == (2, 1)
    assert values_of(store) == {0: 0.0, 2: 2.0}


def test_writers_of_one_run_do_not_hinder_each_other(store: Store, log: Log) -> None:
    frames = [
        Frame([Point(LOSS, step, 1.0)], position=Position(1, 1, writer=writer))
        for step, writer in enumerate(("a", "b"))
    ]
    assert send(store, log, *frames).applied == 2


def test_of_a_repeated_frame_only_what_is_safe_is_applied(
    store: Store, log: Log
) -> None:
    frame = Frame(
        [
            Point(LOSS, AUTO_STEP, 1.0),
            Point(LOSS, 7, 2.0),
            Point(RECORDS, AUTO_STEP, {"message": "m"}),
        ],
        digest=b"d" * 16,
    )
    result = send(store, log, frame, frame)
    assert result.applied == 2
    assert values_of(store) == {0: 1.0, 7: 2.0}
    assert values_of(store, RECORDS) == {0: {"message": "m"}}


def test_steps_left_to_the_store_follow_the_greatest(store: Store, log: Log) -> None:
    def auto(value: float) -> Point:
        return Point(LOSS, AUTO_STEP, value)

    send(store, log, Frame([auto(0.0), Point(LOSS, 10, 1.0), auto(2.0)]))
    send(store, log, Frame([Point(LOSS, 4, 3.0), auto(4.0)]))
    store.series.seal(store.engine, run_of(store).number)
    send(store, log, Frame([auto(5.0)]))
    # Another process knows nothing of what this one remembers.
    send(Store(store.engine), log, Frame([auto(6.0)]))
    send(store, log, Frame([auto(7.0)]))
    assert values_of(store) == {
        0: 0.0,
        4: 3.0,
        10: 1.0,
        11: 2.0,
        12: 4.0,
        13: 5.0,
        14: 6.0,
        15: 7.0,
    }


def test_no_step_is_left_after_the_greatest_there_is(store: Store, log: Log) -> None:
    send(store, log, Frame([Point(LOSS, 2**63 - 1, 1.0)]))
    result = send(store, log, Frame([Point(LOSS, AUTO_STEP, 2.0)]))
    ((_, error),) = result.poison
    assert isinstance(error, LimitExceededError)
    assert values_of(store) == {2**63 - 1: 1.0}


def test_a_point_without_a_time_takes_that_of_its_receipt(
    store: Store, log: Log
) -> None:
    send(store, log, Frame([Point(LOSS, 0, 1.0, UNKNOWN_TIME), Point(LOSS, 1, 1.0, 5)]))
    run = run_of(store)
    points = store.engine.read(lambda tr: store.series.read_points(tr, run.number, 0))
    assert points.times_us.tolist() == [RECEIVED_US, 5]


# --- terminal lines ------------------------------------------------------------------


def test_lines_of_a_resumed_run_go_after_the_old_ones(store: Store, log: Log) -> None:
    opening, again = Frame(events=[CreateRun(1)]), Frame(events=[CreateRun(2)])
    send(store, log, opening, Frame(lines("a", "b")))
    send(store, log, again, again, Frame(lines("c")), again, Frame(lines("d", first=1)))
    assert values_of(store, LOGS) == {0: "a", 1: "b", 2: "c", 3: "d"}
    assert run_of(store).resumed_count == 1


def test_a_resume_in_the_same_transaction_sees_its_lines(
    store: Store, log: Log
) -> None:
    send(
        store,
        log,
        Frame(lines("a", "b"), [CreateRun(1)]),
        Frame(lines("c"), [CreateRun(2)]),
    )
    assert values_of(store, LOGS) == {0: "a", 1: "b", 2: "c"}


def test_an_opening_of_unknown_time_counts_once_per_frame(
    store: Store, log: Log
) -> None:
    frame = Frame(lines("b"), [CreateRun(UNKNOWN_TIME)], digest=b"2" * 16)
    send(store, log, Frame(lines("a"), [CreateRun(1)]))
    send(store, log, frame, frame)
    assert values_of(store, LOGS) == {0: "a", 1: "b"}


def writer_lines(writer: str, seq: int, *texts: str, first: int = 0) -> Frame:
    opening: list[Event] = [CreateRun(ord(writer))]
    position = Position(1, seq, writer=writer)
    events = opening if seq == 1 else []
    return Frame(lines(*texts, first=first), events, position)


def test_a_writer_may_change_its_own_lines(store: Store, log: Log) -> None:
    send(store, log, writer_lines("a", 1, "10 %", "x"))
    send(store, log, writer_lines("a", 2, "90 %", first=0))
    send(store, log, writer_lines("a", 3, "y", first=5))
    assert values_of(store, LOGS) == {0: "90 %", 1: "x", 5: "y"}


def test_lines_of_writers_at_the_same_time_do_not_meet(store: Store, log: Log) -> None:
    send(store, log, writer_lines("a", 1, "a0", "a1"), writer_lines("b", 1, "b0"))
    send(store, log, writer_lines("b", 2, "b1", first=1))
    # What the first process had still to send comes after the second has begun.
    send(store, log, writer_lines("a", 2, "a2", "a3", first=2))
    send(store, log, writer_lines("a", 2, "a2", "a3", first=2))
    send(store, log, writer_lines("b", 3, "b2", first=2))
    texts = values_of(store, LOGS)
    assert list(texts.values()) == ["a0", "a1", "b0", "b1", "a2", "a3", "b2"]


# --- the durable watermark -----------------------------------------------------------


def test_the_watermark_is_the_last_whole_batch(store: Store, log: Log) -> None:
    def watermark() -> Position | None:
        number = run_of(store).number
        return store.engine.read(lambda tr: read_durable(tr, number, "w"))

    send(store, log, Frame([Point(LOSS, 0, 1.0)]))
    assert watermark() is None
    first = Position(1, 1, writer="w")
    send(store, log, Frame(position=first))
    assert watermark() == first
    send(store, log, Frame(position=Position(1, 2, 0, last_part=False, writer="w")))
    assert watermark() == first
    last = Position(1, 2, 1, writer="w")
    send(store, log, Frame(position=last))
    assert watermark() == last


# --- deleted runs --------------------------------------------------------------------


def test_records_of_a_deleted_run_are_dropped(store: Store, log: Log) -> None:
    send(store, log, Frame([Point(LOSS, 0, 1.0)]))
    delete_run(store, run_id="run", now_us=RECEIVED_US)
    result = send(store, log, Frame([Point(LOSS, 1, 1.0)]), Frame(run_id="other"))
    assert (result.dropped, result.applied, result.points) == (1, 1, 0)


def test_a_run_made_again_starts_its_own_dictionary(store: Store, log: Log) -> None:
    other = SeriesRef("metric", "other")
    send(store, log, Frame([Point(other, 0, 1.0), Point(LOSS, 0, 1.0)]))
    delete_run(store, run_id="run", now_us=RECEIVED_US)
    store.engine.transact(lambda tr: store.runs.clear_tombstone(tr, "run"))
    send(store, log, Frame([Point(LOSS, 5, 2.0)]))
    assert values_of(store) == {5: 2.0}
    run = run_of(store)
    listed = store.engine.read(lambda tr: store.series.list(tr, run.number))
    assert [series.name for series in listed] == ["loss"]


def test_sealing_a_deleted_run_writes_nothing(store: Store, log: Log) -> None:
    send(store, log, Frame([Point(LOSS, 0, 1.0)]))
    run = run_of(store)
    store.engine.transact(lambda tr: tr.clear(keyspace.pack_run(run.number)))
    assert store.series.seal(store.engine, run.number) == 0
    begin, end = keyspace.run_range(keyspace.Subspace.CHUNK, run.number)
    assert store.engine.read(lambda tr: tr.get_range(begin, end)) == []


# --- poison --------------------------------------------------------------------------


def metric_batch(**changes: Any) -> Batch:
    """A batch of two good points, with fields of it or of its columns replaced."""
    columns: dict[str, Any] = {
        "count": 2,
        "index": np.zeros(2, "<u4").tobytes(),
        "steps": np.arange(2).tobytes(),
        "values": np.zeros(2).tobytes(),
        "times_us": np.zeros(2, "<i8").tobytes(),
        "epochs": b"",
    }
    columns |= {name: changes.pop(name) for name in list(changes) if name in columns}
    fields = {"version": 1, "run_id": "run", "series": [LOSS], **changes}
    return Batch(**fields, points=PointColumns(*columns.values()))


def object_batch(payloads: Sequence[bytes]) -> Batch:
    columns = ObjectColumns(
        1,
        np.zeros(1, "<u4").tobytes(),
        np.zeros(1, "<i8").tobytes(),
        np.zeros(1, "<i8").tobytes(),
        list(payloads),
    )
    return Batch(1, "run", series=[LOGS], objects=columns)


BAD_BATCHES: dict[str, tuple[Batch, str]] = {
    "version": (metric_batch(version=2), "batch.version"),
    "run id": (metric_batch(run_id="a/b"), "batch.run_id"),
    "kind": (metric_batch(series=[SeriesRef("video", "x")]), "kind"),
    "empty name": (metric_batch(series=[SeriesRef("metric", "")]), "series name"),
    "long name": (
        metric_batch(series=[SeriesRef("metric", "x" * 1025)]),
        "series name",
    ),
    "context": (metric_batch(series=[SeriesRef("metric", "x", "[1]")]), "JSON object"),
    "no JSON": (metric_batch(series=[SeriesRef("metric", "x", "{")]), "series.context"),
    "long context": (
        metric_batch(series=[SeriesRef("metric", "x", '{"a":"%s"}' % ("x" * 4096))]),
        "series context",
    ),
    "steps": (metric_batch(steps=b"1234567"), "points.steps"),
    "values": (metric_batch(values=b""), "points.values"),
    "epochs": (metric_batch(epochs=b"1"), "points.epochs"),
    "count": (metric_batch(count=MAX_POINTS_PER_BATCH + 1), "points.count"),
    "negative count": (metric_batch(count=-1), "points.count"),
    "index": (metric_batch(index=b"\x01\x00\x00\x00" * 2), "points.series"),
    "objects as points": (metric_batch(series=[LOGS]), "kind"),
    "payload count": (object_batch([]), "objects.payloads"),
    "payload": (object_batch([b"\xc1"]), "objects.payloads"),
    "large payload": (object_batch([bytes(7 * 1024 * 1024 + 1)]), "object"),
    "writer": (metric_batch(position=Position(1, 1)), "batch.position"),
    "seq": (metric_batch(position=Position(1, 0, writer="w")), "batch.position"),
}


@pytest.mark.parametrize("name", BAD_BATCHES)
def test_a_record_that_cannot_be_applied_is_named_and_its_neighbours_kept(
    store: Store, log: Log, name: str
) -> None:
    batch, reason = BAD_BATCHES[name]
    value = encode_envelope(received_us=1, digest=b"", batch=encode_batch(batch))
    records = [
        log.append(Frame([Point(LOSS, 0, 1.0)])),
        log.append_value(value),
        log.append(Frame([Point(LOSS, 1, 2.0)])),
    ]
    result = apply_records(store, records)
    ((record, error),) = result.poison
    assert record is records[1]
    assert isinstance(error, InvalidInputError)
    assert reason in str(error)
    assert values_of(store) == {0: 1.0, 1: 2.0}


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xc1",
        b"not an envelope",
        msgspec.msgpack.encode(
            Envelope(9, 1, b"", msgspec.Raw(encode_batch(Batch(1, "run"))))
        ),
        msgspec.msgpack.encode(Envelope(1, 1, b"", msgspec.Raw(b"\x01"))),
    ],
)
def test_a_record_that_is_no_envelope_is_named(
    store: Store, log: Log, value: bytes
) -> None:
    result = apply_records(store, [log.append_value(value)])
    ((_, error),) = result.poison
    assert isinstance(error, InvalidInputError)


def durable_of(store: Store, writer: str) -> Position | None:
    number = run_of(store).number
    return store.engine.read(lambda tr: read_durable(tr, number, writer))


def apply_all(store: Store, records: Sequence[Record]) -> tuple[list[Any], int]:
    """Apply records as the loop does; return the poison and how many turns it took."""
    poison, turns = [], 0
    rest = list(records)
    while rest:
        result = apply_records(store, rest)
        poison += result.poison
        rest = result.rest
        turns += 1
    return poison, turns


def attributes_of(store: Store, run_id: str = "run") -> dict[str, Any]:
    number = run_of(store, run_id).number
    return store.engine.read(lambda tr: store.attributes.get(tr, number))


def assignment(name: str, value: Any) -> SetAttributes:
    return SetAttributes([([name], encode_payload(value))])


def test_events_that_cannot_be_applied_cost_themselves_only(
    store: Store, log: Log
) -> None:
    good = assignment("b", 1)
    bad = SetAttributes([(["a"], b"\xc1")])
    long_name = SetProperties(name="x" * 2000)
    records = [
        log.append(frame)
        for frame in (
            Frame([Point(LOSS, 0, 1.0)]),
            Frame([Point(LOSS, 1, 1.0)], [bad, good, long_name]),
            Frame([Point(LOSS, 2, 1.0)], run_id="other"),
            Frame([Point(LOSS, 3, 1.0)]),
        )
    ]
    poison, _ = apply_all(store, records)
    assert values_of(store) == {0: 1.0, 1: 1.0, 3: 1.0}
    assert values_of(store, run_id="other") == {2: 1.0}
    assert attributes_of(store) == {"b": 1}
    ((record, error),) = poison
    batch = decode_record(record).batch
    assert batch.events == [bad, long_name]
    assert not batch.points
    assert not batch.series
    assert record.position == records[1].position
    assert error.fields["refused"] == 2
    assert "Over the limit" in str(error)


def test_many_refused_events_of_a_frame_are_few_dead_letters(
    store: Store, log: Log
) -> None:
    """Each used to abort the frame and begin it again: 1,500 turns here."""
    tags: list[Event] = [AddTag(f"t{i}") for i in range(MAX_TAGS + 1_500)]
    position = Position(1, 1, writer="w")
    record = log.append(Frame([Point(LOSS, 0, 1.0)], [CreateRun(1), *tags], position))
    poison, turns = apply_all(store, [record])
    assert turns <= 4
    refused = [e for each, _ in poison for e in decode_record(each).batch.events]
    assert refused == tags[MAX_TAGS:]
    assert len(run_of(store).tag_ids) == MAX_TAGS
    assert values_of(store) == {0: 1.0}


def test_the_position_does_not_advance_before_refused_events_are_set_aside(
    store: Store, log: Log
) -> None:
    good = assignment("a", 1)
    events = [CreateRun(1), good, SetProperties(name="x" * 2000), AddTag("t")]
    record = log.append(Frame([], events, Position(1, 1, writer="w")))
    for _ in range(2):
        result = apply_records(store, [record])
        assert (result.applied, len(result.poison), len(result.rest)) == (0, 1, 1)
        assert durable_of(store, "w") is None
    assert apply_records(store, result.rest).applied == 1
    assert apply_records(store, [record]).skipped == 1
    assert (attributes_of(store), len(run_of(store).tag_ids)) == ({"a": 1}, 1)


def test_a_frame_of_very_many_assignments_is_applied(store: Store, log: Log) -> None:
    """Each used to rewrite all: 2,000 were too large, 4,500 too slow, for ever."""
    count = 10_000
    events: list[Event] = [CreateRun(1), *[AddTag(f"t{i}") for i in range(300)]]
    events += [assignment(f"key_{i}", i * 0.731) for i in range(count)]
    position = Position(1, 1, writer="w")
    records = [
        log.append(Frame([Point(LOSS, 0, 1.0)], events, position)),
        log.append(Frame([Point(LOSS, 0, 1.0)], [CreateRun(2)], run_id="neighbour")),
    ]
    result = apply_records(store, records)
    assert (result.applied, result.poison) == (2, [])
    assert attributes_of(store) == {f"key_{i}": i * 0.731 for i in range(count)}
    assert len(run_of(store).tag_ids) == 300
    assert values_of(store, run_id="neighbour") == {0: 1.0}


def test_attributes_beyond_their_limit_are_refused_one_by_one(
    store: Store, log: Log
) -> None:
    large = "x" * (MAX_ATTRIBUTES_BYTES // 2)
    events: list[Event] = [
        assignment("a", large),
        assignment("b", large),
        assignment("c", 3),
        assignment("a", 1),
        assignment("b", large),
    ]
    poison, _ = apply_all(store, [log.append(Frame([Point(LOSS, 0, 1.0)], events))])
    assert [decode_record(record).batch.events for record, _ in poison] == [events[1:2]]
    assert attributes_of(store) == {"a": 1, "c": 3, "b": large}
    assert values_of(store) == {0: 1.0}


def test_trees_of_many_runs_are_spread_over_transactions(
    store: Store, log: Log
) -> None:
    noise = np.random.default_rng(0).bytes
    trees = {f"r{i}": noise(700_000) for i in range(18)}
    for run_id, tree in trees.items():
        send(store, log, Frame([], [assignment("noise", tree)], run_id=run_id))
    records = [
        log.append(Frame([], [assignment("b", 1)], run_id=run_id)) for run_id in trees
    ]
    engine = CountingEngine(store.engine)
    assert apply_records(Store(engine), records).applied == len(trees)
    assert 2 <= engine.transactions <= 6
    for run_id, tree in trees.items():
        assert attributes_of(store, run_id) == {"noise": tree, "b": 1}


class LateError(Exception):
    """Aborts a transaction; no engine tries again for it."""


class SlowEngine(EngineAround):
    """Finds transactions of more than so many writes too old, like a slow cluster.

    Args:
        inner: The engine.
        most_bytes: What it can do in time.
        fails: Whether nothing at all can be read in time any more.
    """

    def __init__(self, inner: Engine, most_bytes: int, *, fails: bool = False) -> None:
        super().__init__(inner)
        self._most_bytes = most_bytes
        self._fails = fails

    @override
    def transact(self, fn: Callable[[Transaction], T], *, timeout_s: float = 30.0) -> T:
        def slow(tr: Transaction) -> T:
            result = fn(tr)
            if tr.approximate_size() > self._most_bytes:
                raise LateError
            return result

        try:
            return super().transact(slow, timeout_s=timeout_s)
        except LateError:  # as if the engine had tried again for all its time
            raise TransactionTooOldError from None

    @override
    def check(self) -> None:
        if self._fails:
            raise StoreUnavailableError(reason="slow")


def test_what_is_too_slow_together_is_applied_in_smaller_transactions(
    store: Store, log: Log
) -> None:
    tags: list[Event] = [AddTag(f"t{i}") for i in range(250)]
    frames = [
        Frame([Point(LOSS, 0, 1.0)], [CreateRun(1), *tags], run_id=run_id)
        for run_id in "abc"
    ]
    slow = Store(SlowEngine(store.engine, most_bytes=60_000))
    result = apply_records(slow, [log.append(frame) for frame in frames])
    assert (result.applied, result.poison) == (3, [])
    for run_id in "abc":
        assert len(run_of(store, run_id).tag_ids) == 250
        assert values_of(store, run_id=run_id) == {0: 1.0}


def test_a_record_that_stays_too_slow_becomes_poison(store: Store, log: Log) -> None:
    large = Frame([], [assignment("a", np.random.default_rng(0).bytes(200_000))])
    frames = [large, Frame([Point(LOSS, 0, 1.0)], run_id="b")]
    slow = Store(SlowEngine(store.engine, most_bytes=60_000))
    result = apply_records(slow, [log.append(frame) for frame in frames])
    ((_, error),) = result.poison
    assert isinstance(error, TransactionTooOldError)
    assert apply_records(slow, result.rest).applied == 1
    assert values_of(store, run_id="b") == {0: 1.0}


def test_a_store_too_slow_for_anything_is_not_the_records_fault(
    store: Store, log: Log
) -> None:
    slow = Store(SlowEngine(store.engine, most_bytes=0, fails=True))
    with pytest.raises(StoreUnavailableError):
        apply_records(slow, [log.append(Frame([Point(LOSS, 0, 1.0)]))])


def test_what_stands_behind_poison_waits_until_it_is_set_aside(
    store: Store, log: Log
) -> None:
    """Applied at once, it would make the poison look applied when it comes again."""
    bad = SetAttributes([(["a"], b"\xc1")])
    records = [
        log.append(frame)
        for frame in (Frame([Point(LOSS, 1, 1.0)], [bad]), Frame([Point(LOSS, 2, 1.0)]))
    ]
    for _ in range(2):
        result = apply_records(store, records)
        assert (result.applied, result.skipped) == (0, 0)
        assert len(result.poison) == 1
        assert [r.position for r in result.rest] == [r.position for r in records]
    result = apply_records(store, result.rest)
    assert (result.applied, result.poison, result.rest) == (2, [], [])
    assert values_of(store) == {1: 1.0, 2: 1.0}


def test_damage_in_one_run_does_not_stop_the_others(store: Store, log: Log) -> None:
    send(store, log, Frame([Point(LOSS, 0, 1.0)]))
    number = run_of(store).number
    key = keyspace.pack_run_state(number)
    store.engine.transact(lambda tr: tr.set(key, b"\xc1"))
    result = send(
        store,
        log,
        Frame([Point(LOSS, 1, 1.0)]),
        Frame([Point(LOSS, 1, 1.0)], run_id="b"),
    )
    ((_, error),) = result.poison
    assert isinstance(error, MatyanError)
    assert error.fields["key"] == key.hex()
    assert apply_records(store, result.rest).applied == 1
    assert values_of(store, run_id="b") == {1: 1.0}


def test_a_run_that_cannot_be_sealed_does_not_stop_the_others(
    store: Store, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    send(store, log, Frame([Point(LOSS, 0, 1.0)], [FinishRun()]))
    key = keyspace.pack_chunk(run_of(store).number, 0, 0, 0)
    store.engine.transact(lambda tr: tr.set(key, b"rotten"))
    result = send(
        store,
        log,
        Frame([Point(LOSS, 0, 2.0)]),
        Frame([Point(LOSS, 1, 1.0)], run_id="b"),
    )
    assert (result.applied, result.poison) == (2, [])
    assert [record.message for record in caplog.records] == ["ingestion.seal_failed"]
    assert values_of(store, run_id="b") == {1: 1.0}


# --- size ----------------------------------------------------------------------------


def wide_record(log: Log, *, series: int, first: int, per_series: int) -> Record:
    count = series * per_series
    steps = np.repeat(np.arange(first, first + per_series), series)
    batch = Batch(
        1,
        "run",
        series=[SeriesRef("metric", f"m{i}") for i in range(series)],
        points=PointColumns(
            count,
            np.tile(np.arange(series, dtype="<u4"), per_series).tobytes(),
            steps.tobytes(),
            (steps / 3).tobytes(),
            np.full(count, RECEIVED_US).tobytes(),
        ),
    )
    return log.append_value(
        encode_envelope(received_us=RECEIVED_US, digest=b"", batch=encode_batch(batch))
    )


def test_ten_thousand_series_in_one_batch(store: Store, log: Log) -> None:
    records = [
        wide_record(log, series=10_000, first=first, per_series=1) for first in (0, 1)
    ]
    result = apply_records(store, records)
    assert (result.applied, result.points, result.poison) == (2, 20_000, [])
    run = run_of(store)
    assert store.series.seal(store.engine, run.number, final=True) == 20_000
    listed = store.engine.read(lambda tr: store.series.list(tr, run.number))
    assert len(listed) == 10_000
    assert {s.summary.last for s in listed if s.summary is not None} == {1 / 3}
    assert [series.name for series in listed] == [f"m{i}" for i in range(10_000)]


def test_a_million_points_in_one_series(store: Store, log: Log) -> None:
    records = [
        wide_record(log, series=1, first=first, per_series=200_000)
        for first in range(0, 1_000_000, 200_000)
    ]
    result = apply_records(store, records)
    assert (result.points, result.poison) == (1_000_000, [])
    run = run_of(store)
    store.series.seal(store.engine, run.number, final=True)
    pieces = list(store.series.iter_points(store.engine, run.number, 0))
    assert max(map(len, pieces)) <= 70_000
    steps = np.concatenate([piece.steps for piece in pieces])
    assert np.array_equal(steps, np.arange(1_000_000))
    values = np.concatenate([piece.values for piece in pieces])
    assert np.array_equal(values, np.arange(1_000_000) / 3)
    rows = store.engine.read(lambda tr: store.series.summaries(tr, run.number, 0))
    assert (int(rows["count"].sum()), len(rows)) == (1_000_000, 489)
    sample = store.engine.read(
        lambda tr: store.series.sample_points(tr, run.number, [0], max_points=500)
    )[0]
    assert (len(sample), sample.steps[0], sample.steps[-1]) == (500, 0, 999_999)


def test_objects_larger_than_a_value_and_than_a_transaction_should_be(
    store: Store, log: Log
) -> None:
    noise = np.random.default_rng(0).bytes
    figure = SeriesRef("figures", "loss")
    payloads = {0: noise(150_000), 1: b"", 2: noise(3_000_000), 3: noise(90_000)}
    points = [Point(figure, step, value) for step, value in payloads.items()]
    send(store, log, Frame([*points, Point(LOSS, 0, 1.0)]))
    assert values_of(store, figure) == payloads
    store.series.seal(store.engine, run_of(store).number)
    assert values_of(store, figure) == payloads
    assert values_of(store) == {0: 1.0}


def test_the_tail_stays_bounded(store: Store, log: Log) -> None:
    for first in range(0, 300, 10):
        frame = Frame([Point(LOSS, step, 1.0) for step in range(first, first + 10)])
        apply_records(store, [log.append(frame)] + [log.append(Frame())] * 5)
    records = [
        wide_record(log, series=2, first=n * 5000, per_series=5000) for n in range(4)
    ]
    for record in records:
        apply_records(store, [record])
    run = run_of(store)
    state = store.engine.read(lambda tr: get_run_state(tr, run.number))
    assert state.tail_points < 20_000
    assert state.next_tail - state.first_tail < 256

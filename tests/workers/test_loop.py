"""The loop: nothing skipped, nothing lost, whatever fails."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from backend.bus.base import EventLog, Record
from backend.bus.topics import INGESTION, INGESTION_GROUP
from backend.errors import (
    EventLogUnavailableError,
    InvalidInputError,
    StoreError,
    StoreUnavailableError,
    ValueTooLargeError,
)
from tests.workers.loops import (
    QUICK,
    FakeHandler,
    FakeHealth,
    dead_letters,
    lag_of,
    make_loop,
    running,
    send,
    wait_for,
)
from workers.dlq import read_dead_letter
from workers.handlers.base import Outcome
from workers.loop import Chore

NUMBERS = [b"%d" % n for n in range(25)]


def test_records_are_applied_in_order_and_committed(event_log: EventLog):
    handler = FakeHandler()
    with running(make_loop(event_log, handler)) as results:
        send(event_log, *NUMBERS)
        wait_for(lambda: len(handler.applied) >= 25)
    assert handler.applied == NUMBERS
    assert max(map(len, handler.calls)) <= 10
    assert results == [True]
    assert lag_of(event_log) == 0


def test_what_was_consumed_is_deleted(event_log: EventLog):
    handler = FakeHandler()
    send(event_log, *NUMBERS)
    with running(make_loop(event_log, handler)):
        wait_for(
            lambda: all(
                event_log.read(INGESTION, partition=p, offset=0, max_records=1) == []
                for p in range(6)
            )
        )
    assert handler.applied == NUMBERS


def test_a_failing_store_stops_the_loop_until_it_works(event_log: EventLog):
    failures = iter([StoreUnavailableError(reason="down")] * 3)

    def fault(_records: Sequence[Record]) -> None:
        for failure in failures:
            raise failure

    handler, health = FakeHandler(fault), FakeHealth()
    send(event_log, *NUMBERS)
    with running(make_loop(event_log, handler, health=health)):
        wait_for(lambda: len(handler.applied) >= 25)
        wait_for(lambda: health.states()[-1] == "ok")
    assert handler.applied == NUMBERS
    assert handler.calls[0] == handler.calls[1] == handler.calls[2]
    assert dead_letters(event_log) == []
    assert health.states() == [
        "starting",
        "failing",
        "ok",
        "stopping",
        "stopped",
    ]
    failing = [fields for state, fields in health.reports if state == "failing"]
    assert "down" in failing[0]["reason"]


def test_while_the_store_fails_nothing_is_committed(event_log: EventLog):
    def fault(_records: Sequence[Record]) -> None:
        raise StoreError

    handler = FakeHandler(fault)
    send(event_log, *NUMBERS)
    with running(make_loop(event_log, handler)) as results:
        wait_for(lambda: len(handler.calls) > 3)
    assert results == [True]
    assert lag_of(event_log) == 25
    again = FakeHandler()
    with running(make_loop(event_log, again)):
        wait_for(lambda: len(again.applied) >= 25)
    assert again.applied == NUMBERS


def test_poison_becomes_a_dead_letter_and_its_neighbours_are_applied(
    event_log: EventLog,
):
    def fault(records: Sequence[Record]) -> list[tuple[Record, Exception]]:
        reason = InvalidInputError(field="version", reason="unknown")
        return [(r, reason) for r in records if r.value == b"7"]

    handler = FakeHandler(fault)
    send(event_log, *NUMBERS)
    with running(make_loop(event_log, handler)):
        wait_for(lambda: len(handler.applied) >= 24)
        wait_for(lambda: dead_letters(event_log))
    assert handler.applied == [n for n in NUMBERS if n != b"7"]
    (letter,) = map(read_dead_letter, dead_letters(event_log))
    assert (letter.record.key, letter.record.value) == (b"run", b"7")
    assert (letter.topic, letter.code) == (INGESTION, "validation_error")
    assert "version" in letter.reason
    assert lag_of(event_log) == 0


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("a bug"), ValueTooLargeError(size=9), TimeoutError("x")]
)
def test_a_record_that_fails_by_itself_becomes_a_dead_letter(
    event_log: EventLog, error: Exception
):
    def fault(records: Sequence[Record]) -> None:
        if any(record.value == b"7" for record in records):
            raise error

    handler = FakeHandler(fault)
    send(event_log, *NUMBERS)
    with running(make_loop(event_log, handler)):
        wait_for(lambda: len(handler.applied) >= 24)
        wait_for(lambda: dead_letters(event_log))
    assert handler.applied == [n for n in NUMBERS if n != b"7"]
    assert handler.calls.count([b"7"]) == QUICK.attempts
    assert [r.value for r in dead_letters(event_log)] == [b"7"]


def test_a_batch_that_fails_once_is_not_set_aside(event_log: EventLog):
    first = threading.Event()

    def fault(_records: Sequence[Record]) -> None:
        if not first.is_set():
            first.set()
            raise RuntimeError

    handler = FakeHandler(fault)
    send(event_log, *NUMBERS)
    with running(make_loop(event_log, handler)):
        wait_for(lambda: len(handler.applied) >= 25)
    assert handler.applied == NUMBERS
    assert dead_letters(event_log) == []


def test_a_store_that_fails_among_single_records_skips_none(event_log: EventLog):
    failures = iter([RuntimeError(), StoreUnavailableError(), None])

    def fault(_records: Sequence[Record]) -> None:
        failure = next(failures, None)
        if failure is not None:
            raise failure

    handler = FakeHandler(fault)
    send(event_log, *NUMBERS)
    with running(make_loop(event_log, handler)):
        wait_for(lambda: len(handler.applied) >= 25)
    assert handler.applied == NUMBERS
    assert dead_letters(event_log) == []


def test_without_room_for_dead_letters_nothing_is_committed(event_log: EventLog):
    def fault(records: Sequence[Record]) -> list[tuple[Record, Exception]]:
        return [(record, InvalidInputError()) for record in records]

    health = FakeHealth()
    send(event_log, b"bad")
    loop = make_loop(event_log, FakeHandler(fault), health=health)
    closed = event_log.producer()
    closed.close()
    loop._source = replace(loop._source, producer=closed)
    with running(loop):
        wait_for(lambda: "failing" in health.states())
    assert lag_of(event_log) == 1
    assert dead_letters(event_log) == []


def test_a_handler_gets_the_rest_once_the_poison_is_a_dead_letter(
    event_log: EventLog,
):
    applied, letters = [], []

    def handle(records: Sequence[Record]) -> Outcome:
        letters.append([r.value for r in dead_letters(event_log)])
        for count, record in enumerate(records):
            if record.value in {b"3", b"7"}:
                poison = (record, InvalidInputError(field="x", reason="y"))
                stripped = replace(record, value=record.value + b"-")
                rest = [stripped, *records[count + 1 :]]
                return Outcome(applied=count, poison=[poison], rest=rest)
            applied.append(record.value)
        return Outcome(applied=len(records))

    send(event_log, *NUMBERS[:10])
    with running(make_loop(event_log, handle)):
        wait_for(lambda: len(applied) >= 10)
    assert applied == [
        {b"3": b"3-", b"7": b"7-"}.get(number, number) for number in NUMBERS[:10]
    ]
    assert letters[-1] == [b"3", b"7"]
    assert lag_of(event_log) == 0


def test_records_behind_one_that_fails_wait_until_it_is_a_dead_letter(
    event_log: EventLog,
):
    letters = {}

    def fault(records: Sequence[Record]) -> None:
        for record in records:
            letters[record.value] = len(dead_letters(event_log))
        if any(record.value == b"3" for record in records):
            raise ZeroDivisionError

    handler = FakeHandler(fault)
    send(event_log, *NUMBERS[:10])
    with running(make_loop(event_log, handler)):
        wait_for(lambda: len(handler.applied) >= 9)
    assert handler.applied == [n for n in NUMBERS[:10] if n != b"3"]
    assert letters[b"4"] == letters[b"9"] == 1


def test_a_partition_lost_meanwhile_is_left_to_the_other(event_log: EventLog):
    """A second member takes half of the partitions while a batch is in hand."""
    held, go = threading.Event(), threading.Event()

    def fault(_records: Sequence[Record]) -> None:
        held.set()
        assert go.wait(30.0)

    first, second = FakeHandler(fault), FakeHandler()
    for number in range(20):
        send(event_log, b"%d" % number, key=b"run-%d" % number)
    with running(make_loop(event_log, first)):
        assert held.wait(30.0)
        with running(make_loop(event_log, second)):
            go.set()
            wait_for(lambda: lag_of(event_log) == 0)
            for number in range(20, 60):
                send(event_log, b"%d" % number, key=b"run-%d" % number)
            wait_for(lambda: lag_of(event_log) == 0)
    everything = {int(value) for value in [*first.applied, *second.applied]}
    assert everything == {*range(60)}
    assert second.applied


def test_stopping_finishes_the_batch_in_hand(event_log: EventLog):
    held, go = threading.Event(), threading.Event()

    def fault(_records: Sequence[Record]) -> None:
        held.set()
        assert go.wait(30.0)

    handler = FakeHandler(fault)
    send(event_log, *NUMBERS)
    loop = make_loop(event_log, handler)
    with running(loop) as results:
        assert held.wait(30.0)
        loop.request_stop()
        go.set()
    assert results == [True]
    assert len(handler.calls) == 1
    assert lag_of(event_log) == 25 - len(handler.applied) < 25


def test_a_batch_that_does_not_end_is_given_up_when_stopping(event_log: EventLog):
    held, go = threading.Event(), threading.Event()

    def fault(_records: Sequence[Record]) -> None:
        held.set()
        assert go.wait(30.0)

    send(event_log, *NUMBERS)
    loop = make_loop(event_log, FakeHandler(fault), options=replace(QUICK, stop_s=0.05))
    with running(loop) as results:
        assert held.wait(30.0)
        loop.request_stop()
        wait_for(lambda: results)
        go.set()
    assert results == [False]
    assert lag_of(event_log) == 25


def test_a_long_batch_keeps_the_membership(event_log: EventLog, monkeypatch):
    held, beats = threading.Event(), []

    def fault(_records: Sequence[Record]) -> None:
        held.set()
        wait_for(lambda: len(beats) >= 3)

    send(event_log, *NUMBERS)
    handler = FakeHandler(fault)
    loop = make_loop(event_log, handler)
    consumer = loop._join()
    beat = consumer.heartbeat
    monkeypatch.setattr(consumer, "heartbeat", lambda: beats.append(beat()))
    with running(loop):
        wait_for(lambda: len(handler.applied) >= 25)
    assert lag_of(event_log) == 0


def test_a_stuck_batch_gives_its_partitions_up(event_log: EventLog):
    go, health = threading.Event(), FakeHealth()

    def fault(_records: Sequence[Record]) -> None:
        assert go.wait(30.0)

    send(event_log, *NUMBERS)
    options = replace(QUICK, longest_batch_s=0.1, stop_s=0.1)
    loop = make_loop(event_log, FakeHandler(fault), options=options, health=health)
    with running(loop) as results:
        wait_for(lambda: "failing" in health.states())
    go.set()
    assert results == [False]
    failing = [fields for state, fields in health.reports if state == "failing"]
    assert failing[0]["reason"] == "a batch does not end"


def test_a_log_that_fails_is_waited_for(event_log: EventLog, monkeypatch):
    health, handler = FakeHealth(), FakeHandler()
    failures = iter([EventLogUnavailableError(reason="away")] * 2)
    join = event_log.consumer

    def refuse(**options):
        for failure in failures:
            raise failure
        return join(**options)

    monkeypatch.setattr(event_log, "consumer", refuse)
    send(event_log, *NUMBERS)
    with running(make_loop(event_log, handler, health=health)):
        wait_for(lambda: len(handler.applied) >= 25)
    assert "failing" in health.states()


def test_chores_are_done_and_may_fail(event_log: EventLog):
    done: list[int] = []

    def chore() -> None:
        done.append(1)
        raise StoreUnavailableError(reason="down")

    handler = FakeHandler()
    loop = make_loop(event_log, handler, chores=[Chore("test", 0.01, chore)])
    with running(loop):
        wait_for(lambda: len(done) >= 2)
        send(event_log, b"1")
        wait_for(lambda: handler.applied)


def test_metrics_tell_what_was_done(event_log: EventLog):
    def fault(records: Sequence[Record]) -> list[tuple[Record, Exception]]:
        return [(r, InvalidInputError()) for r in records if r.value == b"7"]

    def handle(records: Sequence[Record]) -> Outcome:
        outcome = FakeHandler(fault)(records)
        outcome.counts = {"batch": outcome.applied}
        return outcome

    registry = CollectorRegistry()
    send(event_log, *NUMBERS)
    with running(make_loop(event_log, handle, registry=registry)):
        wait_for(lambda: lag_of(event_log) == 0)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"matyan_ingestion_{name}", labels)

    assert value("messages_consumed_total") == 25
    assert value("messages_processed_total", message_type="batch") == 24
    assert value("dead_letters_total", code="validation_error") == 1
    assert value("points_total") == 24
    assert value("batch_size_count") == value("batch_processing_seconds_count")


def test_health_tells_figures(event_log: EventLog):
    health, handler = FakeHealth(), FakeHandler()
    send(event_log, *NUMBERS)
    with running(make_loop(event_log, handler, health=health)):
        wait_for(lambda: lag_of(event_log) == 0)
    state, fields = health.reports[-1]
    assert state == "stopped"
    assert fields["records"] == fields["points"] == 25
    assert event_log.lag(group=INGESTION_GROUP, topics=[INGESTION])

"""Dead letters: what they keep, and how they get another chance."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from django.core.management import CommandError, call_command

from backend.bus.base import EventLog, Record
from backend.bus.topics import CONTROL, DEAD_LETTERS, INGESTION, REPLAY_OF
from backend.errors import EventLogUnavailableError, InvalidInputError
from backend.services.dead_letters import iter_dead_letters
from backend.services.ingestion import apply_records
from tests.workers.loops import (
    PATIENCE_S,
    FakeHandler,
    dead_letters,
    envelope,
    make_loop,
    running,
    send,
    stored_values,
    wait_for,
)
from workers.dlq import publish_dead_letters, replay
from workers.handlers import ingest


def bury(log: EventLog, *values: bytes, topic: str = INGESTION, **headers: bytes):
    """Publish records and make dead letters of them."""
    producer = log.producer()
    buried = []
    for value in values:
        place = producer.publish(
            topic, key=b"key", value=value, headers=[*headers.items()]
        ).result(PATIENCE_S)
        found = log.read(
            topic, partition=place.partition, offset=place.offset, max_records=1
        )
        buried += found
    reason = InvalidInputError(field="value", reason="bad")
    publish_dead_letters(producer, [(r, reason) for r in buried], now_us=5)
    return buried


def all_values(log: EventLog, topic: str) -> list[bytes]:
    return [r.value for r in all_records(log, topic)]


def all_records(log: EventLog, topic: str) -> list[Record]:
    partitions = len(log.lag(group="inspection", topics=[topic]))
    return [
        record
        for partition in range(partitions)
        for record in log.read(topic, partition=partition, offset=0, max_records=1_000)
    ]


def test_a_dead_letter_tells_where_it_came_from_and_why(event_log: EventLog):
    (record,) = bury(event_log, b"\x00value", trace=b"abc")
    (letter,) = dead_letters(event_log)
    place = record.position
    assert (letter.key, letter.value) == (b"key", b"\x00value")
    assert dict(letter.headers) == {
        "topic": INGESTION.encode(),
        "partition": b"%d" % place.partition,
        "offset": b"%d" % place.offset,
        "log_id": place.log_id.encode(),
        "code": b"validation_error",
        "reason": b"Invalid input (field='value', reason='bad')",
        "time_us": b"5",
        "original.trace": b"abc",
    }


def test_replay_publishes_to_the_original_topic(event_log: EventLog):
    records = bury(event_log, b"1", b"2", trace=b"abc")
    bury(event_log, b"event", topic=CONTROL)
    report = replay(event_log, event_log.producer())
    assert (report.replayed, report.kept) == (3, 0)
    assert report.by_topic == {INGESTION: 2, CONTROL: 1}
    again = all_records(event_log, INGESTION)[2:]
    assert [(r.key, r.value) for r in again] == [(b"key", b"1"), (b"key", b"2")]
    place = records[0].position
    origin = f"{place.log_id}/{INGESTION}/{place.partition}/{place.offset}"
    assert again[0].headers == (("trace", b"abc"), (REPLAY_OF, origin.encode()))
    assert all_values(event_log, CONTROL) == [b"event", b"event"]


def test_what_was_replayed_is_not_replayed_again(event_log: EventLog):
    bury(event_log, b"1")
    assert replay(event_log, event_log.producer()).replayed == 1
    assert replay(event_log, event_log.producer()).replayed == 0
    assert [*iter_dead_letters(event_log)] == []
    bury(event_log, b"2")
    assert replay(event_log, event_log.producer()).replayed == 1


def test_replay_stops_at_its_limit_and_goes_on_from_there(event_log: EventLog):
    bury(event_log, *[b"%d" % n for n in range(10)])
    assert replay(event_log, event_log.producer(), limit=4).replayed == 4
    left = [letter.record.value for letter in iter_dead_letters(event_log)]
    assert left == [b"%d" % n for n in range(4, 10)]
    assert replay(event_log, event_log.producer()).replayed == 6


def test_replay_of_one_topic_keeps_the_others(event_log: EventLog):
    bury(event_log, b"point")
    bury(event_log, b"event", topic=CONTROL)
    report = replay(event_log, event_log.producer(), topic=CONTROL)
    assert (report.replayed, report.kept) == (1, 1)
    left = [*iter_dead_letters(event_log)]
    assert [(x.topic, x.record.value) for x in left] == [(INGESTION, b"point")]


def test_what_cannot_be_published_is_kept(event_log: EventLog):
    event_log.producer().publish(DEAD_LETTERS, key=b"k", value=b"no headers").result(
        PATIENCE_S
    )
    report = replay(event_log, event_log.producer())
    assert (report.replayed, report.kept) == (0, 1)
    assert [x.record.value for x in iter_dead_letters(event_log)] == [b"no headers"]


def test_an_interrupted_replay_loses_nothing(event_log: EventLog, monkeypatch):
    bury(event_log, b"1", b"2")
    producer = event_log.producer()
    publish = producer.publish
    calls = iter([publish])

    def fail_second(*args, **options):
        for call in calls:
            return call(*args, **options)
        raise EventLogUnavailableError(reason="away")

    monkeypatch.setattr(producer, "publish", fail_second)
    with pytest.raises(EventLogUnavailableError):
        replay(event_log, producer)
    assert len([*iter_dead_letters(event_log)]) == 2
    assert replay(event_log, event_log.producer()).replayed == 2


def test_a_replayed_record_is_applied_though_its_writer_went_on(event_log, store):
    """A fault takes the second of three frames; repaired, all three are stored."""

    middle = envelope(2, seq=2)

    def fault(records: Sequence[Record]) -> list[tuple[Record, Exception]]:
        apply_records(store, [r for r in records if r.value != middle])
        return [(r, InvalidInputError()) for r in records if r.value == middle]

    send(event_log, envelope(1, seq=1), middle, envelope(3, seq=3))
    with running(make_loop(event_log, FakeHandler(fault))):
        wait_for(lambda: dead_letters(event_log))
    replay(event_log, event_log.producer())
    outcomes = []

    def handle(records):
        outcomes.append(ingest.handle(records, store))
        return outcomes[-1]

    with running(make_loop(event_log, handle)):
        wait_for(lambda: sum(o.applied for o in outcomes) == 1)
    assert stored_values(store) == [1.0, 2.0, 3.0]


@pytest.fixture
def command_log(runtime) -> EventLog:
    log: EventLog = runtime.get_event_log()
    from backend.bus.topics import TOPICS

    log.ensure_topics(TOPICS)
    return log


def test_the_command_replays(command_log: EventLog, capsys):
    bury(command_log, b"1", b"2")
    call_command("replay_dlq", "--limit", "1")
    assert capsys.readouterr().out == "1 replayed, 0 kept.\n"
    call_command("replay_dlq", "--json")
    assert json.loads(capsys.readouterr().out) == {
        "replayed": 1,
        "kept": 0,
        "by_topic": {INGESTION: 1},
    }


def test_the_command_lists_without_changing_anything(command_log: EventLog, capsys):
    bury(command_log, b"1", b"2")
    call_command("replay_dlq", "--dry-run")
    out = capsys.readouterr().out
    assert "2 would be replayed." in out
    assert "validation_error" in out
    call_command("replay_dlq", "--dry-run", "--json", "--topic", CONTROL)
    assert json.loads(capsys.readouterr().out) == {"would_replay": 0, "reasons": []}
    assert len([*iter_dead_letters(command_log)]) == 2


@pytest.mark.usefixtures("command_log")
def test_the_command_refuses_nonsense():
    with pytest.raises(CommandError, match="invalid choice"):
        call_command("replay_dlq", "--topic", "nothing")
    with pytest.raises(CommandError, match="--limit"):
        call_command("replay_dlq", "--limit", "0")


def test_a_log_that_cannot_be_opened_is_an_error_without_a_trace(
    settings, runtime, tmp_path
):
    (tmp_path / "file").write_text("")
    settings.MATYAN_BUS = {
        "ENGINE": "backend.bus.local.LocalEventLog",
        "OPTIONS": {"path": str(tmp_path / "file" / "log")},
    }
    with pytest.raises(CommandError, match="unavailable"):
        call_command("replay_dlq")
    runtime.close()

"""Any event log: groups share partitions, commit, and never lose a record."""

from __future__ import annotations

import threading

import pytest

from backend.bus.base import TopicPartition
from backend.errors import StaleConsumerError
from tests.backend.bus.harness import (
    PATIENCE_S,
    Harness,
    everything,
    next_offsets,
    numbered,
    publish,
    settle,
    take,
    values,
    wait_for,
)


def test_a_new_group_starts_at_the_oldest_record(bus: Harness):
    log = bus.open()
    topic = bus.topic(log)
    publish(log.producer(), topic, numbered(30))
    consumer = log.consumer(group="readers", topics=[topic.name])
    assert sorted(map(int, values(take(consumer, 30)))) == [*range(30)]
    assert consumer.poll(max_records=10, max_bytes=1 << 20, timeout_s=0.0) == []


def test_groups_do_not_share_their_progress(bus: Harness):
    log = bus.open()
    topic = bus.topic(log, groups=("first", "second"))
    publish(log.producer(), topic, numbered(10))
    for group in topic.groups:
        consumer = log.consumer(group=group, topics=[topic.name])
        records = take(consumer, 10)
        consumer.commit(next_offsets(records))
        assert len(records) == 10


def test_a_poll_is_bounded_in_records_and_bytes(bus: Harness):
    log = bus.open()
    topic = bus.topic(log, partitions=1)
    publish(log.producer(), topic, [(b"k", b"x" * 1_000)] * 20)
    consumer = log.consumer(group="readers", topics=[topic.name])
    assert len(take(consumer, 1, max_records=3)) == 3
    assert len(take(consumer, 1, max_bytes=3_500)) in {2, 3}
    assert len(take(consumer, 1, max_bytes=10)) == 1


def test_committed_records_are_not_delivered_again(bus: Harness):
    log = bus.open()
    topic = bus.topic(log, partitions=1)
    publish(log.producer(), topic, numbered(20))
    consumer = log.consumer(group="readers", topics=[topic.name])
    consumer.commit(next_offsets(take(consumer, 8, max_records=8)))
    take(consumer, 5, max_records=5)
    consumer.close()
    again = log.consumer(group="readers", topics=[topic.name])
    assert values(take(again, 12)) == [b"%d" % n for n in range(8, 20)]


def test_committed_offsets_survive_closing_the_log(bus: Harness):
    log = bus.open()
    topic = bus.topic(log, partitions=1)
    publish(log.producer(), topic, numbered(20))
    consumer = log.consumer(group="readers", topics=[topic.name])
    for _ in range(4):
        consumer.commit(next_offsets(take(consumer, 4, max_records=4)))
    log.close()
    again = bus.open().consumer(group="readers", topics=[topic.name])
    assert values(take(again, 4)) == [b"16", b"17", b"18", b"19"]


def test_rewind_delivers_again(bus: Harness):
    log = bus.open()
    topic = bus.topic(log)
    publish(log.producer(), topic, numbered(30))
    consumer = log.consumer(group="readers", topics=[topic.name])
    first = take(consumer, 30)
    starts = {
        TopicPartition(r.position.topic, r.position.partition): r.position.offset
        for r in reversed(first)
    }
    consumer.rewind(starts)
    assert sorted(values(take(consumer, 30))) == sorted(values(first))


def test_a_waiting_poll_sees_new_records(bus: Harness):
    log = bus.open()
    topic = bus.topic(log)
    consumer = log.consumer(group="readers", topics=[topic.name])
    settle([consumer], topic.partitions)
    timer = threading.Timer(0.1, publish, (log.producer(), topic, numbered(1)))
    timer.start()
    records = consumer.poll(max_records=1, max_bytes=1, timeout_s=PATIENCE_S)
    timer.join()
    assert values(records) == [b"0"]


def test_wake_ends_a_waiting_poll(bus: Harness):
    log = bus.open()
    topic = bus.topic(log)
    consumer = log.consumer(group="readers", topics=[topic.name])
    settle([consumer], topic.partitions)
    timer = threading.Timer(0.1, consumer.wake)
    timer.start()
    # The test's own time limit is what fails a poll that is not woken.
    assert consumer.poll(max_records=1, max_bytes=1, timeout_s=1_000.0) == []
    timer.join()


def test_members_share_the_partitions(bus: Harness):
    log, other = bus.open(), bus.open()
    topic = bus.topic(log, partitions=6)
    members = [
        opened.consumer(group="readers", topics=[topic.name])
        for opened in (log, other, log)
    ]
    settle(members, 6)
    publish(log.producer(), topic, numbered(120, keys=40))
    heard = [member.poll for member in members]
    found: list[int] = []

    def hear() -> bool:
        for poll in heard:
            records = poll(max_records=100, max_bytes=1 << 20, timeout_s=0.05)
            found.extend(int(record.value) for record in records)
        return len(found) >= 120

    wait_for(hear)
    assert sorted(found) == [*range(120)]


def test_a_leaving_member_hands_its_partitions_over(bus: Harness):
    log = bus.open()
    topic = bus.topic(log, partitions=4)
    staying, leaving = (
        log.consumer(group="readers", topics=[topic.name]) for _ in range(2)
    )
    settle([staying, leaving], 4)
    publish(log.producer(), topic, numbered(40, keys=20))
    first = take(leaving, 1)
    leaving.commit(next_offsets(first))
    leaving.close()
    rest = take(staying, 40 - len(first))
    assert sorted(values([*first, *rest])) == sorted(b"%d" % n for n in range(40))


def test_a_joining_member_takes_over_from_what_was_committed(bus: Harness):
    log = bus.open()
    topic = bus.topic(log, partitions=4)
    publish(log.producer(), topic, numbered(40, keys=20))
    first = log.consumer(group="readers", topics=[topic.name])
    records = take(first, 40)
    first.commit(next_offsets(records))
    second = log.consumer(group="readers", topics=[topic.name])
    settle([first, second], 4)
    publish(log.producer(), topic, numbered(40, keys=20, start=40))
    mine = second.assignment()
    expected = [
        r
        for r in everything(log, topic)
        if TopicPartition(topic.name, r.position.partition) in mine
        and int(r.value) >= 40
    ]
    assert sorted(values(take(second, len(expected)))) == sorted(values(expected))


def test_members_of_other_topics_do_not_get_in_the_way(bus: Harness):
    log = bus.open()
    one, two = bus.topic(log), bus.topic(log)
    first = log.consumer(group="readers", topics=[one.name])
    second = log.consumer(group="readers", topics=[two.name, one.name])

    def shared() -> bool:
        for consumer in (first, second):
            consumer.poll(max_records=1, max_bytes=1, timeout_s=0.05)
        owned = [first.assignment(), second.assignment()]
        return sum(map(len, owned)) == 8 and not owned[0] & owned[1]

    wait_for(shared)
    assert {p.topic for p in first.assignment()} == {one.name}


def test_a_lost_partition_cannot_be_committed_but_the_others_can(bus: Harness):
    log = bus.open()
    topic = bus.topic(log, partitions=4)
    publish(log.producer(), topic, numbered(40, keys=20))
    first = log.consumer(group="readers", topics=[topic.name])
    records = take(first, 40)
    second = log.consumer(group="readers", topics=[topic.name])
    settle([first, second], 4)
    with pytest.raises(StaleConsumerError, match=topic.name):
        first.commit(next_offsets(records))
    first.close()
    kept = {
        lag.partition
        for lag in log.lag(group="readers", topics=[topic.name])
        if lag.lag == 0
    }
    assert len(kept) >= 2


def test_new_partitions_are_shared_out(bus: Harness):
    log = bus.open()
    topic = bus.topic(log, partitions=1)
    consumer = log.consumer(group="readers", topics=[topic.name])
    settle([consumer], 1)
    bus.topic(log, name=topic.name, partitions=5)
    publish(log.producer(), topic, numbered(50, keys=30))
    assert sorted(map(int, values(take(consumer, 50)))) == [*range(50)]
    assert len(consumer.assignment()) == 5


def test_lag_tells_what_is_left(bus: Harness):
    log = bus.open()
    topic = bus.topic(log, partitions=2)
    assert [x.lag for x in log.lag(group="readers", topics=[topic.name])] == [0, 0]
    publish(log.producer(), topic, numbered(20))
    lags = log.lag(group="readers", topics=[topic.name])
    assert sum(x.lag for x in lags) == 20
    assert [x.partition for x in lags] == [0, 1]
    assert {x.oldest_age_s > 0 for x in lags if x.lag} == {True}
    consumer = log.consumer(group="readers", topics=[topic.name])
    consumer.commit(next_offsets(take(consumer, 20)))
    consumer.close()
    lags = log.lag(group="readers", topics=[topic.name])
    assert [(x.lag, x.oldest_age_s) for x in lags] == [(0, 0.0), (0, 0.0)]


def test_trim_deletes_what_every_group_consumed(bus: Harness):
    log = bus.open()
    topic = bus.topic(log, groups=("first", "second"), partitions=1)
    publish(log.producer(), topic, numbered(30))
    offsets = {}
    for group, count in (("first", 30), ("second", 10)):
        consumer = log.consumer(group=group, topics=[topic.name])
        records = take(consumer, count, max_records=count)
        consumer.commit(next_offsets(records))
        consumer.close()
        offsets[group] = records[-1].position.offset
    wait_for(lambda: log.trim() == 0)
    left = everything(log, topic)
    assert values(left)[-20:] == [b"%d" % n for n in range(10, 30)]
    assert left[0].position.offset == offsets["second"] + 1
    again = log.consumer(group="second", topics=[topic.name])
    assert values(take(again, 20)) == [b"%d" % n for n in range(10, 30)]


def test_trim_keeps_what_a_registered_group_never_read(bus: Harness):
    log = bus.open()
    topic = bus.topic(log, groups=("readers", "never"))
    publish(log.producer(), topic, numbered(30))
    consumer = log.consumer(group="readers", topics=[topic.name])
    consumer.commit(next_offsets(take(consumer, 30)))
    consumer.close()
    log.trim()
    assert len(everything(log, topic)) == 30


def test_trim_keeps_what_is_younger_than_the_retention(bus: Harness):
    log = bus.open()
    topic = bus.topic(log, retention_seconds=3600.0)
    publish(log.producer(), topic, numbered(30))
    consumer = log.consumer(group="readers", topics=[topic.name])
    consumer.commit(next_offsets(take(consumer, 30)))
    consumer.close()
    log.trim()
    assert len(everything(log, topic)) == 30


def test_offsets_go_on_after_everything_was_deleted(bus: Harness):
    log = bus.open()
    topic = bus.topic(log, partitions=1)
    (last,) = publish(log.producer(), topic, numbered(1))
    consumer = log.consumer(group="readers", topics=[topic.name])
    consumer.commit(next_offsets(take(consumer, 1)))
    consumer.close()
    wait_for(lambda: log.trim() == 0)
    log.close()
    again = bus.open()
    (place,) = publish(again.producer(), topic, numbered(1, start=1))
    assert place.offset > last.offset
    assert place.log_id == last.log_id
    consumer = again.consumer(group="readers", topics=[topic.name])
    assert values(take(consumer, 1)) == [b"1"]

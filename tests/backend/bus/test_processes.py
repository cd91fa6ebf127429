"""Any event log: several processes at once, some of them killed."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from backend.errors import StaleConsumerError
from tests.backend.bus.bus_process import sealed, unsealed
from tests.backend.bus.harness import (
    PATIENCE_S,
    Harness,
    everything,
    next_offsets,
    publish,
    take,
    wait_for,
)

pytestmark = pytest.mark.e2e


def test_processes_append_side_by_side(bus: Harness):
    log = bus.open()
    topic = bus.topic(log)
    names = ["a", "b", "c"]
    processes = [
        bus.spawn("produce", topic=topic.name, producer=name, count=300)
        for name in names
    ]
    acks = {
        (name, word["number"]): (word["partition"], word["offset"])
        for name, process in zip(names, processes, strict=True)
        for word in process.lines()
        if word["word"] == "ack"
    }
    assert [process.wait() for process in processes] == [0, 0, 0]
    records = everything(log, topic)
    assert {
        unsealed(r.value): (r.position.partition, r.position.offset) for r in records
    } == acks
    assert len(records) == 900
    for name in names:
        mine = [unsealed(r.value)[1] for r in records if unsealed(r.value)[0] == name]
        for key in range(7):
            assert [n for n in mine if n % 7 == key] == [*range(key, 300, 7)]


def test_a_killed_producer_loses_nothing_it_was_told_is_safe(bus: Harness):
    log = bus.open()
    topic = bus.topic(log)
    process = bus.spawn("produce", topic=topic.name, producer="p", count=1_000_000)
    acks = [process.hear("ack") for _ in range(200)]
    os.kill(process.pid, signal.SIGKILL)
    acks += [word for word in process.lines() if word["word"] == "ack"]
    process.wait()
    records = everything(log, topic)
    places = {(r.position.partition, r.position.offset): r for r in records}
    assert [unsealed(places[a["partition"], a["offset"]].value) for a in acks] == [
        ("p", a["number"]) for a in acks
    ]
    assert len({unsealed(r.value) for r in records}) == len(records)
    publish(log.producer(), topic, [(b"k", sealed("after", 0))])
    assert unsealed(everything(log, topic)[-1].value)


def test_a_killed_consumers_records_are_delivered_again(bus: Harness):
    log = bus.open()
    topic = bus.topic(log)
    publish(log.producer(), topic, [(b"%d" % n, sealed("p", n)) for n in range(200)])
    process = bus.spawn(
        "consume", topic=topic.name, group="readers", commit=False, count=50
    )
    heard = process.hear("got")["numbers"]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    consumer = log.consumer(group="readers", topics=[topic.name])
    numbers = {unsealed(r.value)[1] for r in take(consumer, 200)}
    assert numbers == {*range(200)} >= {number for _producer, number in heard}


def test_a_killed_consumer_is_replaced_by_those_that_live(bus: Harness):
    log = bus.open()
    topic = bus.topic(log)
    doomed = bus.spawn(
        "consume", topic=topic.name, group="readers", commit=True, count=10_000
    )
    consumer = log.consumer(group="readers", topics=[topic.name])
    producer = log.producer()
    publish(producer, topic, [(b"%d" % n, sealed("p", n)) for n in range(100)])
    committed = {n for _p, n in doomed.hear("committed")["numbers"]}
    os.kill(doomed.pid, signal.SIGKILL)
    doomed.wait()
    publish(producer, topic, [(b"%d" % n, sealed("p", n)) for n in range(100, 200)])
    seen: set[int] = set()

    def complete() -> bool:
        records = consumer.poll(max_records=100, max_bytes=1 << 20, timeout_s=0.2)
        seen.update(unsealed(r.value)[1] for r in records)
        # It was silent while the other worked, and may have been taken for dead.
        with contextlib.suppress(StaleConsumerError):
            consumer.commit(next_offsets(records))
        return seen >= {*range(200)} - committed

    wait_for(complete)


def test_processes_of_a_group_share_the_records(bus: Harness):
    log = bus.open()
    topic = bus.topic(log, partitions=6)
    processes = [
        bus.spawn(
            "consume", topic=topic.name, group="readers", commit=True, count=10_000
        )
        for _ in range(2)
    ]
    for process in processes:
        while process.hear("owns")["partitions"] != 3:
            pass
    publish(log.producer(), topic, [(b"%d" % n, sealed("p", n)) for n in range(60)])
    heard = [process.hear("committed")["numbers"] for process in processes]
    assert all(heard)
    assert not {n for _p, n in heard[0]} & {n for _p, n in heard[1]}


def test_a_consumer_that_slept_too_long_cannot_commit(bus: Harness):
    log = bus.open()
    topic = bus.topic(log, partitions=1)
    publish(log.producer(), topic, [(b"k", sealed("p", n)) for n in range(3)])
    zombie = bus.spawn("zombie", topic=topic.name, group="readers")
    assert zombie.hear("got")["owned"] == 1
    os.kill(zombie.pid, signal.SIGSTOP)
    consumer = log.consumer(group="readers", topics=[topic.name])
    records = take(consumer, 3)
    assert [unsealed(r.value)[1] for r in records] == [0, 1, 2]
    consumer.commit(next_offsets(records[:2]))
    os.kill(zombie.pid, signal.SIGCONT)
    zombie.tell("commit")
    assert zombie.hear("refused")["code"] == "stale_consumer"
    zombie.process.wait(PATIENCE_S)
    consumer.close()
    (lag,) = log.lag(group="readers", topics=[topic.name])
    assert lag.lag == 1

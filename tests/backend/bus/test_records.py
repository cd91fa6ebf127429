"""Any event log: what is published is there, in order, whole, in its partition."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from backend.bus.base import Record
from backend.errors import EventLogUnavailableError, RecordTooLargeError
from tests.backend.bus.harness import (
    PATIENCE_S,
    Harness,
    everything,
    numbered,
    publish,
    take,
    values,
)


def by_key(records: list[Record]) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = {}
    for record in records:
        found.setdefault(record.key, []).append(int(record.value))
    return found


def test_records_of_a_key_keep_their_order_and_partition(bus: Harness):
    log = bus.open()
    topic = bus.topic(log)
    positions = publish(log.producer(), topic, numbered(200))
    records = everything(log, topic)
    assert by_key(records) == {b"key-%d" % k: [*range(k, 200, 5)] for k in range(5)}
    assert {(r.key, r.position.partition) for r in records} == {
        (key, place.partition)
        for (key, _value), place in zip(numbered(200), positions, strict=True)
    }
    assert len({(r.key, r.position.partition) for r in records}) == 5


def test_a_future_tells_where_the_record_is(bus: Harness):
    log = bus.open()
    topic = bus.topic(log)
    for (key, value), place in zip(
        numbered(20), publish(log.producer(), topic, numbered(20)), strict=True
    ):
        (record,) = log.read(
            topic.name, partition=place.partition, offset=place.offset, max_records=1
        )
        assert (record.key, record.value, record.position) == (key, value, place)
        assert place.topic == topic.name
        assert 0 < len(place.log_id) <= 64


def test_offsets_of_a_partition_ascend(bus: Harness):
    log = bus.open()
    topic = bus.topic(log, partitions=1)
    places = publish(log.producer(), topic, numbered(50))
    offsets = [place.offset for place in places]
    assert offsets == sorted(set(offsets))


def test_a_record_comes_back_as_it_went_in(bus: Harness):
    log = bus.open()
    topic = bus.topic(log, partitions=1)
    headers = (("empty", b""), ("name", b"\x00\xff"), ("name", b"twice"))
    before_us = time.time_ns() // 1000
    log.producer().publish(
        topic.name, key=b"\x00key", value=b"\x00" * 70_000, headers=headers
    ).result(PATIENCE_S)
    log.producer().publish(topic.name, key=b"", value=b"").result(PATIENCE_S)
    first, second = everything(log, topic)
    assert (first.key, first.value, first.headers) == (
        b"\x00key",
        b"\x00" * 70_000,
        headers,
    )
    assert (second.key, second.value, second.headers) == (b"", b"", ())
    assert abs(first.time_us - before_us) < PATIENCE_S * 1e6


def test_records_and_their_identity_survive_closing(bus: Harness):
    log = bus.open()
    topic = bus.topic(log)
    publish(log.producer(), topic, numbered(30))
    before = everything(log, topic)
    log.close()
    again = bus.open()
    assert everything(again, topic) == before
    publish(again.producer(), topic, numbered(30, start=30))
    assert by_key(everything(again, topic)) == {
        b"key-%d" % k: [*range(k, 60, 5)] for k in range(5)
    }


def test_a_log_can_be_open_twice_in_one_process(bus: Harness):
    first, second = bus.open(), bus.open()
    topic = bus.topic(first)
    publish(second.producer(), topic, numbered(5))
    second.close()
    publish(first.producer(), topic, numbered(5, start=5))
    assert len(everything(first, topic)) == 10


def test_many_threads_may_share_a_producer(bus: Harness):
    log = bus.open()
    topic = bus.topic(log)
    producer = log.producer()
    with ThreadPoolExecutor(8) as pool:
        places = pool.map(
            lambda n: publish(producer, topic, [(b"key-%d" % (n % 8), b"%d" % n)]),
            range(200),
        )
        assert len({place for (place,) in places}) == 200
    assert sorted(int(r.value) for r in everything(log, topic)) == [*range(200)]


def test_a_record_over_the_topics_limit_is_refused(bus: Harness):
    log = bus.open()
    topic = bus.topic(log, max_record_bytes=10_000, partitions=1)
    producer = log.producer()
    with pytest.raises(RecordTooLargeError, match=topic.name):
        publish(producer, topic, [(b"k", b"x" * 10_001)])
    with pytest.raises(RecordTooLargeError):
        producer.publish(
            topic.name, key=b"k", value=b"x" * 9_000, headers=[("h", b"y" * 1_000)]
        ).result(PATIENCE_S)
    publish(producer, topic, [(b"k", b"x" * 9_000)])
    assert len(everything(log, topic)) == 1


def test_the_largest_record_of_the_product_fits(bus: Harness):
    log = bus.open()
    topic = bus.topic(log, max_record_bytes=9 << 20, partitions=1)
    value = bytes(range(256)) * (8 << 12)
    publish(log.producer(), topic, [(b"k", value)])
    consumer = log.consumer(group="readers", topics=[topic.name])
    assert values(take(consumer, 1, max_bytes=1)) == [value]


def test_an_unknown_topic_is_an_error(bus: Harness):
    log = bus.open()
    with pytest.raises(EventLogUnavailableError):
        log.producer().publish("nothing", key=b"", value=b"").result(PATIENCE_S)


def test_flush_waits_for_what_is_in_flight(bus: Harness):
    log = bus.open()
    topic = bus.topic(log)
    producer = log.producer()
    futures = [producer.publish(topic.name, key=b"k", value=b"v") for _ in range(100)]
    assert producer.flush(timeout_s=PATIENCE_S)
    assert all(future.done() for future in futures)


def test_a_publish_cannot_be_taken_back(bus: Harness):
    log = bus.open()
    topic = bus.topic(log)
    future = log.producer().publish(topic.name, key=b"k", value=b"v")
    assert not future.cancel()
    assert future.result(PATIENCE_S).topic == topic.name


def test_topics_can_be_declared_again_and_grow(bus: Harness):
    log = bus.open()
    topic = bus.topic(log, partitions=1)
    publish(log.producer(), topic, numbered(10))
    grown = bus.topic(bus.open(), name=topic.name, partitions=3)
    publish(log.producer(), topic, numbered(100, keys=30))
    assert {r.position.partition for r in everything(log, grown)} == {0, 1, 2}
    shrunk = bus.topic(log, name=topic.name, partitions=2)
    assert len(everything(log, grown)) == 110
    assert len(log.lag(group="readers", topics=[shrunk.name])) == 3


def test_read_starts_where_it_is_told(bus: Harness):
    log = bus.open()
    topic = bus.topic(log, partitions=1)
    places = publish(log.producer(), topic, numbered(10))
    found = log.read(topic.name, partition=0, offset=places[4].offset, max_records=3)
    assert values(found) == [b"4", b"5", b"6"]
    end = places[-1].offset + 1
    assert log.read(topic.name, partition=0, offset=end, max_records=3) == []


def test_check_passes_on_a_working_log(bus: Harness):
    log = bus.open()
    bus.topic(log)
    log.check()

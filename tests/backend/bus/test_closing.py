"""Any event log: what is closed refuses further use, politely and repeatedly."""

from __future__ import annotations

import pytest

from backend.bus.base import EventLog
from backend.errors import EventLogClosedError
from tests.backend.bus.harness import (
    PATIENCE_S,
    Harness,
    everything,
    numbered,
    publish,
    take,
)


def test_closing_a_producer_stores_what_was_published(bus: Harness):
    log = bus.open()
    topic = bus.topic(log)
    producer = log.producer()
    futures = [producer.publish(topic.name, key=k, value=v) for k, v in numbered(50)]
    producer.close()
    assert all(future.done() for future in futures)
    assert len(everything(log, topic)) == 50


def test_a_closed_producer_refuses(bus: Harness):
    log = bus.open()
    topic = bus.topic(log)
    producer = log.producer()
    producer.close()
    producer.close()
    with pytest.raises(EventLogClosedError):
        producer.publish(topic.name, key=b"", value=b"").result(PATIENCE_S)
    publish(log.producer(), topic, numbered(1))


def test_a_closed_consumer_refuses(bus: Harness):
    log = bus.open()
    topic = bus.topic(log)
    consumer = log.consumer(group="readers", topics=[topic.name])
    consumer.close()
    consumer.close()
    with pytest.raises(EventLogClosedError):
        consumer.poll(max_records=1, max_bytes=1, timeout_s=0.0)
    with pytest.raises(EventLogClosedError):
        consumer.commit({})
    with pytest.raises(EventLogClosedError):
        consumer.heartbeat()


def test_closing_the_log_closes_what_it_made(bus: Harness):
    log = bus.open()
    topic = bus.topic(log)
    producer = log.producer()
    consumer = log.consumer(group="readers", topics=[topic.name])
    log.close()
    log.close()
    producer.close()
    consumer.close()
    with pytest.raises(EventLogClosedError):
        producer.publish(topic.name, key=b"", value=b"").result(PATIENCE_S)
    with pytest.raises(EventLogClosedError):
        consumer.poll(max_records=1, max_bytes=1, timeout_s=0.0)


@pytest.mark.parametrize(
    "use",
    [
        lambda log: log.producer(),
        lambda log: log.consumer(group="readers", topics=["topic"]),
        lambda log: log.lag(group="readers", topics=["topic"]),
        lambda log: log.read("topic", partition=0, offset=0, max_records=1),
        lambda log: log.ensure_topics([]),
        lambda log: log.trim(),
        lambda log: log.check(),
    ],
    ids=["producer", "consumer", "lag", "read", "ensure_topics", "trim", "check"],
)
def test_a_closed_log_refuses(bus: Harness, use):
    log: EventLog = bus.open()
    log.close()
    with pytest.raises(EventLogClosedError):
        use(log)


def test_a_closed_member_leaves_its_partitions(bus: Harness):
    first, second = bus.open(), bus.open()
    topic = bus.topic(first)
    first.consumer(group="readers", topics=[topic.name])
    first.close()
    publish(second.producer(), topic, numbered(10))
    consumer = second.consumer(group="readers", topics=[topic.name])
    assert len(take(consumer, 10)) == 10

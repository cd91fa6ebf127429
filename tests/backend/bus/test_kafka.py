"""The Kafka event log: brokers that die or stall, retention, identity, secrets."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from itertools import pairwise

import pytest

from backend.bus.base import (
    Consumer,
    EventLog,
    Producer,
    RecordPosition,
    TopicPartition,
    TopicSpec,
)
from backend.bus.kafka import KafkaEventLog
from backend.bus.local_format import key_hash
from backend.bus.topics import TOPICS
from backend.errors import (
    EventLogError,
    EventLogFullError,
    EventLogUnavailableError,
    MatyanError,
    StaleConsumerError,
)
from tests.backend.bus.harness import (
    PATIENCE_S,
    everything,
    next_offsets,
    numbered,
    publish,
    settle,
    take,
    values,
    wait_for,
)
from tests.services.kafka import KafkaBroker

pytestmark = pytest.mark.kafka

TOPIC = TopicSpec("topic", 2, 1 << 20, 0.0, ("readers",))
SECRET = "correct-horse-battery"  # noqa: S105 - protects nothing

Open = Callable[..., KafkaEventLog]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def opener(broker: KafkaBroker, stack: ExitStack) -> Open:
    prefix = f"test-{uuid.uuid4().hex[:8]}-"

    def open_log(**options) -> KafkaEventLog:
        defaults = {
            "topic_prefix": prefix,
            "trim_interval_s": 0.0,
            "session_timeout_s": broker.shortest_session_s,
        }
        log = KafkaEventLog(broker.bootstrap_servers, **{**defaults, **options})
        stack.callback(log.close)
        return log

    return open_log


@pytest.fixture
def open_log(kafka_broker: KafkaBroker, stack: ExitStack) -> Open:
    """Open the log on the broker of all tests."""
    return opener(kafka_broker, stack)


@pytest.fixture(scope="module")
def fragile(
    kafka_broker: KafkaBroker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KafkaBroker]:
    """A broker that tests may kill, and leave running."""
    if not kafka_broker.can_be_killed:
        pytest.skip("the broker is not ours to kill")
    with KafkaBroker(tmp_path_factory.mktemp("fragile") / "broker") as broker:
        yield broker


@pytest.fixture
def open_fragile(fragile: KafkaBroker, stack: ExitStack) -> Iterator[Open]:
    """Open the log on the broker that may be killed."""
    yield opener(fragile, stack)
    fragile.resume()
    fragile.ensure_running()
    stack.close()


def firsts(log: EventLog) -> list[int]:
    """Return the numbers of a one-partition topic, each at its first appearance."""
    return list(dict.fromkeys(int(r.value) for r in everything(log, ONE)))


ONE = TopicSpec("one", 1, 1 << 20, 0.0, ("readers",))


def test_keys_go_where_the_local_log_puts_them(open_log: Open):
    log = open_log()
    spec = TopicSpec("spread", 7, 1 << 20, 0.0, ())
    log.ensure_topics([spec])
    keys = [b"", b"a", *(os.urandom(n % 40) for n in range(300))]
    places = publish(log.producer(), spec, [(key, b"") for key in keys])
    assert [p.partition for p in places] == [key_hash(key) % 7 for key in keys]


def test_the_identity_names_the_cluster_and_the_topics_incarnation(open_log: Open):
    log = open_log()
    other = TopicSpec("other", 1, 1 << 20, 0.0, ())
    log.ensure_topics([TOPIC, other])
    producer = log.producer()
    (first,) = publish(producer, TOPIC, numbered(1))
    (second,) = publish(producer, other, numbered(1))
    assert first.log_id != second.log_id
    assert first.log_id.split(":")[0] == second.log_id.split(":")[0]
    assert open_log().producer is not None
    assert everything(open_log(), TOPIC)[0].position.log_id == first.log_id


def test_a_topic_made_again_is_noticed_by_its_reader(
    open_log: Open, kafka_broker: KafkaBroker
):
    log = open_log()
    log.ensure_topics([ONE])
    (before,) = publish(log.producer(), ONE, numbered(1))
    consumer = log.consumer(group="readers", topics=[ONE.name])
    consumer.commit(next_offsets(take(consumer, 1)))
    kafka_broker.delete_topic(log._topics.kafka_name(ONE.name))

    def made_again() -> bool:
        # A topic goes a moment after its deletion was answered.
        try:
            log.ensure_topics([ONE])
        except EventLogError:
            return False
        return True

    wait_for(made_again)
    publish(open_log().producer(), ONE, numbered(3, start=7))
    seen: dict[bytes, str] = {}

    def arrived() -> bool:
        try:
            records = consumer.poll(max_records=9, max_bytes=1 << 20, timeout_s=0.2)
        except EventLogUnavailableError:
            return False
        seen.update({r.value: r.position.log_id for r in records})
        return {b"7", b"8", b"9"} <= seen.keys()

    wait_for(arrived)
    assert before.log_id not in seen.values()


def publish_stubbornly(producer: Producer, numbers: Iterable[int]) -> None:
    """Publish one by one, as a client that repeats what was not confirmed."""
    for number in numbers:
        wait_for(lambda n=number: is_published(producer, n))


def is_published(producer: Producer, number: int) -> bool:
    try:
        producer.publish(ONE.name, key=b"k", value=b"%d" % number).result(PATIENCE_S)
    except EventLogUnavailableError:
        return False
    return True


def publish_until_full(producer: Producer) -> list[Future[RecordPosition]]:
    accepted = []
    with contextlib.suppress(EventLogFullError):
        while len(accepted) < 100:
            future = producer.publish(TOPIC.name, key=b"k", value=b"x" * 1_000)
            accepted.append(future)
    return accepted


def test_too_much_in_flight_is_refused_and_recovers(
    open_fragile: Open, fragile: KafkaBroker
):
    by_bytes = open_fragile(max_in_flight_bytes=50_000)
    by_number = open_fragile(max_in_flight_records=20)
    by_bytes.ensure_topics([TOPIC])
    by_number.ensure_topics([TOPIC])
    producers = [by_bytes.producer(), by_number.producer()]
    for producer in producers:
        publish(producer, TOPIC, numbered(1))
    fragile.pause()
    accepted = []
    for producer in producers:
        accepted += publish_until_full(producer)
    assert 60 < len(accepted) <= 70
    fragile.resume()
    assert {future.result(PATIENCE_S).topic for future in accepted} == {TOPIC.name}
    for producer in producers:
        publish(producer, TOPIC, numbered(1))


def test_a_broker_killed_under_load_loses_and_doubles_nothing(
    open_fragile: Open, fragile: KafkaBroker
):
    log = open_fragile()
    log.ensure_topics([ONE])
    producer = log.producer()
    futures = []
    for number in range(3_000):
        futures.append(producer.publish(ONE.name, key=b"k", value=b"%d" % number))
        if number in {1_000, 2_000}:
            futures[number // 2].result(PATIENCE_S)
            fragile.kill()
        if number in {1_500, 2_500}:
            fragile.start()
        time.sleep(0.000_2)
    assert all(future.result(PATIENCE_S) for future in futures)
    assert [int(r.value) for r in everything(log, ONE)] == [*range(3_000)]


def test_a_stalled_broker_fails_records_in_time_and_keeps_their_order(
    open_fragile: Open, fragile: KafkaBroker
):
    log = open_fragile(confirm_s=3.0)
    log.ensure_topics([ONE])
    producer = log.producer()
    publish_stubbornly(producer, range(10))
    fragile.pause()
    stuck = [
        producer.publish(ONE.name, key=b"k", value=b"%d" % n) for n in range(10, 60)
    ]
    for future in stuck:
        with pytest.raises(EventLogUnavailableError):
            future.result(PATIENCE_S)
    again = [
        producer.publish(ONE.name, key=b"k", value=b"%d" % n) for n in range(10, 90)
    ]
    fragile.resume()
    # Which of the attempts arrive is open; nothing is ahead of what was published
    # before it.
    outcomes = [future.exception(PATIENCE_S) for future in again]
    assert {type(o) for o in outcomes} <= {type(None), EventLogUnavailableError}
    publish_stubbornly(producer, range(10, 100))
    assert firsts(log) == [*range(100)]


def test_a_stalled_broker_is_noticed_within_a_second_or_so(
    open_fragile: Open, fragile: KafkaBroker
):
    log = open_fragile()
    log.ensure_topics([TOPIC])
    log.check()
    fragile.pause()
    with pytest.raises(EventLogUnavailableError):
        log.check()
    fragile.resume()
    log.check()


def test_a_reader_goes_on_after_the_broker_was_away(
    open_fragile: Open, fragile: KafkaBroker
):
    log = open_fragile()
    log.ensure_topics([ONE])
    publish(log.producer(), ONE, numbered(10))
    consumer = log.consumer(group="readers", topics=[ONE.name])
    records = take(consumer, 10)
    fragile.kill()
    with pytest.raises(EventLogUnavailableError):
        take(consumer, 1)
    with pytest.raises((EventLogUnavailableError, StaleConsumerError)):
        consumer.commit(next_offsets(records))
    fragile.start()
    publish(log.producer(), ONE, numbered(5, start=10))
    seen: list[int] = []

    def complete() -> bool:
        try:
            batch = consumer.poll(max_records=99, max_bytes=1 << 20, timeout_s=0.2)
            consumer.commit(next_offsets(batch))
        except EventLogError:
            return False
        seen.extend(int(r.value) for r in batch)
        return 14 in seen

    wait_for(complete)
    assert {10, 11, 12, 13, 14} <= {*seen}
    wait_for(lambda: log.lag(group="readers", topics=[ONE.name])[0].lag == 0)


def quiet_member(log: EventLog) -> Consumer:
    publish(log.producer(), ONE, numbered(400))
    consumer = log.consumer(group="readers", topics=[ONE.name])
    take(consumer, 1, max_records=1)
    return consumer


def test_heartbeats_keep_a_long_batchs_partitions(
    open_log: Open, kafka_broker: KafkaBroker
):
    limit_s = kafka_broker.shortest_session_s
    log = open_log(max_poll_interval_s=limit_s)
    log.ensure_topics([ONE])
    consumer = quiet_member(log)
    deadline = time.monotonic() + 1.5 * limit_s
    while time.monotonic() < deadline:
        consumer.heartbeat()
        time.sleep(0.05)
    consumer.commit({TopicPartition(ONE.name, 0): 1})
    # What the heartbeats fetched meanwhile is delivered, whole and in order.
    assert [int(v) for v in values(take(consumer, 399))] == [*range(1, 400)]


def test_a_stuck_batchs_partitions_go_to_another(
    open_log: Open, kafka_broker: KafkaBroker
):
    log = open_log(max_poll_interval_s=kafka_broker.shortest_session_s)
    log.ensure_topics([ONE])
    stuck = quiet_member(log)
    other = open_log().consumer(group="readers", topics=[ONE.name])
    assert values(take(other, 1, max_records=1)) == [b"0"]
    with pytest.raises(StaleConsumerError):
        stuck.commit({TopicPartition(ONE.name, 0): 1})


def test_a_commit_never_goes_back(open_log: Open):
    log, later = open_log(), open_log()
    log.ensure_topics([TOPIC])
    publish(log.producer(), TOPIC, numbered(40, keys=20))
    first = log.consumer(group="readers", topics=[TOPIC.name])
    held = next_offsets(take(first, 40))
    second = later.consumer(group="readers", topics=[TOPIC.name])
    settle([first, second], 2)
    (moved,) = second.assignment()
    second.commit({moved: held[moved]})
    second.close()
    wait_for(
        lambda: (
            first.poll(max_records=1, max_bytes=1, timeout_s=0.05) is not None
            and moved in first.assignment()
        )
    )
    publish(log.producer(), TOPIC, numbered(40, keys=20, start=40))
    take(first, 40)
    with pytest.raises(StaleConsumerError):
        first.commit({moved: held[moved] - 1})
    lags = log.lag(group="readers", topics=[TOPIC.name])
    assert (
        next(x for x in lags if x.partition == moved.partition).committed
        == (held[moved])
    )


def test_a_retention_nobody_would_survive_is_refused(open_log: Open):
    with pytest.raises(EventLogError, match="shorter than an outage"):
        open_log(retention_s=600.0)


def test_topics_are_made_so_that_an_outage_loses_nothing(open_log: Open):
    log = open_log(retention_s=3 * 86_400.0)
    log.ensure_topics(TOPICS)
    states = log.inspect_topics(TOPICS)
    assert [state.problems for state in states] == [(), (), ()]
    assert [state.retention_seconds for state in states] == [
        3 * 86_400.0,
        7 * 86_400.0,
        30 * 86_400.0,
    ]
    assert [s.partitions for s in states] == [t.partitions for t in TOPICS]
    endless = open_log(retention_s=0.0, topic_prefix=f"endless-{uuid.uuid4().hex}-")
    endless.ensure_topics([TOPIC])
    assert endless.inspect_topics([TOPIC])[0].retention_seconds is None


def test_what_differs_is_told_and_corrected(open_log: Open, kafka_broker: KafkaBroker):
    log = open_log()
    missing = log.inspect_topics([TOPIC])
    assert missing[0].problems == ("it does not exist",)
    log.ensure_topics([TOPIC])
    kafka_broker.alter_topic(
        log._topics.kafka_name(TOPIC.name),
        {
            "retention.ms": "60000",
            "cleanup.policy": "compact",
            "max.message.bytes": "1000",
        },
    )
    grown = TopicSpec("topic", 3, 1 << 20, 0.0, ("readers",))
    (state,) = log.inspect_topics([grown])
    assert state.problems == (
        "it has 2 partitions instead of 3",
        "cleanup.policy is compact instead of delete",
        "retention.ms is 60000 instead of 604800000",
        "max.message.bytes is 1000 instead of 1064960",
    )
    log.ensure_topics([grown])
    assert log.inspect_topics([grown])[0].problems == ()


def test_too_few_copies_are_told(open_log: Open):
    open_log().ensure_topics([TOPIC])
    (state,) = open_log(replication_factor=3).inspect_topics([TOPIC])
    assert "it is kept 1 times instead of 3" in state.problems
    assert "min.insync.replicas is 1 instead of 2" in state.problems


def test_lag_tells_when_retention_will_take_unread_records(
    open_log: Open, kafka_broker: KafkaBroker
):
    log = open_log()
    log.ensure_topics([ONE])
    publish(log.producer(), ONE, numbered(5))
    (lag,) = log.lag(group="readers", topics=[ONE.name])
    assert 6.9 * 86_400 < (lag.expires_in_s or 0) <= 7 * 86_400
    kafka_broker.alter_topic(
        log._topics.kafka_name(ONE.name), {"retention.ms": "90000"}
    )
    wait_for(
        lambda: (log.lag(group="readers", topics=[ONE.name])[0].expires_in_s or 0) < 90
    )
    consumer = log.consumer(group="readers", topics=[ONE.name])
    consumer.commit(next_offsets(take(consumer, 5)))
    (lag,) = log.lag(group="readers", topics=[ONE.name])
    assert (lag.lag, lag.expires_in_s) == (0, None)


def test_records_deleted_unread_are_never_passed_over_in_silence(
    open_log: Open, kafka_broker: KafkaBroker, caplog: pytest.LogCaptureFixture
):
    log = open_log()
    log.ensure_topics([ONE])
    places = publish(log.producer(), ONE, numbered(20))
    consumer = log.consumer(group="readers", topics=[ONE.name])
    consumer.commit(next_offsets(take(consumer, 5, max_records=5)[:5]))
    consumer.close()
    log._admin.delete_records(
        {(log._topics.kafka_name(ONE.name), 0): places[12].offset}
    )
    caplog.clear()
    with caplog.at_level(logging.ERROR):
        again = log.consumer(group="readers", topics=[ONE.name])
        assert values(take(again, 8)) == [b"%d" % n for n in range(12, 20)]
    (told,) = [r for r in caplog.records if r.msg == "eventlog.records_lost"]
    assert (told.from_offset, told.records) == (5, 7)  # type: ignore[attr-defined]


def test_a_topic_that_appears_later_takes_what_waited(open_log: Open):
    log, other = open_log(), open_log()
    producer = log.producer()
    with pytest.raises(EventLogUnavailableError, match="no such topic"):
        producer.publish(ONE.name, key=b"k", value=b"0").result(PATIENCE_S)
    other.ensure_topics([ONE])
    publish(producer, ONE, numbered(3))
    assert values(everything(log, ONE)) == [b"0", b"1", b"2"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"security_protocol": "SASL_SSL"}, "SASL mechanism"),
        (
            {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN"},
            "user name and a password",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(options, reason):
    with pytest.raises(EventLogError, match=reason):
        KafkaEventLog("localhost:9092", **options)
    with pytest.raises(EventLogError, match="bootstrap"):
        KafkaEventLog(" ")


@pytest.fixture(scope="module")
def guarded(
    kafka_broker: KafkaBroker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KafkaBroker]:
    """A broker that asks for TLS and a password."""
    if not kafka_broker.can_be_killed:
        pytest.skip("a foreign broker has its own security")
    directory = tmp_path_factory.mktemp("guarded") / "broker"
    with KafkaBroker(directory, users={"matyan": SECRET}) as broker:
        yield broker


def secure(broker: KafkaBroker, stack: ExitStack, *, password: str) -> KafkaEventLog:
    return opener(broker, stack)(
        security_protocol="SASL_SSL",
        sasl_mechanism="PLAIN",
        sasl_username="matyan",
        sasl_password=password,
        ssl_ca_location=str(broker.ca_file),
    )


def test_tls_and_passwords_are_spoken(guarded: KafkaBroker, stack: ExitStack):
    log = secure(guarded, stack, password=SECRET)
    log.ensure_topics([TOPIC])
    publish(log.producer(), TOPIC, numbered(10))
    consumer = log.consumer(group="readers", topics=[TOPIC.name])
    consumer.commit(next_offsets(take(consumer, 10)))
    log.check()


def test_a_wrong_password_is_told_and_never_shown(
    guarded: KafkaBroker, stack: ExitStack, caplog: pytest.LogCaptureFixture
):
    wrong = "wrong-" + SECRET
    log = secure(guarded, stack, password=wrong)
    producer = log.producer()
    future = producer.publish(TOPIC.name, key=b"k", value=b"v")
    told: list[MatyanError] = []
    with pytest.raises(EventLogUnavailableError, match="_AUTHENTICATION") as raised:
        log.check()
    told.append(raised.value)
    producer.close(timeout_s=0.1)
    assert isinstance(future.exception(PATIENCE_S), EventLogUnavailableError)
    seen = "".join(map(str, told)) + repr(log._connection) + caplog.text
    assert SECRET not in seen


def test_pairs_of_records_keep_their_order_across_two_producers(open_log: Open):
    log = open_log()
    log.ensure_topics([ONE])
    first, second = log.producer(), log.producer()
    for number in range(20):
        publish([first, second][number % 2], ONE, [(b"k", b"%d" % number)])
    records = everything(log, ONE)
    assert all(
        a.position.offset < b.position.offset and a.time_us <= b.time_us
        for a, b in pairwise(records)
    )
    assert values(records) == [b"%d" % n for n in range(20)]

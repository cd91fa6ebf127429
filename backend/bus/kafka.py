"""The event log on Apache Kafka (3.3 or newer, KRaft).

Opening connects to nothing; each operation does, with a time limit. The parts:
`kafka_settings` turns options into client properties, `kafka_topics` makes, compares
and trims topics, `kafka_producer`, `kafka_consumer` and `kafka_reader` move records,
`kafka_admin` asks the cluster, `kafka_errors` translates what it answers. Only these
modules import confluent_kafka.

Design note: docs/subsystems/eventlog.md#kafka
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from typing_extensions import override

from backend.bus.base import (
    Consumer,
    EventLog,
    PartitionLag,
    Producer,
    Record,
    RecordPosition,
    TopicSpec,
    TopicState,
)
from backend.bus.kafka_admin import KafkaAdmin, Place
from backend.bus.kafka_consumer import KafkaConsumer, decode_headers
from backend.bus.kafka_producer import KafkaProducer, ProducerLimits
from backend.bus.kafka_reader import KafkaReader
from backend.bus.kafka_settings import (
    Connection,
    consumer_properties,
    producer_properties,
    reader_properties,
)
from backend.bus.kafka_topics import KafkaTopics, KnownTopic
from backend.errors import EventLogClosedError, EventLogUnavailableError

CHECK_S: Final = 1.0
DAY_S: Final = 86_400.0


def system_now_us() -> int:
    """Return the wall clock, microseconds since the epoch."""
    return time.time_ns() // 1000


class KafkaEventLog(EventLog):
    """See the module.

    Args:
        bootstrap_servers: Brokers to start from, comma-separated host:port.
        security_protocol: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.
        sasl_mechanism: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.
        sasl_username: For SASL.
        sasl_password: For SASL; never logged.
        ssl_ca_location: File with the brokers' CA certificates; empty: the system's.
        replication_factor: Copies of each topic that is made here.
        topic_prefix: Put before every topic's and group's name.
        retention_s: How long records are kept unconsumed: the longest outage of the
            workers to be survived; 0: for ever.
        trim_interval_s: Consumed records are deleted at most this often.
        max_in_flight_bytes: Bound on what a producer has published unconfirmed.
        max_in_flight_records: The same, as a number.
        confirm_s: A record the brokers do not confirm within this is failed.
        session_timeout_s: How long a silent group member keeps its partitions.
        max_poll_interval_s: How long one keeps them that neither polls nor heartbeats.
        now_us: Wall clock, tells the age of records.

    Raises:
        EventLogError: If the options contradict each other.
    """

    def __init__(  # noqa: PLR0913 - each is one independent choice
        self,
        bootstrap_servers: str,
        *,
        security_protocol: str = "PLAINTEXT",
        sasl_mechanism: str = "",
        sasl_username: str = "",
        sasl_password: str = "",
        ssl_ca_location: str = "",
        replication_factor: int = 1,
        topic_prefix: str = "",
        retention_s: float = 7 * DAY_S,
        trim_interval_s: float = 30.0,
        max_in_flight_bytes: int = 64 << 20,
        max_in_flight_records: int = 100_000,
        confirm_s: float = 30.0,
        session_timeout_s: float = 10.0,
        max_poll_interval_s: float = 60.0,
        now_us: Callable[[], int] = system_now_us,
    ) -> None:
        self._connection = Connection(
            bootstrap_servers,
            security_protocol,
            sasl_mechanism,
            sasl_username,
            sasl_password,
            ssl_ca_location,
        )
        self._connection.check()
        self._limits = ProducerLimits(
            max_in_flight_bytes, max_in_flight_records, confirm_s
        )
        self._session_timeout_s = session_timeout_s
        self._max_poll_interval_s = max_poll_interval_s
        self._trim_interval_s = trim_interval_s
        self._trimmed_s = float("-inf")
        self._now_us = now_us
        self._admin = KafkaAdmin(self._connection)
        self._topics = KafkaTopics(
            self._admin,
            prefix=topic_prefix,
            replication_factor=replication_factor,
            retention_s=retention_s,
        )
        self._reader = KafkaReader(reader_properties(self._connection))
        self._lock = threading.Lock()
        self._closed = False
        self._producers: set[KafkaProducer] = set()
        self._consumers: set[KafkaConsumer] = set()

    @override
    def ensure_topics(self, specs: Sequence[TopicSpec]) -> None:
        self._check_open()
        self._topics.ensure(specs)

    @override
    def inspect_topics(self, specs: Sequence[TopicSpec]) -> list[TopicState]:
        self._check_open()
        return self._topics.states(specs)

    @override
    def producer(self) -> Producer:
        self._check_open()
        producer = KafkaProducer(
            producer_properties(self._connection),
            self._topics,
            limits=self._limits,
            on_close=self._producers.discard,
        )
        self._producers.add(producer)
        return producer

    @override
    def consumer(self, *, group: str, topics: Sequence[str]) -> Consumer:
        self._check_open()
        for name in topics:
            self._topics.get(name)
        self._topics.register(group, topics)
        properties = consumer_properties(
            self._connection,
            group=self._topics.kafka_name(group),
            session_timeout_s=self._session_timeout_s,
            max_poll_interval_s=self._max_poll_interval_s,
        )
        consumer = KafkaConsumer(
            properties,
            self._topics,
            group=group,
            names=topics,
            on_close=self._consumers.discard,
        )
        self._consumers.add(consumer)
        return consumer

    @override
    def lag(self, *, group: str, topics: Sequence[str]) -> list[PartitionLag]:
        self._check_open()
        known = [self._topics.get(name, fresh=True) for name in topics]
        places = [(t.kafka_name, n) for t in known for n in range(t.partitions)]
        oldest = self._admin.offsets(places, newest=False)
        ends = self._admin.offsets(places, newest=True)
        committed = self._admin.committed(self._topics.kafka_name(group), places)
        starts = {p: max(committed.get(p, 0), oldest[p]) for p in places}
        waiting = {p: n for p, n in starts.items() if n < ends[p]}
        times_ms = self._reader.times_ms(waiting)
        return [
            self._lag_of(topic, number, starts, ends, times_ms)
            for topic in known
            for number in range(topic.partitions)
        ]

    @override
    def read(
        self, topic: str, *, partition: int, offset: int, max_records: int
    ) -> list[Record]:
        self._check_open()
        known = self._topics.get(topic)
        place = (known.kafka_name, partition)
        start = max(offset, self._admin.offsets([place], newest=False)[place])
        end = self._admin.offsets([place], newest=True)[place]
        if start >= end:
            return []
        found = self._reader.read(place, offset=start, end=end, max_records=max_records)
        return [_record(message, known) for message in found]

    @override
    def trim(self) -> int:
        self._check_open()
        now_s = time.monotonic()
        if now_s - self._trimmed_s < self._trim_interval_s:
            return 0
        self._trimmed_s = now_s
        return self._topics.trim()

    @override
    def check(self) -> None:
        self._check_open()
        producers = list(self._producers)
        if any(p.seconds_since_confirmation() < CHECK_S for p in producers):
            return
        waited_s = max((p.seconds_waiting() for p in producers), default=0.0)
        if waited_s > 5 * CHECK_S:
            reason = "records are not being confirmed"
            raise EventLogUnavailableError(reason=reason, waited_s=round(waited_s, 1))
        self._topics.check_writable(timeout_s=CHECK_S)

    @override
    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for consumer in list(self._consumers):
            consumer.close()
        for producer in list(self._producers):
            producer.close()
        self._reader.close()
        self._admin.close()

    def _check_open(self) -> None:
        if self._closed:
            raise EventLogClosedError

    def _lag_of(
        self,
        topic: KnownTopic,
        number: int,
        starts: dict[Place, int],
        ends: dict[Place, int],
        times_ms: dict[Place, int],
    ) -> PartitionLag:
        place = (topic.kafka_name, number)
        time_ms = times_ms.get(place)
        age_s = expires_in_s = None
        if time_ms is not None:
            age_s = max(0.0, self._now_us() / 1e6 - time_ms / 1e3)
        if age_s is not None and topic.retention_s is not None:
            expires_in_s = max(0.0, topic.retention_s - age_s)
        return PartitionLag(
            topic.name,
            number,
            committed=min(starts[place], ends[place]),
            end=ends[place],
            oldest_age_s=age_s or 0.0,
            expires_in_s=expires_in_s,
        )


def _record(message: Any, topic: KnownTopic) -> Record:
    position = RecordPosition(
        topic.log_id, topic.name, message.partition(), message.offset()
    )
    return Record(
        position,
        message.key() or b"",
        message.value() or b"",
        message.timestamp()[1] * 1000,
        decode_headers(message),
    )

"""Questions and orders to the Kafka cluster: topics, their settings, offsets.

Thread-safe. Every call has a time limit and raises only `EventLogError`.

Design note: docs/subsystems/eventlog.md#kafka
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from backend.bus.kafka_errors import (
    DENIED,
    NO_COORDINATOR,
    SILENCE,
    UNKNOWN_TOPIC,
    UNSEEN,
    error_of,
    library_log,
    translate,
)
from backend.bus.kafka_settings import Connection
from backend.errors import EventLogClosedError, EventLogUnavailableError

ANSWER_S: Final = 10.0
COORDINATOR_S: Final = 5.0
"""How long a broker that has just started may take to read the groups' offsets."""

REACHED_S: Final = 0.2
"""A broker that answered so lately will answer now."""

_INTERNAL_TOPIC: Final = "__consumer_offsets"
_FUTURE_SLACK_S: Final = 2.0
_TOPIC_ALREADY_EXISTS: Final = KafkaError.TOPIC_ALREADY_EXISTS
_INVALID_PARTITIONS: Final = KafkaError.INVALID_PARTITIONS

Place = tuple[str, int]
"""Kafka's topic name and partition."""


@dataclass(frozen=True, slots=True)
class Description:
    """A topic as the cluster describes it.

    Attributes:
        topic_id: Differs after a topic was deleted and made again.
        leaders: Broker id of each partition's leader, None if it has none.
        in_sync: Number of each partition's copies that are up to date.
        replicas: Smallest number of copies of a partition.
    """

    topic_id: str
    leaders: tuple[int | None, ...]
    in_sync: tuple[int, ...]
    replicas: int


class KafkaAdmin:
    """See the module. Connects on first use."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._opened: AdminClient | None = None
        self._group_readers: dict[str, Consumer] = {}
        self._trouble = ""
        self._reached_s = float("-inf")
        self._cluster_id = ""

    def cluster_id(self, *, timeout_s: float = ANSWER_S) -> str:
        """Return the cluster's own id."""
        if not self._cluster_id:
            future = self._ask(
                lambda client: client.describe_cluster(request_timeout=timeout_s),
                timeout_s=timeout_s,
            )
            self._cluster_id = self._answer(future, timeout_s).cluster_id or "kafka"
        return self._cluster_id

    def describe(
        self, names: Sequence[str], *, timeout_s: float = ANSWER_S
    ) -> dict[str, Description]:
        """Return the topics of these names; those that do not exist are left out."""
        if not names:
            return {}
        futures = self._ask(
            lambda client: client.describe_topics(
                TopicCollection(list(names)), request_timeout=timeout_s
            ),
            timeout_s=timeout_s,
        )
        found = {}
        for name, future in futures.items():
            answer = self._answer(future, timeout_s, passing=UNKNOWN_TOPIC)
            if answer is not None:
                found[name] = _description(answer)
        return found

    def configs(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return the topics' settings; empty ones for those that may not be read."""
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        if not resources:
            return {}
        futures = self._ask(
            lambda client: client.describe_configs(resources, request_timeout=ANSWER_S)
        )
        return {
            resource.name: {
                key: entry.value
                for key, entry in (
                    self._answer(future, passing=DENIED | UNKNOWN_TOPIC) or {}
                ).items()
            }
            for resource, future in futures.items()
        }

    def create(
        self, name: str, *, partitions: int, replicas: int, config: Mapping[str, str]
    ) -> None:
        """Create a topic, unless somebody else just did."""
        topic = NewTopic(
            name,
            num_partitions=partitions,
            replication_factor=replicas,
            config=dict(config),
        )
        futures = self._ask(
            lambda client: client.create_topics(
                [topic], operation_timeout=ANSWER_S, request_timeout=ANSWER_S
            )
        )
        exists = frozenset({_TOPIC_ALREADY_EXISTS})
        self._answer(futures[name], passing=exists, topic=name)

    def grow(self, name: str, *, partitions: int) -> None:
        """Raise a topic's number of partitions, unless somebody else just did."""
        wanted = NewPartitions(name, partitions)
        futures = self._ask(
            lambda client: client.create_partitions(
                [wanted], operation_timeout=ANSWER_S, request_timeout=ANSWER_S
            )
        )
        passing = frozenset({_INVALID_PARTITIONS})
        self._answer(futures[name], passing=passing, topic=name)

    def set_config(self, name: str, config: Mapping[str, str]) -> bool:
        """Change some of a topic's settings; return whether that is allowed."""
        entries = [
            ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
            for key, value in config.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
        futures = self._ask(
            lambda client: client.incremental_alter_configs(
                [resource], request_timeout=ANSWER_S
            )
        )
        (future,) = futures.values()
        denied = object()
        return self._answer(future, passing=DENIED, instead=denied) is not denied

    def offsets(self, places: Sequence[Place], *, newest: bool) -> dict[Place, int]:
        """Return each partition's end, or the offset of its oldest record."""
        if not places:
            return {}
        try:
            return self._offsets(places, newest=newest)
        except _UnseenError:
            # The client library has not heard of new partitions, or new leaders, yet.
            self._hear({name for name, _partition in places})
            return self._offsets(places, newest=newest)

    def committed(self, group: str, places: Sequence[Place]) -> dict[Place, int]:
        """Return the group's committed offsets, leaving out where it has none."""
        if not places:
            return {}
        deadline = time.monotonic() + COORDINATOR_S
        while True:
            found = self._committed(group, places)
            if found is not None:
                break
            if time.monotonic() > deadline:
                raise EventLogUnavailableError(group=group, reason="no coordinator yet")
            time.sleep(0.1)
        return {
            (where.topic, where.partition): where.offset
            for where in found
            if where.error is None and where.offset >= 0
        }

    def close(self) -> None:
        """Let go of what asks for groups' offsets. May be called twice."""
        with self._lock:
            readers, self._group_readers = self._group_readers, {}
        for reader in readers.values():
            reader.close()

    def delete_records(self, ends: Mapping[Place, int]) -> dict[Place, int]:
        """Delete what lies before each offset; return each partition's new start."""
        asked = [TopicPartition(*place, offset) for place, offset in ends.items()]
        if not asked:
            return {}
        futures = self._ask(
            lambda client: client.delete_records(
                asked, operation_timeout=ANSWER_S, request_timeout=ANSWER_S
            )
        )
        starts = {}
        for where, future in futures.items():
            answer = self._answer(future, passing=DENIED)
            if answer is not None:
                starts[where.topic, where.partition] = answer.low_watermark
        return starts

    def _answer(
        self,
        future: Future[Any],
        timeout_s: float = ANSWER_S,
        *,
        passing: frozenset[int] = frozenset(),
        instead: object = None,
        topic: str | None = None,
    ) -> Any:
        """Return the cluster's answer, `instead` where it is one of `passing`."""
        try:
            return future.result(timeout_s + _FUTURE_SLACK_S)
        except KafkaException as error:
            code = error_of(error).code()
            if code in passing:
                return instead
            if code in UNSEEN:
                raise _UnseenError(reason="no leader is known") from error
            if code in SILENCE and self._hear_trouble():
                raise EventLogUnavailableError(reason=self._trouble) from error
            raise translate(error, topic=topic) from error
        except FutureTimeoutError:
            reason = self._hear_trouble() or f"no answer within {timeout_s} s"
            raise EventLogUnavailableError(reason=reason) from None

    def _committed(
        self, group: str, places: Sequence[Place]
    ) -> list[TopicPartition] | None:
        """Return the group's offsets, None while its coordinator is not ready."""
        asked = [TopicPartition(*place) for place in places]
        reader = self._group_reader(group)
        try:
            # Nothing comes of it but what the library has to say meanwhile.
            reader.poll(0)
            return reader.committed(asked, timeout=ANSWER_S)
        except RuntimeError:
            raise EventLogClosedError from None
        except KafkaException as error:
            if error_of(error).code() in NO_COORDINATOR:
                return None
            if self._hear_trouble():
                raise EventLogUnavailableError(reason=self._trouble) from error
            raise translate(error) from error

    def _group_reader(self, group: str) -> Consumer:
        """Return a consumer that asks for a group's offsets and never joins it.

        The administrative request of that purpose is not used: the library (2.16) may
        abort the process, or hang until its time-out, when the connection to the
        group's coordinator breaks at the wrong moment (librdkafka issue 4605).
        """
        with self._lock:
            reader = self._group_readers.get(group)
            if reader is None:
                properties = self._connection.properties() | {
                    "group.id": group,
                    "enable.auto.commit": False,
                    "error_cb": self._note,
                }
                reader = Consumer(properties, logger=library_log)
                self._group_readers[group] = reader
            return reader

    def _offsets(self, places: Sequence[Place], *, newest: bool) -> dict[Place, int]:
        spec: Any = OffsetSpec  # its constructors have no types
        spec = spec.latest() if newest else spec.earliest()
        asked = {TopicPartition(*place): spec for place in places}
        futures = self._ask(
            lambda client: client.list_offsets(asked, request_timeout=ANSWER_S)
        )
        return {
            (where.topic, where.partition): self._answer(future).offset
            for where, future in futures.items()
        }

    def _hear(self, names: Collection[str]) -> None:
        for name in names:
            try:
                self._client().list_topics(topic=name, timeout=ANSWER_S)
            except KafkaException as error:
                raise translate(error) from error

    def _client(self) -> AdminClient:
        with self._lock:
            if self._opened is None:
                properties = self._connection.properties()
                properties["error_cb"] = self._note
                self._opened = AdminClient(properties, logger=library_log)
            return self._opened

    def _hear_trouble(self) -> str:
        """Return what the library has said about the connection meanwhile."""
        # A refused password, for example, reaches the caller as a time-out only.
        self._trouble = ""
        self._client().poll(0)
        return self._trouble

    def _note(self, error: KafkaError) -> None:
        self._trouble = f"{error.name()}: {error.str()}"

    def _ask(self, call: Any, *, timeout_s: float = ANSWER_S) -> Any:
        self._reach(timeout_s)
        try:
            return call(self._client())
        except KafkaException as error:
            raise translate(error) from error

    def _reach(self, timeout_s: float) -> None:
        """Ask for something small first.

        The library (2.16) can abort the process when a broker comes back while one of
        its administrative requests waits for it; so none is made to wait.
        """
        if time.monotonic() - self._reached_s < REACHED_S:
            return
        try:
            self._client().list_topics(topic=_INTERNAL_TOPIC, timeout=timeout_s)
        except KafkaException as error:
            if self._hear_trouble():
                raise EventLogUnavailableError(reason=self._trouble) from error
            raise translate(error) from error
        self._reached_s = time.monotonic()


class _UnseenError(EventLogUnavailableError):
    """The client library does not know who leads a partition."""


def _description(answer: Any) -> Description:
    partitions = sorted(answer.partitions, key=lambda p: p.id)
    return Description(
        topic_id=str(answer.topic_id),
        leaders=tuple(None if p.leader is None else p.leader.id for p in partitions),
        in_sync=tuple(len(p.isr) for p in partitions),
        replicas=min((len(p.replicas) for p in partitions), default=0),
    )

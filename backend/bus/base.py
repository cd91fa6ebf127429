"""What the event log promises: durable, partitioned, ordered records with groups.

The shape is Apache Kafka's. `local.py` (LMDB, one machine) and `kafka.py` implement it;
one conformance suite, written only against this file, runs on both.

Vocabulary. A *topic* has a fixed number of *partitions*. A *record* has a key, a value
and, once appended, an *offset*, ascending within its partition. Records of one key go
to one partition, in the order they were published by one producer. A *consumer group*
shares the partitions among its members; the group's *committed offset* of a partition
is the next offset to be read after a restart. Delivery is at least once: what was
polled and not committed is delivered again after a restart or a rebalance.

Retention never deletes a record that a registered group has not consumed.

Design note: docs/subsystems/eventlog.md
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TopicPartition:
    """One partition of one topic."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class RecordPosition:
    """Where a record stands in the log.

    Attributes:
        log_id: Identity of the log and this incarnation of the topic: offsets compare
            only within one `log_id`. At most 64 characters.
        topic: Topic name.
        partition: From 0.
        offset: Ascending within the partition, not necessarily without gaps.
    """

    log_id: str
    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Record:
    """A record as a consumer gets it."""

    position: RecordPosition
    key: bytes
    value: bytes
    time_us: int
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic to exist.

    Attributes:
        name: Topic name.
        partitions: Number of partitions; may grow, never shrink.
        max_record_bytes: Largest key + value + headers.
        retention_seconds: How long consumed records are kept at least; 0 deletes
            them as soon as every registered group has consumed them.
        groups: Groups registered from the start: nothing is deleted before them.
    """

    name: str
    partitions: int
    max_record_bytes: int
    retention_seconds: float
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as it is.

    Attributes:
        name: Topic name.
        partitions: Number of partitions, 0 if it does not exist.
        replicas: How many copies are kept of it.
        max_record_bytes: Largest record it takes.
        retention_seconds: Age at which records are deleted; None: not by age alone.
        problems: What differs from the spec, a clause each, beginning with "it" or a
            setting's name.
    """

    name: str
    partitions: int
    replicas: int
    max_record_bytes: int
    retention_seconds: float | None
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """How far a group is behind in one partition.

    Attributes:
        committed: Next offset the group would read.
        end: Offset the next appended record would get.
        oldest_age_s: Age of the oldest unconsumed record, 0 if none.
        expires_in_s: Seconds until retention deletes that record unconsumed; None:
            it never does.
    """

    topic: str
    partition: int
    committed: int
    end: int
    oldest_age_s: float
    expires_in_s: float | None = None

    @property
    def lag(self) -> int:
        """Number of records not consumed yet (an upper bound)."""
        return max(0, self.end - self.committed)

    @property
    def is_near_loss(self) -> bool:
        """Whether the oldest unconsumed record has used up half of its retention."""
        return self.expires_in_s is not None and self.expires_in_s < self.oldest_age_s


def seconds_to_loss(lags: Iterable[PartitionLag]) -> float | None:
    """Return when retention deletes the first unconsumed record; None: never."""
    left = [lag.expires_in_s for lag in lags if lag.expires_in_s is not None]
    return min(left, default=None)


class Producer(ABC):
    """Appends records. May be shared by threads; bounded in memory."""

    @abstractmethod
    def publish(
        self,
        topic: str,
        *,
        key: bytes,
        value: bytes,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> Future[RecordPosition]:
        """Append a record; the future resolves once it is durable.

        Never blocks on I/O. Concurrent calls share one durable commit.

        Raises (through the future, or at once where known):
            RecordTooLargeError: If the record is over the topic's limit.
            EventLogFullError: If there is no room (disk, or too much in flight).
            EventLogUnavailableError: If the log did not confirm in time. The record may
                or may not have been appended: publish it again.
            EventLogClosedError: If the producer was closed.
        """

    @abstractmethod
    def flush(self, *, timeout_s: float) -> bool:
        """Wait until nothing is in flight; return whether that was reached."""

    @abstractmethod
    def close(self, *, timeout_s: float = 10.0) -> None:
        """Flush, then refuse further records. May be called twice."""


class Consumer(ABC):
    """One member of a consumer group. Belongs to one thread."""

    @abstractmethod
    def poll(
        self, *, max_records: int, max_bytes: int, timeout_s: float
    ) -> list[Record]:
        """Return the next records of the assigned partitions; wait if there are none.

        At least one record is returned when one is available, even above `max_bytes`.
        Returns early when woken. Also keeps the group membership alive: call it at
        least every few seconds, or `heartbeat`.

        Raises:
            EventLogUnavailableError: If the log does not answer; call again later.
        """

    @abstractmethod
    def commit(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        """Record that everything below the given offsets is consumed.

        Raises:
            StaleConsumerError: If a partition has been given to another member; its
                records will be, or were, delivered there. The other partitions named
                are still committed.
            EventLogUnavailableError: If the log does not answer.
        """

    @abstractmethod
    def heartbeat(self) -> None:
        """Keep the membership alive during a long batch, without fetching."""

    @abstractmethod
    def rewind(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        """Make the next poll start again at the given offsets (after a failure)."""

    @abstractmethod
    def assignment(self) -> frozenset[TopicPartition]:
        """Return the partitions this member owns now."""

    @abstractmethod
    def wake(self) -> None:
        """Make a blocked `poll` return. The only method another thread may call."""

    @abstractmethod
    def close(self) -> None:
        """Leave the group. May be called twice."""


class EventLog(ABC):
    """An open event log."""

    @abstractmethod
    def ensure_topics(self, specs: Sequence[TopicSpec]) -> None:
        """Create missing topics and add missing partitions."""

    @abstractmethod
    def inspect_topics(self, specs: Sequence[TopicSpec]) -> list[TopicState]:
        """Return how each topic is, without changing anything."""

    @abstractmethod
    def producer(self) -> Producer:
        """Return a new producer."""

    @abstractmethod
    def consumer(self, *, group: str, topics: Sequence[str]) -> Consumer:
        """Return a new member of `group`, reading from the committed offsets.

        A group without committed offsets starts at the oldest record.
        """

    @abstractmethod
    def lag(self, *, group: str, topics: Sequence[str]) -> list[PartitionLag]:
        """Return the group's lag for every partition of the topics."""

    @abstractmethod
    def read(
        self, topic: str, *, partition: int, offset: int, max_records: int
    ) -> list[Record]:
        """Return records from `offset` on, outside any group (for inspection)."""

    @abstractmethod
    def trim(self) -> int:
        """Delete what retention allows; return the number of records deleted."""

    @abstractmethod
    def check(self) -> None:
        """Verify within about a second that the log can take records.

        Raises:
            EventLogError: If it cannot.
        """

    @abstractmethod
    def close(self) -> None:
        """Release everything, closing producers and consumers made here."""

"""The event log of one machine: durable, on LMDB, for several processes at once.

Everything lives in one directory, which must be on a local disk (LMDB's locks do not
work over a network). Many processes may have it open, each with any number of producers
and consumers; opening it twice in a process shares one set of files. It must not be
used in a process forked after it was opened.

Where things are: bytes in `local_format`, files and errors in `local_environment`,
group commit in `local_producer`, groups in `local_groups`, `local_lease` and
`local_consumer`, deletion in `local_retention`.

Design note: docs/subsystems/eventlog.md
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from typing_extensions import override

from backend.bus import local_format as fmt
from backend.bus import local_groups as groups
from backend.bus.base import (
    Consumer,
    EventLog,
    PartitionLag,
    Producer,
    Record,
    TopicPartition,
    TopicSpec,
    TopicState,
)
from backend.bus.local_consumer import LocalConsumer
from backend.bus.local_environment import LocalEnvironment, acquire
from backend.bus.local_lease import Leases
from backend.bus.local_producer import Appender, LocalProducer
from backend.bus.local_reader import Budget, read_records
from backend.bus.local_retention import trim
from backend.bus.local_topics import ensure_topics, inspect_topics, iter_prefix
from backend.errors import EventLogClosedError, EventLogFullError

CHECK_TIMEOUT_S: Final = 1.0
CLOSE_TIMEOUT_S: Final = 10.0
READ_BYTES: Final = 64 << 20
READER_CHECK_INTERVAL_S: Final = 30.0


def system_now_us() -> int:
    """Return the wall clock, microseconds since the epoch."""
    return time.time_ns() // 1000


class LocalEventLog(EventLog):
    """See the module.

    Args:
        path: Directory, made if missing.
        map_bytes: Initial size of the memory map; it grows by itself.
        max_bytes: Refuse records beyond this much stored, None for the disk's own
            bound. Consumers still commit, so the log recovers as they proceed.
        min_free_bytes: Refuse records when the disk has less than this left, so that
            consumers can still commit, which is what makes room.
        max_in_flight_bytes: Bound on what this process has published and not stored.
        confirm_s: A record that the disk does not take within this is failed as
            unconfirmed.
        lease_s: How long a silent group member keeps its partitions.
        durable: Whether a commit waits for the disk. False only for tests.
        now_us: Wall clock that stamps records.
        monotonic: Clock of the leases, the same in all processes; seconds.

    Raises:
        EventLogFullError: If there is no room to create it.
        EventLogUnavailableError: If it cannot be opened.
        FormatError: If another version wrote it.
    """

    def __init__(  # noqa: PLR0913 - each is one independent choice
        self,
        path: str | os.PathLike[str],
        *,
        map_bytes: int = 1 << 30,
        max_bytes: int | None = None,
        min_free_bytes: int = 64 << 20,
        max_in_flight_bytes: int = 64 << 20,
        confirm_s: float = 30.0,
        lease_s: float = 10.0,
        durable: bool = True,
        now_us: Callable[[], int] = system_now_us,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_bytes = max_bytes
        self._min_free_bytes = min_free_bytes
        self._now_us = now_us
        self._closed = False
        self._lock = threading.Lock()
        self._consumers: set[LocalConsumer] = set()
        self._readers_checked_s = time.monotonic()
        self._env = acquire(Path(path), map_bytes=map_bytes, durable=durable)
        self._leases = Leases(self._env.path, lease_s=lease_s, monotonic=monotonic)
        self._leases.sweep()
        self._appender = Appender(
            self._env,
            max_bytes=max_bytes,
            min_free_bytes=min_free_bytes,
            max_in_flight_bytes=max_in_flight_bytes,
            confirm_s=confirm_s,
            now_us=now_us,
            make_room=self.trim,
        )

    @property
    def log_id(self) -> str:
        """Identity of this log, made when it was created."""
        return self._env.log_id

    @override
    def ensure_topics(self, specs: Sequence[TopicSpec]) -> None:
        ensure_topics(self._open_env(), specs)

    @override
    def inspect_topics(self, specs: Sequence[TopicSpec]) -> list[TopicState]:
        return inspect_topics(self._open_env(), specs)

    @override
    def producer(self) -> Producer:
        self._open_env()
        return LocalProducer(self._appender)

    @override
    def consumer(self, *, group: str, topics: Sequence[str]) -> Consumer:
        env = self._open_env()
        fmt.check_name("Group", group)
        if not env.read(lambda txn: groups.is_registered(txn, env, group, topics)):
            env.write(lambda txn: groups.register(txn, env, group, topics))
        consumer = LocalConsumer(
            env,
            self._leases,
            group=group,
            topics=topics,
            now_us=self._now_us,
            on_close=self._consumers.discard,
        )
        self._consumers.add(consumer)
        return consumer

    @override
    def lag(self, *, group: str, topics: Sequence[str]) -> list[PartitionLag]:
        env = self._open_env()
        now_us = self._now_us()
        return env.read(lambda txn: groups.lag(txn, env, group, topics, now_us=now_us))

    @override
    def read(
        self, topic: str, *, partition: int, offset: int, max_records: int
    ) -> list[Record]:
        env = self._open_env()
        where = TopicPartition(topic, partition)
        budget = Budget(max_records, READ_BYTES)
        return env.read(lambda txn: read_records(txn, env, where, offset, budget))

    @override
    def trim(self) -> int:
        env = self._open_env()
        now_s = time.monotonic()
        if now_s - self._readers_checked_s > READER_CHECK_INTERVAL_S:
            self._readers_checked_s = now_s
            env.drop_dead_readers()
        return trim(env, now_us=self._now_us())

    @override
    def check(self) -> None:
        env = self._open_env()
        path = str(env.path)
        if env.free_disk_bytes() < self._min_free_bytes:
            raise EventLogFullError(path=path, reason="the disk is nearly full")
        if self._max_bytes is not None and self.stored_bytes() >= self._max_bytes:
            raise EventLogFullError(path=path, reason="the configured size is reached")
        self._appender.probe(timeout_s=CHECK_TIMEOUT_S)

    def stored_bytes(self) -> int:
        """Return about how many bytes the records take."""
        env = self._open_env()
        return env.read(lambda txn: _stored_bytes(txn, env))

    @override
    def close(self) -> None:
        if self._env.is_inherited():
            return  # it is the parent's to close
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for consumer in list(self._consumers):
            consumer.close()
        # A thread stuck in the disk must not make this wait for ever: its files stay
        # open until the process ends.
        if self._appender.close(timeout_s=CLOSE_TIMEOUT_S):
            self._env.release()

    def _open_env(self) -> LocalEnvironment:
        if self._closed:
            raise EventLogClosedError(path=str(self._env.path))
        self._env.check_usable()
        return self._env


def _stored_bytes(txn: Any, env: LocalEnvironment) -> int:
    rows = iter_prefix(txn, env.state, b"p")
    return sum(fmt.decode_partition(row).stored_bytes for _key, row in rows)

"""Topics of the Kafka event log: made as specified, compared, remembered, trimmed.

Retention. Kafka deletes by age whether or not a record was consumed, so every topic is
made with the longer of its own retention and `retention_s`, the longest outage of the
workers to be survived; records consumed earlier are deleted by `trim`. What is about to
be deleted unread is shown by `PartitionLag.expires_in_s`.

Design note: docs/subsystems/eventlog.md#kafka
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from backend.bus.base import TopicSpec, TopicState
from backend.bus.kafka_admin import Description, KafkaAdmin, Place
from backend.bus.kafka_settings import (
    BATCH_BYTES,
    MIN_RETENTION_S,
    OVERHEAD_BYTES,
)
from backend.errors import EventLogError, EventLogUnavailableError

logger = logging.getLogger(__name__)

SETTLE_S: Final = 10.0
"""How long the cluster may take to show a topic it has made."""

SEGMENT_BYTES: Final = 128 << 20
"""Kafka frees whole segments: smaller ones give consumed space back earlier."""

FOR_EVER: Final = "-1"


@dataclass(frozen=True, slots=True)
class KnownTopic:
    """A topic that exists.

    Attributes:
        name: Its name in this product.
        kafka_name: Its name in the cluster.
        log_id: Identity of the cluster and of this incarnation of the topic.
        partitions: Number of partitions when it was looked up.
        max_record_bytes: Largest key + value + headers.
        retention_s: Age at which Kafka deletes its records, None: never.
    """

    name: str
    kafka_name: str
    log_id: str
    partitions: int
    max_record_bytes: int
    retention_s: float | None


class KafkaTopics:
    """See the module. Thread-safe.

    Args:
        admin: The cluster.
        prefix: Put before every topic's and group's name.
        replication_factor: Copies of a topic's records.
        retention_s: Unconsumed records are kept at least so long; 0: for ever.

    Raises:
        EventLogError: If the retention is too short to be meant.
    """

    def __init__(
        self,
        admin: KafkaAdmin,
        *,
        prefix: str,
        replication_factor: int,
        retention_s: float,
    ) -> None:
        if 0 < retention_s < MIN_RETENTION_S:
            reason = (
                "the retention is shorter than an outage that nobody may notice: "
                f"give at least {MIN_RETENTION_S:.0f} s, or 0 to keep unconsumed "
                "records for ever"
            )
            raise EventLogError(reason=reason, retention_s=retention_s)
        self._admin = admin
        self._prefix = prefix
        self._replicas = replication_factor
        self._retention_s = retention_s
        self._lock = threading.Lock()
        self._known: dict[str, KnownTopic] = {}
        self._specs: dict[str, TopicSpec] = {}
        self._groups: dict[str, set[str]] = {}

    def kafka_name(self, name: str) -> str:
        """Return what a topic or group is called in the cluster."""
        return f"{self._prefix}{name}"

    def own_name(self, kafka_name: str) -> str:
        """Return what a topic of the cluster is called here."""
        return kafka_name.removeprefix(self._prefix)

    def find(self, name: str) -> KnownTopic | None:
        """Return a topic looked up before. Never blocks on I/O."""
        return self._known.get(name)

    def get(self, name: str, *, fresh: bool = False) -> KnownTopic:
        """Return a topic, asking the cluster when it is not known.

        Raises:
            EventLogUnavailableError: If there is no such topic, or no answer.
        """
        found = None if fresh else self._known.get(name)
        return found or self._look_up([name])[name]

    def register(self, group: str, names: Sequence[str]) -> None:
        """Keep for this group what it has not consumed; see `trim`."""
        with self._lock:
            for name in names:
                self._groups.setdefault(name, set()).add(group)

    def ensure(self, specs: Sequence[TopicSpec]) -> None:
        """Create missing topics and partitions, correct settings that lose data.

        Settings that may not be read or changed with these credentials are left; the
        deploy check tells of them.

        Raises:
            EventLogError: If the cluster does not answer or refuses.
        """
        with self._lock:
            self._specs |= {spec.name: spec for spec in specs}
        for spec in specs:
            self.register_spec(spec)
        described = self._describe(specs)
        made = [spec for spec in specs if spec.name not in described]
        grown = [
            spec
            for spec in specs
            if spec.name in described
            and len(described[spec.name].leaders) < spec.partitions
        ]
        for spec in made:
            self._create(spec)
        for spec in grown:
            self._grow(spec)
        self._correct([spec for spec in specs if spec not in made])
        if made or grown:
            self._wait_until_there(specs)
        self._look_up([spec.name for spec in specs])

    def register_spec(self, spec: TopicSpec) -> None:
        """Register the spec's groups."""
        for group in spec.groups:
            self.register(group, [spec.name])

    def states(self, specs: Sequence[TopicSpec]) -> list[TopicState]:
        """Return how each topic is and what differs from its spec.

        Raises:
            EventLogError: If the cluster does not answer.
        """
        described = self._describe(specs)
        configs = self._configs([s.name for s in specs if s.name in described])
        return [
            self._state(spec, described.get(spec.name), configs.get(spec.name, {}))
            for spec in specs
        ]

    def trim(self) -> int:
        """Delete what every registered group has consumed; return how much.

        Only of topics whose own retention is 0 and whose spec is known.

        Raises:
            EventLogError: If the cluster does not answer.
        """
        ends: dict[Place, int] = {}
        for name, spec in list(self._specs.items()):
            groups = sorted(self._groups.get(name, ()))
            if spec.retention_seconds == 0 and groups:
                ends |= self._consumed(name, groups)
        starts = self._admin.offsets(list(ends), newest=False)
        due = {place: end for place, end in ends.items() if end > starts[place]}
        left = self._admin.delete_records(due)
        return sum(max(0, start - starts[place]) for place, start in left.items())

    def check_writable(self, *, timeout_s: float) -> None:
        """Verify that every known topic's partitions can take records.

        Raises:
            EventLogUnavailableError: If a partition has no leader, too few copies, or
                the cluster does not answer in time.
        """
        names = [known.kafka_name for known in list(self._known.values())]
        if not names:
            self._admin.cluster_id(timeout_s=timeout_s)
        described = self._admin.describe(names, timeout_s=timeout_s)
        for name in names:
            reason = self._why_not_writable(described.get(name))
            if reason:
                raise EventLogUnavailableError(topic=self.own_name(name), reason=reason)

    def _why_not_writable(self, found: Description | None) -> str:
        if found is None:
            return "no such topic"
        if None in found.leaders:
            return f"partition {found.leaders.index(None)} has no leader"
        if min(found.in_sync, default=1) < self._min_in_sync:
            return "too few copies are up to date"
        return ""

    @property
    def _min_in_sync(self) -> int:
        return 2 if self._replicas >= 3 else 1

    def wanted_config(self, spec: TopicSpec) -> dict[str, str]:
        """Return the settings a topic is made with."""
        largest = max(spec.max_record_bytes, BATCH_BYTES) + OVERHEAD_BYTES
        return {
            "cleanup.policy": "delete",
            "retention.ms": self._retention_ms(spec),
            "retention.bytes": FOR_EVER,
            "max.message.bytes": str(largest),
            # A producer whose clock is wrong must not make its records look old.
            "message.timestamp.type": "LogAppendTime",
            "min.insync.replicas": str(self._min_in_sync),
            "unclean.leader.election.enable": "false",
            "segment.bytes": str(SEGMENT_BYTES),
        }

    def _retention_ms(self, spec: TopicSpec) -> str:
        if self._retention_s == 0:
            return FOR_EVER
        return str(int(1000 * max(self._retention_s, spec.retention_seconds)))

    def _describe(self, specs: Sequence[TopicSpec]) -> dict[str, Description]:
        names = [self.kafka_name(spec.name) for spec in specs]
        found = self._admin.describe(names)
        return {self.own_name(name): topic for name, topic in found.items()}

    def _configs(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        found = self._admin.configs([self.kafka_name(name) for name in names])
        return {self.own_name(name): config for name, config in found.items()}

    def _create(self, spec: TopicSpec) -> None:
        self._admin.create(
            self.kafka_name(spec.name),
            partitions=spec.partitions,
            replicas=self._replicas,
            config=self.wanted_config(spec),
        )
        extra = {"topic": spec.name, "partitions": spec.partitions}
        logger.info("eventlog.topic_created", extra=extra)

    def _grow(self, spec: TopicSpec) -> None:
        self._admin.grow(self.kafka_name(spec.name), partitions=spec.partitions)
        extra = {"topic": spec.name, "partitions": spec.partitions}
        logger.info("eventlog.partitions_added", extra=extra)

    def _correct(self, specs: Sequence[TopicSpec]) -> None:
        configs = self._configs([spec.name for spec in specs])
        for spec in specs:
            wrong = differing(configs.get(spec.name, {}), self.wanted_config(spec))
            if not wrong:
                continue
            allowed = self._admin.set_config(self.kafka_name(spec.name), wrong)
            extra = {"topic": spec.name, "settings": wrong, "allowed": allowed}
            logger.warning("eventlog.topic_corrected", extra=extra)

    def _wait_until_there(self, specs: Sequence[TopicSpec]) -> None:
        deadline = time.monotonic() + SETTLE_S
        while not _all_there(specs, self._describe(specs)):
            if time.monotonic() > deadline:
                reason = "the cluster does not show the topics it has made"
                raise EventLogUnavailableError(reason=reason)
            time.sleep(0.02)

    def _look_up(self, names: Sequence[str]) -> dict[str, KnownTopic]:
        described = self._admin.describe([self.kafka_name(name) for name in names])
        configs = self._configs(names)
        cluster_id = self._admin.cluster_id()
        found = {}
        for name in names:
            about = described.get(self.kafka_name(name))
            if about is None:
                raise EventLogUnavailableError(topic=name, reason="no such topic")
            config = configs.get(name, {})
            found[name] = KnownTopic(
                name=name,
                kafka_name=self.kafka_name(name),
                log_id=f"{cluster_id}:{about.topic_id}"[:64],
                partitions=len(about.leaders),
                max_record_bytes=self._max_record_bytes(name, config),
                retention_s=_seconds(config.get("retention.ms", FOR_EVER)),
            )
        with self._lock:
            self._known |= found
        return found

    def _max_record_bytes(self, name: str, config: Mapping[str, str]) -> int:
        spec = self._specs.get(name)
        if spec is not None:
            return spec.max_record_bytes
        largest = int(config.get("max.message.bytes", BATCH_BYTES + OVERHEAD_BYTES))
        return largest - OVERHEAD_BYTES

    def _state(
        self,
        spec: TopicSpec,
        about: Description | None,
        config: Mapping[str, str],
    ) -> TopicState:
        if about is None:
            return TopicState(spec.name, 0, 0, 0, None, ("it does not exist",))
        problems = self._problems(spec, about, config)
        largest = int(config.get("max.message.bytes", OVERHEAD_BYTES)) - OVERHEAD_BYTES
        return TopicState(
            spec.name,
            partitions=len(about.leaders),
            replicas=about.replicas,
            max_record_bytes=largest,
            retention_seconds=_seconds(config.get("retention.ms", FOR_EVER)),
            problems=tuple(problems),
        )

    def _problems(
        self, spec: TopicSpec, about: Description, config: Mapping[str, str]
    ) -> list[str]:
        problems = []
        if len(about.leaders) < spec.partitions:
            problems.append(
                f"it has {len(about.leaders)} partitions instead of {spec.partitions}"
            )
        if about.replicas < self._replicas:
            problems.append(
                f"it is kept {about.replicas} times instead of {self._replicas}"
            )
        if not config:
            problems.append("its settings may not be read with these credentials")
        wrong = differing(config, self.wanted_config(spec))
        problems += [
            f"{key} is {config[key]} instead of {value}" for key, value in wrong.items()
        ]
        return problems

    def _consumed(self, name: str, groups: Sequence[str]) -> dict[Place, int]:
        topic = self.get(name)
        places = [(topic.kafka_name, number) for number in range(topic.partitions)]
        progress = [
            self._admin.committed(self.kafka_name(group), places) for group in groups
        ]
        return {
            place: min(committed[place] for committed in progress)
            for place in places
            if all(place in committed for committed in progress)
        }


def differing(config: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """Return the settings to change so that a topic loses nothing.

    More than what is wanted, of retention, sizes or copies, is left as it is.
    """
    return {
        key: value
        for key, value in wanted.items()
        if key in config and key != "segment.bytes" and _is_less(config[key], value)
    }


def _is_less(found: str, wanted: str) -> bool:
    try:
        has, wants = int(found), int(wanted)
    except ValueError:
        return found != wanted
    endless = int(FOR_EVER)
    if has == endless:
        return False
    return wants == endless or has < wants


def _all_there(
    specs: Sequence[TopicSpec], described: Mapping[str, Description]
) -> bool:
    return all(
        spec.name in described
        and len(described[spec.name].leaders) >= spec.partitions
        and None not in described[spec.name].leaders
        for spec in specs
    )


def _seconds(milliseconds: str) -> float | None:
    return None if milliseconds == FOR_EVER else int(milliseconds) / 1000

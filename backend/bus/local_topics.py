"""Topic rows of the local event log.

Every function takes the caller's transaction.

Design note: docs/subsystems/eventlog.md#topics
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from backend.bus import local_format as fmt
from backend.bus.base import TopicSpec, TopicState
from backend.bus.local_environment import LocalEnvironment
from backend.errors import EventLogUnavailableError


def iter_prefix(txn: Any, db: Any, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the (key, row) pairs whose key starts with `prefix`, in key order."""
    cursor = txn.cursor(db)
    found = cursor.set_range(prefix)
    while found:
        key, row = cursor.item()
        if not key.startswith(prefix):
            return
        yield key, row
        found = cursor.next()


def load_topics(txn: Any, env: LocalEnvironment) -> dict[str, fmt.TopicRow]:
    """Return every topic by name."""
    rows = iter_prefix(txn, env.state, fmt.TOPIC_PREFIX)
    topics = (fmt.decode_topic(row) for _key, row in rows)
    return {topic.name: topic for topic in topics}


def get_topic(txn: Any, env: LocalEnvironment, name: str) -> fmt.TopicRow:
    """Return a topic's row.

    Raises:
        EventLogUnavailableError: If there is no such topic (yet).
    """
    row = txn.get(fmt.pack_topic(name), db=env.state)
    if row is None:
        raise EventLogUnavailableError(topic=name, reason="no such topic")
    return fmt.decode_topic(row)


def put_topic(txn: Any, env: LocalEnvironment, topic: fmt.TopicRow) -> None:
    """Store a topic's row."""
    txn.put(fmt.pack_topic(topic.name), fmt.encode_topic(topic), db=env.state)


def ensure_topics(env: LocalEnvironment, specs: Sequence[TopicSpec]) -> None:
    """Create missing topics and bring the others up to their spec; nothing shrinks.

    Raises:
        ValueError: If a topic's or group's name is empty or too long.
        EventLogError: If the log cannot be written.
    """
    for spec in specs:
        fmt.check_name("Topic", spec.name)
        for group in spec.groups:
            fmt.check_name("Group", group)
    # A durable commit costs an fsync: every process calls this when it starts, and
    # there is seldom anything to do.
    if env.read(lambda txn: bool(_changes(load_topics(txn, env), specs))):
        env.write(lambda txn: _apply(txn, env, specs))


def inspect_topics(
    env: LocalEnvironment, specs: Sequence[TopicSpec]
) -> list[TopicState]:
    """Return how each topic is and what differs from its spec."""
    topics = env.read(lambda txn: load_topics(txn, env))
    return [_state(spec, topics.get(spec.name)) for spec in specs]


def _state(spec: TopicSpec, found: fmt.TopicRow | None) -> TopicState:
    if found is None:
        return TopicState(spec.name, 0, 0, 0, None, ("it does not exist",))
    problems = []
    if found.partitions < spec.partitions:
        problems.append(
            f"it has {found.partitions} partitions instead of {spec.partitions}"
        )
    if found.merged(spec) != found and found.partitions >= spec.partitions:
        problems.append("its limits, retention or groups are of another version")
    return TopicState(
        spec.name, found.partitions, 1, found.max_record_bytes, None, tuple(problems)
    )


def _apply(txn: Any, env: LocalEnvironment, specs: Sequence[TopicSpec]) -> None:
    for topic in _changes(load_topics(txn, env), specs):
        put_topic(txn, env, topic)


def _changes(
    topics: dict[str, fmt.TopicRow], specs: Sequence[TopicSpec]
) -> list[fmt.TopicRow]:
    next_number = 1 + max((t.number for t in topics.values()), default=0)
    changes = []
    for spec in specs:
        old = topics.get(spec.name)
        if old is None:
            old = fmt.TopicRow(next_number, spec.name, 0, 0, 0.0, ())
            next_number += 1
        new = old.merged(spec)
        if new != old:
            changes.append(new)
    return changes

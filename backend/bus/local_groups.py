"""Consumer groups of the local event log: members, owners, committed offsets.

Each partition of a group has at most one owner, a member, with an epoch that rises each
time the partition changes hands. A commit counts only while its owner and epoch are
still the stored ones, which is what refuses a member that lost a partition and does not
know it. A partition's owner gives it up between two batches (`plan` is called from
`poll`), or loses it with its lease; it is never taken from a living member's hands.

Partitions are dealt in turn to the members that read their topic, in the order they
joined: a function of the stored rows, so every member computes the same.

Every function takes the caller's transaction. A plan made in a read transaction only
tells whether there is something to do; it is made again in the one that applies it.

Design note: docs/subsystems/eventlog.md#groups
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.bus import local_format as fmt
from backend.bus.base import PartitionLag, TopicPartition
from backend.bus.local_environment import LocalEnvironment
from backend.bus.local_topics import get_topic, iter_prefix, load_topics, put_topic

Members = dict[bytes, fmt.MemberRow]
Partition = tuple[int, int]
"""(topic number, partition)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What should change in a group, and what the asking member owns afterwards.

    Attributes:
        version: Version of the group's membership the plan was made from.
        joins: Whether the asking member is not in the group (any more).
        dead: Members to remove.
        grants: New owners.
        owned: Partitions of the asking member and their epochs.
    """

    version: int
    joins: bool
    dead: tuple[bytes, ...]
    grants: dict[Partition, bytes]
    owned: dict[TopicPartition, int]

    @property
    def changes(self) -> bool:
        """Whether anything must be written."""
        return self.joins or bool(self.dead or self.grants)


@dataclass(frozen=True, slots=True)
class Member:
    """The member on whose behalf a plan is made."""

    group: str
    id: bytes
    row: fmt.MemberRow


def register(txn: Any, env: LocalEnvironment, group: str, names: Iterable[str]) -> None:
    """Make the group known to its topics, so that nothing is deleted before it."""
    for name in names:
        topic = get_topic(txn, env, name)
        if group not in topic.groups:
            put_topic(txn, env, topic.with_group(group))


def is_registered(
    txn: Any, env: LocalEnvironment, group: str, names: Iterable[str]
) -> bool:
    """Return whether `register` has nothing to do."""
    return all(group in get_topic(txn, env, name).groups for name in names)


def version(txn: Any, env: LocalEnvironment, group: str) -> int:
    """Return a number that rises when the group's members or owners change."""
    return fmt.decode_number(txn.get(fmt.pack_group(group), db=env.state))


def plan(
    txn: Any, env: LocalEnvironment, me: Member, is_live: Callable[[bytes], bool]
) -> Plan:
    """Return what should change in `me`'s group now."""
    known = _members(txn, env, me.group)
    dead = tuple(m for m in known if m != me.id and not is_live(m))
    live = {m: row for m, row in known.items() if m not in dead}
    live.setdefault(me.id, me.row)
    topics = load_topics(txn, env)
    now = version(txn, env, me.group)
    grants: dict[Partition, bytes] = {}
    owned: dict[TopicPartition, int] = {}
    for name in sorted({name for row in live.values() for name in row.topics}):
        topic = topics[name]
        for number, wanted in enumerate(_deal(topic, live)):
            owner = _owner(txn, env, me.group, (topic.number, number))
            free = owner is None or owner.member not in live or owner.member == me.id
            if free and (owner is None or owner.member != wanted):
                grants[topic.number, number] = wanted
                owner = fmt.OwnerRow(wanted, now + 1)
            if owner is not None and owner.member == me.id:
                owned[TopicPartition(name, number)] = owner.epoch
    return Plan(now, me.id not in known, dead, grants, owned)


def apply(txn: Any, env: LocalEnvironment, me: Member, made: Plan) -> None:
    """Write the plan, made in this same transaction."""
    for member in made.dead:
        txn.delete(fmt.pack_member(me.group, member), db=env.state)
    if made.joins:
        row = fmt.encode_member(me.row)
        txn.put(fmt.pack_member(me.group, me.id), row, db=env.state)
    _grant(txn, env, me.group, made.grants, epoch=made.version + 1)


def leave(
    txn: Any, env: LocalEnvironment, me: Member, is_live: Callable[[bytes], bool]
) -> None:
    """Remove `me` and hand its partitions to the members that stay."""
    txn.delete(fmt.pack_member(me.group, me.id), db=env.state)
    live = {m: r for m, r in _members(txn, env, me.group).items() if is_live(m)}
    topics = load_topics(txn, env)
    grants: dict[Partition, bytes] = {}
    for name in me.row.topics:
        topic = topics[name]
        for number, wanted in enumerate(_deal(topic, live)):
            owner = _owner(txn, env, me.group, (topic.number, number))
            if owner is not None and owner.member == me.id:
                grants[topic.number, number] = wanted
    _grant(txn, env, me.group, grants, epoch=version(txn, env, me.group) + 1)


def find_stale(
    txn: Any,
    env: LocalEnvironment,
    me: Member,
    owned: Mapping[TopicPartition, int],
    partitions: Iterable[TopicPartition],
) -> list[TopicPartition]:
    """Return those of `partitions` that are not `me`'s in the epoch it knows."""
    stale = []
    for where in partitions:
        topic = get_topic(txn, env, where.topic)
        owner = _owner(txn, env, me.group, (topic.number, where.partition))
        if where not in owned or owner != fmt.OwnerRow(me.id, owned[where]):
            stale.append(where)
    return stale


def put_offsets(
    txn: Any,
    env: LocalEnvironment,
    group: str,
    next_offsets: Mapping[TopicPartition, int],
) -> None:
    """Store committed offsets. They never fall, nor pass the end of the partition."""
    for where, offset in next_offsets.items():
        topic = get_topic(txn, env, where.topic).number
        key = fmt.pack_offset(group, topic, where.partition)
        old = fmt.decode_number(txn.get(key, db=env.state))
        end = _end(txn, env, (topic, where.partition))
        txn.put(key, fmt.encode_number(max(old, min(offset, end))), db=env.state)


def committed(
    txn: Any, env: LocalEnvironment, group: str, where: TopicPartition
) -> int:
    """Return the next offset the group would read after a restart."""
    topic = get_topic(txn, env, where.topic).number
    row = txn.get(fmt.pack_offset(group, topic, where.partition), db=env.state)
    return fmt.decode_number(row)


def lag(
    txn: Any, env: LocalEnvironment, group: str, names: Sequence[str], *, now_us: int
) -> list[PartitionLag]:
    """Return the group's lag in every partition of the topics."""
    found = []
    cursor = txn.cursor(env.records)
    for name in names:
        topic = get_topic(txn, env, name)
        for number in range(topic.partitions):
            start = committed(txn, env, group, TopicPartition(name, number))
            end = _end(txn, env, (topic.number, number))
            age_s = 0.0
            first = _first_record(cursor, topic.number, number, start)
            # What lies before the oldest record was deleted, so was consumed by every
            # group of its time: it is not this group's to catch up.
            start = end if first is None else first[0]
            if first is not None:
                age_s = max(0.0, (now_us - first[1]) / 1e6)
            found.append(PartitionLag(name, number, start, end, age_s))
    return found


def _first_record(
    cursor: Any, topic: int, partition: int, start: int
) -> tuple[int, int] | None:
    """Return (offset, time) of the first record from `start` on."""
    if not cursor.set_range(fmt.pack_record(topic, partition, start)):
        return None
    *where, offset = fmt.unpack_record(cursor.key())
    if where != [topic, partition]:
        return None
    return offset, fmt.record_time_us(cursor.value())


def _members(txn: Any, env: LocalEnvironment, group: str) -> Members:
    prefix = fmt.pack_member(group)
    rows = iter_prefix(txn, env.state, prefix)
    return {key[len(prefix) :]: fmt.decode_member(row) for key, row in rows}


def _deal(topic: fmt.TopicRow, members: Members) -> list[bytes]:
    readers = [(r.joined_us, m) for m, r in members.items() if topic.name in r.topics]
    readers.sort()
    return [
        readers[number % len(readers)][1] if readers else b""
        for number in range(topic.partitions)
    ]


def _owner(
    txn: Any, env: LocalEnvironment, group: str, where: Partition
) -> fmt.OwnerRow | None:
    return fmt.decode_owner(txn.get(fmt.pack_owner(group, *where), db=env.state))


def _grant(
    txn: Any,
    env: LocalEnvironment,
    group: str,
    grants: Mapping[Partition, bytes],
    *,
    epoch: int,
) -> None:
    for where, member in grants.items():
        key = fmt.pack_owner(group, *where)
        if member:
            row = fmt.encode_owner(fmt.OwnerRow(member, epoch))
            txn.put(key, row, db=env.state)
        else:
            txn.delete(key, db=env.state)
    txn.put(fmt.pack_group(group), fmt.encode_number(epoch), db=env.state)


def _end(txn: Any, env: LocalEnvironment, where: Partition) -> int:
    row = txn.get(fmt.pack_partition(*where), db=env.state)
    return fmt.decode_partition(row).next_offset

"""Bytes of the local event log: every key and row, and the partitioner.

Two LMDB databases:

    records   topic u16 | partition u16 | offset u64   -> record row
    state     "f"                                      -> format number
              "i"                                      -> log id
              "c"                                      -> health probe counter
              "t" topic name                           -> topic row (MessagePack)
              "p" topic u16 | partition u16            -> next offset u64, bytes u64
              "g" group                                -> version u64 of its membership
              "m" group | member id                    -> member row (MessagePack)
              "w" group | topic u16 | partition u16    -> owner id, epoch u64
              "o" group | topic u16 | partition u16    -> committed offset u64

A group inside a key is preceded by its length, so that no group is a prefix of another.
Integers are big-endian in keys (they order as numbers) and little-endian in rows.
Prefixes are permanent and never reused. Names are at most `MAX_NAME_BYTES`, which keeps
every key under LMDB's 511 bytes.

Design note: docs/subsystems/eventlog.md#bytes
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from backend.bus.base import Record, RecordPosition, TopicPartition, TopicSpec

FORMAT: Final = 1
"""1: as above. A reader of another format must refuse the log."""

MAX_NAME_BYTES: Final = 200
MEMBER_ID_BYTES: Final = 16
OFFSET_BYTES: Final = 8
"""The end of a record's key."""

PAGE_BYTES: Final = 4096

FORMAT_KEY: Final = b"f"
LOG_ID_KEY: Final = b"i"
PROBE_KEY: Final = b"c"
TOPIC_PREFIX: Final = b"t"

_PARTITION = struct.Struct(">HH")
_RECORD_KEY = struct.Struct(">HHQ")
_PARTITION_ROW = struct.Struct("<QQ")
_RECORD_HEAD = struct.Struct("<qHB")
_HEADER_HEAD = struct.Struct("<HI")
_U64 = struct.Struct("<Q")
_OWNER_ROW = struct.Struct(f"<{MEMBER_ID_BYTES}sQ")

Headers = Sequence[tuple[str, bytes]]


class TopicRow(msgspec.Struct, array_like=True, frozen=True):
    """A topic as stored. Fields are only ever appended, each with a default."""

    number: int
    name: str
    partitions: int
    max_record_bytes: int
    retention_seconds: float
    groups: tuple[str, ...]

    def merged(self, spec: TopicSpec) -> TopicRow:
        """Return this topic with the spec's settings; nothing shrinks."""
        return TopicRow(
            self.number,
            self.name,
            max(self.partitions, spec.partitions),
            spec.max_record_bytes,
            spec.retention_seconds,
            (*self.groups, *(g for g in spec.groups if g not in self.groups)),
        )

    def with_group(self, group: str) -> TopicRow:
        """Return this topic with `group` registered."""
        if group in self.groups:
            return self
        return msgspec.structs.replace(self, groups=(*self.groups, group))


class MemberRow(msgspec.Struct, array_like=True, frozen=True):
    """A member of a group. Fields are only ever appended, each with a default."""

    joined_us: int
    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PartitionRow:
    """Where a partition's next record goes, and how much the partition holds."""

    next_offset: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class OwnerRow:
    """Who may commit a partition. `epoch` rises each time it changes hands."""

    member: bytes
    epoch: int


_topic_decoder = msgspec.msgpack.Decoder(TopicRow)
_member_decoder = msgspec.msgpack.Decoder(MemberRow)
_encoder = msgspec.msgpack.Encoder()


def check_name(kind: str, name: str) -> None:
    """Refuse a topic or group name that cannot be part of a key.

    Raises:
        ValueError: If it is empty or over `MAX_NAME_BYTES`.
    """
    if not 0 < len(name.encode()) <= MAX_NAME_BYTES:
        msg = f"{kind} name {name[:40]!r} must have 1 to {MAX_NAME_BYTES} bytes"
        raise ValueError(msg)


def pack_topic(name: str) -> bytes:
    """Return the key of a topic's row."""
    return TOPIC_PREFIX + name.encode()


def encode_topic(row: TopicRow) -> bytes:
    """Return the bytes of a topic's row."""
    return _encoder.encode(row)


def decode_topic(value: bytes) -> TopicRow:
    """Return a topic's row."""
    return _topic_decoder.decode(value)


def pack_partition(topic: int, partition: int) -> bytes:
    """Return the key of a partition's row."""
    return b"p" + _PARTITION.pack(topic, partition)


def encode_partition(row: PartitionRow) -> bytes:
    """Return the bytes of a partition's row."""
    return _PARTITION_ROW.pack(row.next_offset, row.stored_bytes)


def decode_partition(value: bytes | None) -> PartitionRow:
    """Return a partition's row; an absent one is empty."""
    return PartitionRow(*_PARTITION_ROW.unpack(value)) if value else PartitionRow(0, 0)


def _group_part(group: str) -> bytes:
    name = group.encode()
    return bytes((len(name),)) + name


def pack_group(group: str) -> bytes:
    """Return the key of a group's membership version."""
    return b"g" + _group_part(group)


def pack_member(group: str, member: bytes = b"") -> bytes:
    """Return the key of a member, or the prefix of all members of the group."""
    return b"m" + _group_part(group) + member


def encode_member(row: MemberRow) -> bytes:
    """Return the bytes of a member's row."""
    return _encoder.encode(row)


def decode_member(value: bytes) -> MemberRow:
    """Return a member's row."""
    return _member_decoder.decode(value)


def pack_owner(group: str, topic: int, partition: int) -> bytes:
    """Return the key of a partition's owner in a group."""
    return b"w" + _group_part(group) + _PARTITION.pack(topic, partition)


def encode_owner(row: OwnerRow) -> bytes:
    """Return the bytes of an owner's row."""
    return _OWNER_ROW.pack(row.member, row.epoch)


def decode_owner(value: bytes | None) -> OwnerRow | None:
    """Return an owner's row, None if the partition has none."""
    return OwnerRow(*_OWNER_ROW.unpack(value)) if value else None


def pack_offset(group: str, topic: int, partition: int) -> bytes:
    """Return the key of a group's committed offset in a partition."""
    return b"o" + _group_part(group) + _PARTITION.pack(topic, partition)


def encode_number(number: int) -> bytes:
    """Return the bytes of an offset, a version or a counter."""
    return _U64.pack(number)


def decode_number(value: bytes | None) -> int:
    """Return a stored number; an absent one is 0."""
    return int(_U64.unpack(value)[0]) if value else 0


def pack_record(topic: int, partition: int, offset: int) -> bytes:
    """Return the key of a record."""
    return _RECORD_KEY.pack(topic, partition, offset)


def unpack_record(key: bytes) -> tuple[int, int, int]:
    """Return (topic number, partition, offset)."""
    topic, partition, offset = _RECORD_KEY.unpack(key)
    return topic, partition, offset


def encode_record(*, key: bytes, value: bytes, time_us: int, headers: Headers) -> bytes:
    """Return a record's row: time, key, headers, then the value as it came."""
    parts = [_RECORD_HEAD.pack(time_us, len(key), len(headers)), key]
    for name, header in headers:
        raw = name.encode()
        parts += (_HEADER_HEAD.pack(len(raw), len(header)), raw, header)
    parts.append(value)
    return b"".join(parts)


def decode_record(where: TopicPartition, log_id: str, key: bytes, row: bytes) -> Record:
    """Return the record of a key and row of the `records` database."""
    time_us, key_bytes, header_count = _RECORD_HEAD.unpack_from(row)
    at = _RECORD_HEAD.size + key_bytes
    record_key = row[_RECORD_HEAD.size : at]
    headers = []
    for _ in range(header_count):
        name_bytes, value_bytes = _HEADER_HEAD.unpack_from(row, at)
        at += _HEADER_HEAD.size
        name = row[at : at + name_bytes].decode()
        at += name_bytes
        headers.append((name, row[at : at + value_bytes]))
        at += value_bytes
    position = RecordPosition(
        log_id, where.topic, where.partition, unpack_record(key)[2]
    )
    return Record(position, record_key, row[at:], time_us, tuple(headers))


def record_time_us(row: bytes | memoryview) -> int:
    """Return a record's time without decoding the rest."""
    return int(_RECORD_HEAD.unpack_from(row)[0])


def record_bytes(key: bytes, value: bytes, headers: Headers) -> int:
    """Return the size that `TopicSpec.max_record_bytes` bounds."""
    return len(key) + len(value) + sum(len(n) + len(v) for n, v in headers)


def stored_bytes(row_bytes: int) -> int:
    """Return about how much of the file a row of this size takes.

    LMDB keeps rows of up to about half a page inside its tree and gives each larger
    one whole pages with a 16-byte head.
    """
    if row_bytes < PAGE_BYTES // 2 - 32:
        return row_bytes + _RECORD_KEY.size + 10
    return -(-(row_bytes + 16) // PAGE_BYTES) * PAGE_BYTES + 30


@functools.lru_cache(maxsize=65_536)
def key_hash(key: bytes) -> int:
    """Return Kafka's default key hash (murmur2, made positive).

    The partition is this modulo the number of partitions, so that a log copied to or
    from Kafka keeps every key in its partition.
    """
    mask, mixer = 0xFFFFFFFF, 0x5BD1E995
    size = len(key)
    state = 0x9747B28C ^ size
    whole = size & ~3
    for (word,) in struct.iter_unpack("<I", key[:whole]):
        mixed = word * mixer & mask
        mixed = (mixed ^ mixed >> 24) * mixer & mask
        state = state * mixer & mask ^ mixed
    if size > whole:
        state = (state ^ int.from_bytes(key[whole:], "little")) * mixer & mask
    state = (state ^ state >> 13) * mixer & mask
    return (state ^ state >> 15) & 0x7FFFFFFF

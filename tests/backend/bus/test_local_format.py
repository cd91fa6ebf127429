"""The bytes of the local event log: what is on disks must stay readable."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.bus import local_format as fmt
from backend.bus.base import TopicPartition

GOLDEN = {
    "topic key": (fmt.pack_topic("t"), "7474"),
    "topic row": (
        fmt.encode_topic(fmt.TopicRow(1, "t", 6, 9, 0.5, ("g",))),
        "9601a1740609cb3fe000000000000091a167",
    ),
    "partition key": (fmt.pack_partition(1, 2), "7000010002"),
    "partition row": (
        fmt.encode_partition(fmt.PartitionRow(3, 4)),
        "03000000000000000400000000000000",
    ),
    "group key": (fmt.pack_group("g"), "670167"),
    "member key": (fmt.pack_member("g", b"m" * 16), "6d0167" + "6d" * 16),
    "member row": (fmt.encode_member(fmt.MemberRow(5, ("t",))), "920591a174"),
    "owner key": (fmt.pack_owner("g", 1, 2), "77016700010002"),
    "owner row": (
        fmt.encode_owner(fmt.OwnerRow(b"m" * 16, 7)),
        "6d" * 16 + "0700000000000000",
    ),
    "offset key": (fmt.pack_offset("g", 1, 2), "6f016700010002"),
    "number": (fmt.encode_number(258), "0201000000000000"),
    "record key": (fmt.pack_record(1, 2, 3), "000100020000000000000003"),
    "record row": (
        fmt.encode_record(key=b"k", value=b"v", time_us=6, headers=[("h", b"xy")]),
        "06000000000000000100016b01000200000068787976",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_bytes_are_what_they_were(name: str):
    packed, golden = GOLDEN[name]
    assert packed.hex() == golden


@given(
    key=st.binary(max_size=300),
    value=st.binary(max_size=300),
    time_us=st.integers(-(2**63), 2**63 - 1),
    headers=st.lists(st.tuples(st.text(max_size=20), st.binary(max_size=50))),
    offset=st.integers(0, 2**64 - 1),
)
def test_a_record_survives_its_bytes(key, value, time_us, headers, offset):
    row = fmt.encode_record(key=key, value=value, time_us=time_us, headers=headers)
    packed = fmt.pack_record(7, 3, offset)
    record = fmt.decode_record(TopicPartition("t", 3), "log", packed, row)
    assert (record.key, record.value, record.time_us) == (key, value, time_us)
    assert record.headers == tuple(headers)
    assert record.position.offset == offset
    assert fmt.record_time_us(row) == time_us


@given(
    a=st.tuples(*[st.integers(0, 65_535)] * 2, st.integers(0, 2**64 - 1)),
    b=st.tuples(*[st.integers(0, 65_535)] * 2, st.integers(0, 2**64 - 1)),
)
def test_record_keys_order_as_their_numbers(a, b):
    assert (fmt.pack_record(*a) < fmt.pack_record(*b)) == (a < b)
    assert fmt.unpack_record(fmt.pack_record(*a)) == a


@pytest.mark.parametrize(
    ("key", "kafkas"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_keys_hash_as_kafkas_default_partitioner_does(key: bytes, kafkas: int):
    assert fmt.key_hash(key) == kafkas & 0x7FFFFFFF


def test_no_group_is_a_prefix_of_another():
    assert not fmt.pack_member("ab", b"c").startswith(fmt.pack_member("a"))

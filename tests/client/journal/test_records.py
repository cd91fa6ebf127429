from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matyan_client.journal import mapping
from matyan_client.journal.records import RecordReader, RecordWriter


def log_at(path: Path, *, segment_bytes: int = 4096, limit: int = 2**40):
    return RecordWriter(
        path,
        "events",
        budget=mapping.Budget(limit),
        lock=threading.RLock(),
        segment_bytes=segment_bytes,
    )


def read_all(path: Path, **options) -> tuple[list[bytes], int]:
    reader = RecordReader(path, "events", **options)
    payloads = []
    while (record := reader.take()) is not None:
        payloads.append(record.payload)
    return payloads, reader.lost


@given(payloads=st.lists(st.binary(max_size=600), max_size=40))
def test_records_come_back(payloads, tmp_path_factory):
    path = tmp_path_factory.mktemp("records")
    log = log_at(path, segment_bytes=1024)
    assert [log.append(payload) for payload in payloads] == list(range(len(payloads)))
    log.close()
    assert read_all(path) == (payloads, 0)


@given(
    count=st.integers(3, 30),
    hit=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
def test_a_flipped_bit_costs_one_record(count, hit, bit, tmp_path_factory):
    path = tmp_path_factory.mktemp("damage")
    log = log_at(path, segment_bytes=8192)
    payloads = [bytes([number]) * (number * 7 % 50) for number in range(count)]
    for payload in payloads:
        log.append(payload)
    used = log._offset
    log.close()
    file = path / "events-000000000000"
    data = bytearray(file.read_bytes())
    data[int(hit * used)] ^= 1 << bit
    file.write_bytes(bytes(data))
    found, lost = read_all(path)
    assert set(found) <= set(payloads)
    assert len(payloads) - 1 <= len(found)
    # Nothing comes behind the last record to tell that it is missing.
    assert lost in {len(payloads) - len(found), 0}


def test_a_torn_last_record_is_not_there(tmp_path: Path):
    log = log_at(tmp_path)
    log.append(b"whole")
    offset = log._offset
    log.append(b"torn")
    log._memory[offset : offset + 4] = b"\0\0\0\0"  # the magic is stored last
    assert read_all(tmp_path) == ([b"whole"], 0)


def test_a_reader_follows_a_writer(tmp_path: Path):
    log = log_at(tmp_path, segment_bytes=256)
    reader = RecordReader(tmp_path, "events", limit=lambda: log.end)
    seen = []
    for number in range(50):
        log.append(b"%d" % number)
        record = reader.take()
        seen.append(record.payload if record else None)
        assert reader.peek() is None
    assert seen == [b"%d" % number for number in range(50)]


def test_reading_begins_where_told(tmp_path: Path):
    log = log_at(tmp_path, segment_bytes=256)
    for number in range(30):
        log.append(b"%d" % number)
    log.forget_before(25)
    found, lost = read_all(tmp_path, start=25)
    assert (found, lost) == ([b"25", b"26", b"27", b"28", b"29"], 0)
    assert len(list(tmp_path.iterdir())) < 4


def test_a_record_larger_than_a_segment_fits(tmp_path: Path):
    log = log_at(tmp_path)
    log.append(b"before")
    log.append(b"x" * 100_000)
    log.append(b"after")
    assert read_all(tmp_path) == ([b"before", b"x" * 100_000, b"after"], 0)


def test_a_quota_refuses(tmp_path: Path):
    log = log_at(tmp_path, limit=4096)
    log.append(b"x" * 4000)
    with pytest.raises(OSError, match="MATYAN_JOURNAL_MAX_BYTES"):
        log.append(b"y" * 4000)
    assert read_all(tmp_path) == ([b"x" * 4000], 0)

"""Golden bytes of every value the series keep: what is on disk must stay readable.

Reading is what is promised; equal bytes when writing are asserted where no compressor
takes part. A change here needs a new `FormatVersion`.
"""

from __future__ import annotations

import numpy as np

from backend.domain.series import ObjectPoints, Points
from backend.storage.codecs import (
    chunks,
    objects,
    run_states,
    series_records,
    summaries,
    tails,
)
from backend.storage.repositories import run_state
from matyan_wire.batch import KINDS
from tests.backend.storage.series_model import columns_of, object_columns_of

CHUNK = (
    "01017f5d08a2140000000310000000000000000000000002000000000000000"
    "26a00000070636f2103000405040106130000200440002000000060a001800200000000000000020"
    "200000000008000102000000000000008803e000000000000008055570000d8b66ddbb6c99204000"
    "000000000ec1f000000000000010000000000000000000000000000000000023300000070636f210"
    "300040504010413000000100000003426f56b1c004c0000021048002103891840a290c9032915b17"
    "00043124d0b000008000000000000000000f87f"
)
OBJECT_CHUNK = (
    "02018fe263ad02000000011000000001000000000000000500000000000000"
    "01100000000a0000000000000014000000000000000110000000000000000000f87f000000000000"
    "f83f01100000000200000000000000030000000000000028b52ffd2005290000a161a26263"
)
METRIC_TAIL = (
    "0301fa00b6c002000000030000000110000000000000000000000003000000000000000110000000"
    "01000000000000000200000000000000011800000005000000000000000100000000000000090000"
    "00000000000118000000000000000000f03f0000000000000080000000000000f07f000800000007"
    "000000000000000008000000000000000000f87f"
)
OBJECT_TAIL = (
    "040186ab952701000000020000000008000000040000000000000000080000000200000000000000"
    "01100000000100000000000000020000000000000001100000000700000000000000080000000000"
    "00000008000000000000000000f87f011000000002000000000000000300000000000000"
)
PAYLOADS = "05018ba3eac928b52ffd2005290000a161a26263"
SUMMARY = (
    "030000000000000001000000000000000300000000000000000000000000f83f000000000000f0ff"
    "000000000000f0ff0300000000000000000000000000f83f0100000000000000000000000000f0ff"
    "010000000000000001000000000000000200000000000000"
)
RECORD = (
    "01010300000000000000000000000000000000000000000000000000000000000000000000000000"
    "f87f000000000000f87f000000000000f87f0000000000000000000000000000f87f000000000000"
    "0000000000000000f87f0000000000000000000000000000000000000000000000000200c3a97b22"
    "61223a317d"
)
RUN_STATE = (
    "9d050264cd03e70781a56c2f742f300991c4106464646464646464646464646464646403910b94a5"
    "6c2f742f300a01024d5893a56c2f742f300b03"
)
RUN_STATE_OF_1_0 = (
    "9c050264cd03e70781a56c2f742f300991c4106464646464646464646464646464646403910b94a5"
    "6c2f742f300a01024d58"
)
WRITER = "99010200c30102000506"


def test_metric_chunk() -> None:
    count = 20
    points = Points(
        np.arange(count) * 2,
        np.arange(count) % 7 * 0.5,
        np.arange(count) ** 2 + 10**15,
        np.full(count, np.nan),
    )
    read = chunks.decode_chunk(bytes.fromhex(CHUNK), key=b"")
    assert columns_of(read) == columns_of(points)


def test_object_chunk() -> None:
    points = ObjectPoints(
        np.array([1, 5]),
        np.array([10, 20]),
        np.array([np.nan, 1.5]),
        [b"\xa1a", b"\xa2bc"],
    )
    read = objects.decode_object_chunk(bytes.fromhex(OBJECT_CHUNK), key=b"")
    assert object_columns_of(read) == object_columns_of(points)


def test_metric_tail() -> None:
    golden = bytes.fromhex(METRIC_TAIL)
    block = tails.decode_tail(golden, key=b"")
    assert block.series.tolist() == [0, 3]
    assert block.counts.tolist() == [1, 2]
    assert block.steps.tolist() == [5, 1, 9]
    assert block.values is not None
    assert block.values.tobytes() == np.array([1.0, -0.0, np.inf]).tobytes()
    assert block.times_us.tolist() == [7, 7, 7]
    assert np.isnan(block.epochs).all()
    assert tails.encode_tail(block) == golden


def test_object_tail_and_its_payloads() -> None:
    golden = bytes.fromhex(OBJECT_TAIL)
    block = tails.decode_tail(golden, key=b"")
    assert (block.series.tolist(), block.steps.tolist()) == ([4], [1, 2])
    assert block.lengths is not None
    assert block.lengths.tolist() == [2, 3]
    assert tails.encode_tail(block) == golden
    payloads = objects.decode_payloads(bytes.fromhex(PAYLOADS), block.lengths, key=b"")
    assert payloads == [b"\xa1a", b"\xa2bc"]


def test_summary() -> None:
    golden = bytes.fromhex(SUMMARY)
    row = summaries.summarise(
        np.array([1, 2, 3]), np.array([1.5, np.nan, -np.inf]), np.array([0])
    )
    assert row.tobytes() == golden
    assert summaries.decode_summaries([golden]).tobytes() == golden


def test_series_record() -> None:
    golden = bytes.fromhex(RECORD)
    record = series_records.decode_series_record(golden, key=b"")
    assert record == series_records.SeriesRecord("images", "é", '{"a":1}', 3)
    assert series_records.encode_series_record(record) == golden


def test_run_state() -> None:
    golden = bytes.fromhex(RUN_STATE)
    state = run_states.decode_run_state(golden, key=b"")
    assert state == run_states.RunState(
        next_tail=5,
        first_tail=2,
        tail_points=100,
        tail_bytes=999,
        next_series=7,
        offsets={"l/t/0": 9},
        digests=[b"d" * 16],
        line_offset=3,
        openings=[11],
        progress=run_states.Progress("l/t/0", 10, 1, 2),
        incarnation=77,
        received_us=88,
        events=run_states.EventProgress("l/t/0", 11, 3),
    )
    assert run_states.encode_run_state(state) == golden
    # As it was written before `received_us` was kept.
    before = bytes.fromhex(RUN_STATE_OF_1_0)
    older = run_states.decode_run_state(b"\x9b" + before[1:-1], key=b"")
    assert (older.incarnation, older.received_us) == (77, 0)


def test_run_state_written_before_events_were_counted() -> None:
    older = run_states.decode_run_state(bytes.fromhex(RUN_STATE_OF_1_0), key=b"")
    assert older.progress == run_states.Progress("l/t/0", 10, 1, 2)
    assert (older.received_us, older.events) == (88, None)


def test_sealing() -> None:
    assert run_state.decode_sealing(bytes.fromhex("160100"), key=b"") == 256
    assert run_state.decode_sealing(None, key=b"") == 0


def test_writer_state() -> None:
    golden = bytes.fromhex(WRITER)
    state = run_states.decode_writer_state(golden, key=b"")
    assert state == run_states.WriterState(
        1,
        2,
        0,
        last_part=True,
        durable_epoch=1,
        durable_seq=2,
        line_offset=5,
        next_line=6,
    )
    assert run_states.encode_writer_state(state) == golden


def test_kind_codes_are_permanent() -> None:
    assert KINDS == (
        "metric",
        "images",
        "texts",
        "distributions",
        "audios",
        "figures",
        "logs",
        "log_records",
    )

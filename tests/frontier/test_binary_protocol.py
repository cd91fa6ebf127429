"""Subprotocol matyan.v2 as a client sees it."""

from __future__ import annotations

import json
from typing import Any

import zstandard

from matyan_wire import batch as wire
from matyan_wire import limits
from matyan_wire.batch_builder import BatchBuilder
from matyan_wire.frames import encode_frame
from tests.frontier.conftest import Connect, batches, envelopes


def make_batch(seq: int = 1, *, run_id: str = "run", points: int = 3) -> wire.Batch:
    builder = BatchBuilder(run_id=run_id)
    series = builder.series_index(wire.SeriesRef("metric", "loss"))
    for step in range(points):
        builder.add_point(series, step=step, value=0.5, time_us=1, epoch=float("nan"))
    batch = builder.build()
    assert batch is not None
    batch.position = wire.Position(epoch=4, seq=seq, writer="w")
    return batch


def make_frame(batch: wire.Batch, *, level: int | None = None) -> bytes:
    return encode_frame(wire.encode_batch(batch), zstd_level=level)


async def exchange(socket: Any, frame: bytes) -> dict[str, Any]:
    await socket.send_input({"type": "websocket.receive", "bytes": frame})
    return dict(json.loads(await socket.receive_from(timeout=10)))


async def test_frames_are_stored_as_they_came(real_log: Any, connect: Connect) -> None:
    socket = await connect(binary=True)
    for seq, level in enumerate([None, 3], start=1):
        answer = await exchange(socket, make_frame(make_batch(seq), level=level))
        assert answer == {"status": "ok", "seq": seq, "epoch": 4}
    stored = envelopes(real_log)
    assert [bytes(envelope.batch) for envelope in stored] == [
        wire.encode_batch(make_batch(1)),
        wire.encode_batch(make_batch(2)),
    ]
    # The position tells repetitions apart; no digest is needed.
    assert [envelope.digest for envelope in stored] == [b"", b""]


async def test_a_frame_without_position_has_a_digest(
    real_log: Any, connect: Connect
) -> None:
    socket = await connect(binary=True)
    batch = make_batch()
    batch.position = None
    answer = await exchange(socket, make_frame(batch))
    assert answer == {"status": "ok", "seq": None, "epoch": None}
    assert len(envelopes(real_log)[0].digest) == 16


async def test_a_large_frame_becomes_numbered_parts(
    real_log: Any, connect: Connect
) -> None:
    socket = await connect(binary=True)
    answer = await exchange(socket, make_frame(make_batch(7, points=600_000), level=1))
    assert answer == {"status": "ok", "seq": 7, "epoch": 4}
    stored = batches(real_log)
    assert [batch.position for batch in stored] == [
        wire.Position(4, 7, part=0, last_part=False, writer="w"),
        wire.Position(4, 7, part=1, last_part=False, writer="w"),
        wire.Position(4, 7, part=2, last_part=True, writer="w"),
    ]
    assert sum(b.points.count for b in stored if b.points) == 600_000
    assert all(
        len(bytes(envelope.batch)) <= limits.MAX_RECORD_BYTES
        for envelope in envelopes(real_log)
    )


async def test_bad_frames_are_refused_for_good(real_log: Any, connect: Connect) -> None:
    socket = await connect(binary=True)
    other_run = make_batch(3, run_id="other")
    bomb = b"\x01" + zstandard.compress(bytes(limits.MAX_FRAME_BYTES + 1))
    expected: list[tuple[bytes, int | None, str]] = [
        (b"", None, "empty frame"),
        (b"\x09", None, "unknown frame header 9"),
        (bomb, None, "the limit is 67108864"),
        (b"\x00\x93\x01\x02", None, "Expected `str`, got `int` - at `$[1]`"),
        (make_frame(other_run), 3, "run_id: is not the run of this connection"),
    ]
    for frame, seq, error in expected:
        answer = await exchange(socket, frame)
        assert (answer["status"], answer["retry"]) == ("error", False)
        assert answer["seq"] == seq
        assert error in answer["error"]
    await socket.send_to(text_data="{}")
    answer = json.loads(await socket.receive_from(timeout=10))
    assert answer["error"] == "binary frames expected"
    assert (await exchange(socket, make_frame(make_batch(4))))["status"] == "ok"
    assert len(batches(real_log)) == 1


async def test_acks_come_in_order(real_log: Any, connect: Connect) -> None:
    socket = await connect(binary=True)
    frames = {1: make_frame(make_batch(1, points=100_000)), 2: b"\x09"}
    frames |= {seq: make_frame(make_batch(seq)) for seq in range(3, 13)}
    for frame in frames.values():
        await socket.send_to(bytes_data=frame)
    answers = [json.loads(await socket.receive_from(timeout=20)) for _ in frames]
    assert [answer["seq"] for answer in answers] == [1, None, *range(3, 13)]
    assert [b.position.seq for b in batches(real_log) if b.position] == [
        1,
        *range(3, 13),
    ]

"""The JSON protocol as a client sees it, on the real local event log."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any

import pytest

from frontier.protocols import JsonProtocol
from matyan_wire import batch as wire
from tests.frontier.conftest import Connect, batches, envelopes

OK = {"status": "ok", "error": None}
METRIC = {"type": "log_metric", "name": "loss", "value": 0.5, "context": {}}


def metric(step: int) -> dict[str, Any]:
    return {**METRIC, "step": step}


async def exchange(socket: Any, frame: Any) -> dict[str, Any]:
    text = frame if isinstance(frame, str) else json.dumps(frame)
    await socket.send_input({"type": "websocket.receive", "text": text})
    answer = json.loads(await socket.receive_from(timeout=10))
    assert await socket.receive_nothing(timeout=0.01)
    return dict(answer)


@pytest.mark.parametrize(
    ("frame", "items"),
    [
        (metric(0), 1),
        ([metric(0), metric(1)], 2),
        ([metric(step) for step in range(100)], 100),
        ('[{"type":"log_metric","name":"loss","value":NaN,"context":{}}]', 1),
        ([], 0),
    ],
)
async def test_a_good_frame_is_one_durable_record_and_one_ack(
    real_log: Any, connect: Connect, frame: Any, items: int
) -> None:
    socket = await connect()
    assert await exchange(socket, frame) == OK
    stored = batches(real_log)
    assert [b.points.count for b in stored if b.points] == ([items] if items else [])
    assert all(batch.run_id == "run" for batch in stored)


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        ("", "not JSON: Expecting value at character 0"),
        ("{", "not JSON: Expecting property name"),
        ("null", "1 of 1 items refused: item 0: expected an object, got null"),
        ('"text"', "1 of 1 items refused: item 0: expected an object, got a string"),
        ("5", "1 of 1 items refused: item 0: expected an object, got a number"),
        ([[1]], "1 of 1 items refused: item 0: expected an object, got an array"),
        ({"type": "no"}, "item 0 type: unknown message type 'no'"),
        ("[" * 100_000 + "]" * 100_000, "nests too deeply"),
    ],
)
async def test_a_bad_frame_is_one_error_ack_and_the_connection_stays(
    real_log: Any, connect: Connect, frame: Any, error: str
) -> None:
    socket = await connect()
    answer = await exchange(socket, frame)
    assert answer["status"] == "error"
    assert error in answer["error"]
    assert await exchange(socket, metric(1)) == OK
    assert len(batches(real_log)) == 1


async def test_a_binary_frame_is_one_error_ack(real_log: Any, connect: Connect) -> None:
    socket = await connect()
    await socket.send_to(bytes_data=b"\x00\x01")
    answer = json.loads(await socket.receive_from(timeout=10))
    assert answer == {"status": "error", "error": "json frames expected"}
    assert await exchange(socket, metric(1)) == OK


async def test_neighbours_of_a_bad_item_are_stored(
    real_log: Any, connect: Connect
) -> None:
    socket = await connect()
    answer = await exchange(socket, [metric(0), {"type": "log_metric"}, metric(2)])
    assert answer["status"] == "error"
    assert answer["error"] == "1 of 3 items refused: item 1 name: missing"
    (batch,) = batches(real_log)
    assert batch.points is not None
    assert batch.points.count == 2


async def test_a_frame_of_20_mib(real_log: Any, connect: Connect) -> None:
    socket = await connect()
    value = {"type": "figure", "data": ["é" * 1000] * 500}
    item = {"type": "log_custom_object", "name": "f", "dtype": "figure", "step": 1}
    text = json.dumps([{**item, "value": value}] * 7, ensure_ascii=True)
    text = text.replace('"step": 1', f'"step": 1, "pad": "{"x" * 100}"')
    assert len(text) > 20 * 1024 * 1024
    assert await exchange(socket, text) == OK
    stored = batches(real_log)
    # More than one record may take, so several; nothing is lost or reordered.
    assert sum(b.objects.count for b in stored if b.objects) == 7
    digests = [envelope.digest for envelope in envelopes(real_log)]
    assert len(set(digests)) == len(digests)


async def test_a_record_carries_time_and_digest(
    real_log: Any, connect: Connect
) -> None:
    socket = await connect()
    before_us = time.time_ns() // 1000
    await exchange(socket, metric(0))
    await exchange(socket, metric(0))
    await exchange(socket, metric(1))
    after_us = time.time_ns() // 1000
    stored = envelopes(real_log)
    times = [envelope.received_us for envelope in stored]
    assert before_us <= times[0] <= times[1] <= times[2] <= after_us
    digests = [envelope.digest for envelope in stored]
    assert digests[0] == digests[1] != digests[2]
    assert all(len(digest) == 16 for digest in digests)


async def test_run_events_before_and_after_are_stored(
    real_log: Any, connect: Connect
) -> None:
    socket = await connect()
    finish = {"type": "finish_run", "client_datetime": "2026-11-23T00:00:00Z"}
    create = {"type": "create_run", "client_datetime": "2026-11-22T00:00:00Z"}
    for frame in (metric(0), create, create, finish, metric(1)):
        assert await exchange(socket, frame) == OK
    assert [[type(e) for e in batch.events] for batch in batches(real_log)] == [
        [],
        [wire.CreateRun],
        [wire.CreateRun],
        [wire.FinishRun],
        [],
    ]


async def test_frames_of_a_connection_are_stored_in_order(
    real_log: Any, connect: Connect
) -> None:
    socket = await connect()
    for step in range(10):
        await socket.send_to(text_data=json.dumps(metric(step)))
    answers = [json.loads(await socket.receive_from(timeout=10)) for _ in range(10)]
    assert answers == [OK] * 10
    steps = [
        int.from_bytes(b.points.steps, "little") for b in batches(real_log) if b.points
    ]
    assert steps == list(range(10))


async def test_connections_do_not_wait_for_each_other(
    real_log: Any, connect: Connect
) -> None:
    sockets = [await connect(f"run-{i}") for i in range(5)]
    answers = await asyncio.gather(
        *(exchange(s, metric(i)) for i, s in enumerate(sockets))
    )
    assert answers == [OK] * 5
    assert sorted(batch.run_id for batch in batches(real_log)) == [
        f"run-{i}" for i in range(5)
    ]


async def test_a_client_that_leaves_at_once_loses_nothing(
    real_log: Any, connect: Connect
) -> None:
    socket = await connect()
    await socket.send_to(text_data=json.dumps(metric(0)))
    await socket.disconnect(timeout=5)
    for _ in range(500):
        if batches(real_log):
            break
        await asyncio.sleep(0.01)
    assert len(batches(real_log)) == 1


async def test_only_small_frames_are_decoded_on_the_event_loop(
    real_log: Any, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    decode = JsonProtocol.decode

    def noted(self: JsonProtocol, frame: bytes, *, received_us: int) -> Any:
        threads.append(threading.current_thread().name)
        return decode(self, frame, received_us=received_us)

    monkeypatch.setattr(JsonProtocol, "decode", noted)
    socket = await connect()
    assert await exchange(socket, metric(0)) == OK
    answer = await exchange(socket, f"[{'1,' * 50_000}1]")
    assert "50001 of 50001 items refused" in answer["error"]
    assert threads[0] == threading.current_thread().name
    assert threads[1].startswith("frame-decoder")

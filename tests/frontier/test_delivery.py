"""What happens when the event log does not take a record."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from backend.errors import (
    EventLogFullError,
    EventLogUnavailableError,
    RecordTooLargeError,
)
from frontier.gateway import get_gateway
from matyan_wire import batch as wire
from tests.frontier.conftest import Connect, taken
from tests.frontier.failing_logs import ScriptedLog
from tests.frontier.test_binary_protocol import make_batch, make_frame

OK = {"status": "ok", "error": None}


@pytest.fixture(autouse=True)
def short_hold(settings: Any) -> None:
    settings.MATYAN_ACK_HOLD_SECONDS = 0.3
    settings.MATYAN_DRAIN_SECONDS = 0.5


def line(step: int) -> str:
    return json.dumps({"type": "log_terminal_line", "line": "x", "step": step})


def steps(log: ScriptedLog) -> list[int]:
    columns = [batch.objects for batch in taken(log) if batch.objects]
    return [int.from_bytes(column.steps, "little") for column in columns]


async def eventually(condition: Any) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("did not happen within 5 s")


async def receive(socket: Any) -> Any:
    return json.loads(await socket.receive_from(timeout=5))


async def test_no_ack_before_the_record_is_durable(
    scripted_log: ScriptedLog, connect: Connect, settings: Any
) -> None:
    settings.MATYAN_ACK_HOLD_SECONDS = 30.0
    scripted_log.hold = True
    socket = await connect()
    await socket.send_to(text_data=line(0))
    await eventually(lambda: scripted_log.held)
    assert await socket.receive_nothing(timeout=0.1)
    scripted_log.let_go()
    assert await receive(socket) == OK


async def test_every_part_is_durable_before_the_ack(
    scripted_log: ScriptedLog, connect: Connect, settings: Any
) -> None:
    settings.MATYAN_ACK_HOLD_SECONDS = 30.0
    scripted_log.hold = True
    socket = await connect(binary=True)
    await socket.send_to(bytes_data=make_frame(make_batch(1, points=600_000)))
    for _part in range(3):
        await eventually(lambda: scripted_log.held)
        assert len(scripted_log.held) == 1
        assert await socket.receive_nothing(timeout=0.02)
        scripted_log.let_go()
    assert await receive(socket) == {"status": "ok", "seq": 1, "epoch": 4}


async def test_a_refused_record_is_tried_again_and_nothing_overtakes_it(
    scripted_log: ScriptedLog, connect: Connect
) -> None:
    scripted_log.errors = [EventLogFullError(), EventLogUnavailableError()]
    socket = await connect()
    for step in range(3):
        await socket.send_to(text_data=line(step))
    assert [await receive(socket) for _ in range(3)] == [OK] * 3
    assert steps(scripted_log) == [0, 1, 2]
    assert get_gateway().log_health.failure is None


async def test_a_failing_log_ends_a_json_connection_without_an_ack(
    scripted_log: ScriptedLog, connect: Connect
) -> None:
    scripted_log.refuse = True
    socket = await connect()
    await socket.send_to(text_data=line(0))
    closing = await socket.receive_output(timeout=5)
    assert closing["type"] == "websocket.close"
    assert closing["code"] == 1013
    await eventually(lambda: get_gateway().budget.used == 0)


async def test_a_failing_log_asks_a_binary_client_to_try_again(
    scripted_log: ScriptedLog, connect: Connect
) -> None:
    scripted_log.refuse = True
    socket = await connect(binary=True)
    for seq in (1, 2):
        await socket.send_to(bytes_data=make_frame(make_batch(seq)))
    answer = await receive(socket)
    assert (answer["status"], answer["seq"], answer["retry"]) == ("error", 1, True)
    assert EventLogFullError.message in answer["error"]
    closing = await socket.receive_output(timeout=5)
    assert (closing["type"], closing["code"]) == ("websocket.close", 1013)
    assert taken(scripted_log) == []
    await eventually(lambda: get_gateway().budget.used == 0)


async def test_a_record_the_log_finds_too_large_is_refused_for_good(
    scripted_log: ScriptedLog, connect: Connect
) -> None:
    scripted_log.errors = [RecordTooLargeError(size=9, limit=8)]
    socket = await connect(binary=True)
    await socket.send_to(bytes_data=make_frame(make_batch(1)))
    answer = await receive(socket)
    assert (answer["status"], answer["retry"]) == ("error", False)
    assert "Record too large" in answer["error"]
    await socket.send_to(bytes_data=make_frame(make_batch(2)))
    assert (await receive(socket))["status"] == "ok"


async def test_a_repetition_is_acknowledged_but_not_stored_again(
    scripted_log: ScriptedLog, connect: Connect, settings: Any
) -> None:
    settings.MATYAN_ACK_HOLD_SECONDS = 30.0
    scripted_log.hold = True
    socket = await connect()
    for step in (0, 0, 0, 1):
        await socket.send_to(text_data=line(step))
    for _ in range(2):
        await eventually(lambda: scripted_log.held)
        scripted_log.let_go()
    assert [await receive(socket) for _ in range(4)] == [OK] * 4
    assert steps(scripted_log) == [0, 1]
    # Nothing is on its way any more: the same frame is stored again, and the store
    # recognises it.
    scripted_log.hold = False
    await socket.send_to(text_data=line(0))
    assert await receive(socket) == OK
    assert steps(scripted_log) == [0, 1, 0]


async def test_a_frame_sent_again_behind_another_is_stored_again(
    scripted_log: ScriptedLog, connect: Connect, settings: Any
) -> None:
    settings.MATYAN_ACK_HOLD_SECONDS = 30.0
    scripted_log.hold = True
    socket = await connect()
    for rate in (0.1, 0.2, 0.2, 0.1):
        message = {"type": "log_hparams", "value": {"lr": rate}}
        await socket.send_to(text_data=json.dumps(message))
    for _ in range(3):
        await eventually(lambda: scripted_log.held)
        scripted_log.let_go()
    assert [await receive(socket) for _ in range(4)] == [OK] * 4
    assigned = [
        wire.decode_payload(payload)
        for batch in taken(scripted_log)
        for event in batch.events
        for _path, payload in event.assignments
    ]
    assert assigned == [0.1, 0.2, 0.1]


async def test_the_window_stops_reading(
    scripted_log: ScriptedLog, connect: Connect, settings: Any
) -> None:
    settings.MATYAN_ACK_HOLD_SECONDS = 30.0
    settings.MATYAN_GATEWAY_LIMITS = {"window_frames": 3}
    scripted_log.hold = True
    socket = await connect(binary=True)
    for seq in range(1, 8):
        await socket.send_to(bytes_data=make_frame(make_batch(seq)))
    await eventually(lambda: scripted_log.held)
    # Three in the window, one in the consumer's hands, three not asked for.
    await eventually(lambda: socket.input_queue.qsize() == 3)
    for _ in range(7):
        await eventually(lambda: scripted_log.held)
        scripted_log.let_go()
    answers = [await receive(socket) for _ in range(7)]
    assert [answer["seq"] for answer in answers] == list(range(1, 8))


async def test_the_budget_is_shared_and_given_back(
    scripted_log: ScriptedLog, connect: Connect, settings: Any
) -> None:
    settings.MATYAN_ACK_HOLD_SECONDS = 30.0
    settings.MATYAN_GATEWAY_LIMITS = {"in_flight_bytes": 1000}
    scripted_log.hold = True
    sockets = [await connect(f"r{i}", binary=True) for i in range(3)]
    for i, socket in enumerate(sockets):
        batch = make_batch(1, run_id=f"r{i}", points=30)
        await socket.send_to(bytes_data=make_frame(batch))
    await eventually(lambda: scripted_log.held)
    await asyncio.sleep(0.05)
    assert len(scripted_log.held) == 1
    assert 0 < get_gateway().budget.used <= 1000
    for _ in sockets:
        await eventually(lambda: scripted_log.held)
        scripted_log.let_go()
    for socket in sockets:
        assert (await receive(socket))["status"] == "ok"
    await eventually(lambda: get_gateway().budget.used == 0)


async def test_a_server_that_reads_on_regardless_is_told_to_disconnect(
    scripted_log: ScriptedLog, connect: Connect, settings: Any
) -> None:
    settings.MATYAN_ACK_HOLD_SECONDS = 30.0
    settings.MATYAN_GATEWAY_LIMITS = {"window_frames": 3}
    scripted_log.hold = True
    socket = await connect(binary=True, paced=False)
    for seq in range(1, 6):
        await socket.send_to(bytes_data=make_frame(make_batch(seq)))
    closing = await socket.receive_output(timeout=5)
    assert (closing["type"], closing["code"]) == ("websocket.close", 1013)


async def test_a_binary_client_that_left_is_forgotten(
    scripted_log: ScriptedLog, connect: Connect, settings: Any
) -> None:
    settings.MATYAN_ACK_HOLD_SECONDS = 30.0
    scripted_log.refuse = True
    socket = await connect(binary=True)
    await socket.send_to(bytes_data=make_frame(make_batch(1)))
    await eventually(lambda: scripted_log.tried)
    await socket.disconnect(timeout=5)
    await eventually(lambda: get_gateway().budget.used == 0)
    assert taken(scripted_log) == []


async def test_a_json_client_that_left_is_still_delivered(
    scripted_log: ScriptedLog, connect: Connect, settings: Any
) -> None:
    settings.MATYAN_ACK_HOLD_SECONDS = 30.0
    scripted_log.refuse = True
    socket = await connect()
    for step in range(3):
        await socket.send_to(text_data=line(step))
    await eventually(lambda: scripted_log.tried)
    await socket.disconnect(timeout=5)
    scripted_log.refuse = False
    await eventually(lambda: len(scripted_log.taken) == 3)
    assert steps(scripted_log) == [0, 1, 2]
    await eventually(lambda: get_gateway().budget.used == 0)


async def test_draining_finishes_acknowledges_and_closes(
    scripted_log: ScriptedLog, connect: Connect, settings: Any
) -> None:
    settings.MATYAN_ACK_HOLD_SECONDS = 30.0
    settings.MATYAN_DRAIN_SECONDS = 5.0
    scripted_log.hold = True
    busy, idle = await connect("busy"), await connect("idle")
    await busy.send_to(text_data=line(0))
    await eventually(lambda: scripted_log.held)
    draining = asyncio.ensure_future(get_gateway().drain())
    closing = await idle.receive_output(timeout=5)
    assert (closing["type"], closing["code"]) == ("websocket.close", 1012)
    assert await busy.receive_nothing(timeout=0.05)
    scripted_log.let_go()
    assert await receive(busy) == OK
    closing = await busy.receive_output(timeout=5)
    assert (closing["type"], closing["code"]) == ("websocket.close", 1012)
    await draining


async def test_draining_is_bounded(
    scripted_log: ScriptedLog, connect: Connect, settings: Any
) -> None:
    settings.MATYAN_ACK_HOLD_SECONDS = 30.0
    settings.MATYAN_DRAIN_SECONDS = 0.1
    scripted_log.hold = True
    socket = await connect()
    await socket.send_to(text_data=line(0))
    await eventually(lambda: scripted_log.held)
    await get_gateway().drain()
    closing = await socket.receive_output(timeout=5)
    assert (closing["type"], closing["code"]) == ("websocket.close", 1012)


async def test_a_fault_while_decoding_is_an_error_ack(
    scripted_log: ScriptedLog, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> wire.Batch:
        msg = "a fault of ours"
        raise ZeroDivisionError(msg)

    socket = await connect()
    with monkeypatch.context() as patch:
        patch.setattr("frontier.protocols.decode_json_frame", fail)
        await socket.send_to(text_data=line(0))
        answer = await receive(socket)
    assert answer["status"] == "error"
    assert "internal error" in answer["error"]
    await socket.send_to(text_data=line(1))
    assert await receive(socket) == OK

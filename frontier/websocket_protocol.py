"""The server's side of a WebSocket, reading no more than fits into memory.

uvicorn's protocol stops reading once a complete message waits for the application. What
it does not bound is the sum over connections: any number of them may be in the middle
of a large frame. `Intake` does: it counts what all connections have read and not handed
over, and above its limit lets one connection at a time complete its frame while the
others are not read.

A frame counts from its first byte until the application asks for the message after it.

Design note: docs/subsystems/frontier.md#memory
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from typing_extensions import override
from uvicorn.protocols.websockets.websockets_sansio_impl import (
    WebSocketsSansIOProtocol,
)
from websockets.frames import Frame

from frontier.gateway import get_gateway

logger = logging.getLogger(__name__)

PACED_EXTENSION: Final = "matyan.paced"
"""Key in `scope["extensions"]`: this server stops reading while the application does
not ask for messages."""

TRY_AGAIN_LATER: Final = 1013

DISCARD_S: Final = 2.0
"""How long a client that broke the protocol is read, its data thrown away. Closing at
once with data unread would reset the connection, and it would not learn the reason."""


class Intake:
    """Decides which connections may be read. Belongs to the event loop's thread."""

    def __init__(self, *, limit: int, stall_s: float) -> None:
        self._limit = limit
        self._stall_s = stall_s
        self._partial: dict[PacedWebSocketProtocol, int] = {}
        self._complete: dict[PacedWebSocketProtocol, int] = {}
        self._partial_total = 0
        self._complete_total = 0
        # In the order they were stopped, so that each gets its turn.
        self._stopped: dict[PacedWebSocketProtocol, None] = {}
        self._turn: PacedWebSocketProtocol | None = None
        self._turn_timer: asyncio.TimerHandle | None = None

    @property
    def used(self) -> int:
        """Bytes read and not handed over."""
        return self._partial_total + self._complete_total

    def note(
        self, connection: PacedWebSocketProtocol, *, partial: int, complete: int
    ) -> None:
        """Record what `connection` holds, and stop or resume whom that concerns.

        Args:
            connection: The connection.
            partial: Bytes of a frame that is not complete.
            complete: Bytes of messages the application has not finished with.
        """
        self._partial_total += partial - self._partial.get(connection, 0)
        self._complete_total += complete - self._complete.get(connection, 0)
        self._partial[connection] = partial
        self._complete[connection] = complete
        if connection is self._turn and not partial:
            self._end_turn()
        # Those that were stopped first come first.
        self._resume_stopped()
        self._apply(connection)

    def forget(self, connection: PacedWebSocketProtocol) -> None:
        """The connection is gone."""
        self._partial_total -= self._partial.pop(connection, 0)
        self._complete_total -= self._complete.pop(connection, 0)
        self._stopped.pop(connection, None)
        if connection is self._turn:
            self._end_turn()
        self._resume_stopped()

    def _apply(self, connection: PacedWebSocketProtocol) -> None:
        if self._may_read(connection):
            self._stopped.pop(connection, None)
            connection.set_intake_open(is_open=True)
        else:
            self._stopped.setdefault(connection)
            connection.set_intake_open(is_open=False)

    def _resume_stopped(self) -> None:
        for connection in list(self._stopped):
            if not self._may_read(connection):
                return
            self._apply(connection)

    def _may_read(self, connection: PacedWebSocketProtocol) -> bool:
        if self.used < self._limit or connection is self._turn:
            return True
        # Complete frames go by themselves; only incomplete ones need someone to read.
        if self._complete_total >= self._limit or self._turn is not None:
            return False
        self._turn = connection
        self._watch_turn()
        return True

    def _watch_turn(self) -> None:
        held = self._partial.get(self._turn, 0) if self._turn is not None else 0
        loop = asyncio.get_running_loop()
        self._turn_timer = loop.call_later(self._stall_s, self._check_turn, held)

    def _check_turn(self, held_before: int) -> None:
        connection = self._turn
        if connection is None:
            return
        if self._partial.get(connection, 0) != held_before:
            self._watch_turn()
            return
        logger.warning("gateway.stalled_frame", extra={"bytes": held_before})
        connection.fail_stalled()

    def _end_turn(self) -> None:
        self._turn = None
        if self._turn_timer is not None:
            self._turn_timer.cancel()
            self._turn_timer = None


_intake: Intake | None = None


def get_intake() -> Intake:
    """Return this process's intake, made from the gateway's limits on first use."""
    global _intake  # noqa: PLW0603 - one per process is the point
    if _intake is None:
        limits = get_gateway().limits
        _intake = Intake(limit=limits.intake_bytes, stall_s=limits.intake_stall_s)
    return _intake


class PacedWebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol under an `Intake`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._intake = get_intake()
        self._intake_open = True
        self._queued: list[int] = []
        self._in_hand = 0
        self._discarding = False

    @override
    def handle_connect(self, event: Any) -> None:
        """Start the application, telling it that reading can be stopped."""
        super().handle_connect(event)
        if hasattr(self, "scope"):
            extensions: Any = self.scope["extensions"]
            extensions[PACED_EXTENSION] = {}

    @override
    def data_received(self, data: bytes) -> None:
        """Parse what arrived; stop reading if that was too much."""
        if self._discarding:
            return
        super().data_received(data)
        self._note()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what was read."""
        super().connection_lost(exc)
        self._intake.forget(self)
        self.frames = []
        self.conn.reader.buffer.clear()

    @override
    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """Let go of messages nobody will ask for.

        A connection and its transport refer to each other: until the collector finds
        them, which may be long, they keep what they hold.
        """
        super().on_task_complete(task)
        while not self.queue.empty():
            self.queue.get_nowait()
        self._queued.clear()
        self._in_hand = 0
        self._note()

    @override
    def handle_parser_exception(self) -> None:
        """Close a connection that broke the protocol, for example with 1009."""
        self._discarding = True
        close = self.conn.close_sent
        event: Any = {"type": "websocket.disconnect", "code": close and close.code}
        self.queue.put_nowait(event)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.close_timer = self.loop.call_later(DISCARD_S, self.transport.close)

    @override
    def handle_text(self, event: Frame) -> None:
        """Take the payload of a text frame."""
        super().handle_text(event)
        _let_go(event)

    @override
    def handle_bytes(self, event: Frame) -> None:
        """Take the payload of a binary frame."""
        super().handle_bytes(event)
        _let_go(event)

    @override
    def handle_cont(self, event: Frame) -> None:
        """Take the payload of a continuation frame."""
        super().handle_cont(event)
        _let_go(event)

    @override
    def send_receive_event_to_app(self) -> None:
        """Queue a complete message; stops reading until the application takes it."""
        size = sum(map(len, self.frames))
        queued = self.queue.qsize()
        super().send_receive_event_to_app()
        if self.queue.qsize() > queued:
            self._queued.append(size)

    def set_intake_open(self, *, is_open: bool) -> None:
        """Let the connection be read, as far as the intake is concerned."""
        self._intake_open = is_open
        self._apply_reading()

    def fail_stalled(self) -> None:
        """Drop a client that stopped in the middle of a frame others wait for."""
        self.conn.fail(TRY_AGAIN_LATER, "stalled in the middle of a frame")
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.transport.close()

    @override
    def keepalive_timeout(self) -> None:
        """Close a client that answers no ping, unless its answer cannot be read."""
        if self.read_paused or not self._intake_open:
            self.pong_timer = None
            self.pending_ping_payload = None
            self.schedule_ping()
            return
        super().keepalive_timeout()

    @override
    async def receive(self) -> Any:
        """Return the next message; the one before it is finished with."""
        self._in_hand = 0
        self._note()
        message = await self.queue.get()
        if message["type"] == "websocket.receive" and self._queued:
            self._in_hand = self._queued.pop(0)
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self._apply_reading()
        return message

    @override
    async def send(self, message: Any) -> None:
        """Send; closing makes uvicorn read again, which the intake may not allow."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            # uvicorn takes a handshake answered with a refusal for one not answered,
            # and logs an error for each.
            self.handshake_complete = not message.get("more_body", False)
        if message["type"] == "websocket.close":
            self._apply_reading()

    def _note(self) -> None:
        if self.disconnected:
            return
        if self._discarding:
            self.frames = []
            self.conn.reader.buffer.clear()
        partial = len(self.conn.reader.buffer) + sum(map(len, self.frames))
        self._intake.note(
            self, partial=partial, complete=sum(self._queued) + self._in_hand
        )

    def _apply_reading(self) -> None:
        if self.transport.is_closing():
            return
        if self._discarding or (self._intake_open and not self.read_paused):
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()


def _let_go(frame: Frame) -> None:
    # The parser keeps the last frame of a connection until the next one: its payload
    # would stay in memory, of every connection, for as long as they are idle.
    frame.data = b""

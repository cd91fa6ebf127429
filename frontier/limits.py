"""Bounds of the gateway process, and the byte budget that enforces the main one.

Memory is bounded in three places (docs/subsystems/frontier.md#memory): what the server
reads (`websocket_protocol.Intake`), what one connection has unacknowledged (the
window), and what all connections together have unacknowledged (the budget here).
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, replace
from typing import Any, Self

from matyan_wire import frames
from matyan_wire.limits import MAX_FRAME_BYTES

MEBIBYTE = 1024 * 1024
MAX_DRAIN_S = 10.0


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    """What one gateway process takes on at once.

    Attributes:
        frame_bytes: Largest WebSocket message; a larger one closes with 1009.
        window_frames: Unacknowledged frames of one connection before it is not read.
        window_bytes: The same in bytes; one larger frame is taken on its own.
        in_flight_bytes: Unacknowledged bytes of all connections; one larger frame is
            taken when nothing else is in flight.
        intake_bytes: Bytes the server may have read and not handed over; one frame
            beyond it can always be completed.
        intake_stall_s: A client must send something within this time while others
            wait for it to complete a frame.
        inline_bytes: Binary frames up to this size are decoded on the event loop.
        inline_json_bytes: The same of JSON frames, which take many times as long.
        connections: WebSockets open at once; more are answered 503.
        http_connections: Other connections open at once; see `http_protocol`.
        head_bytes: Largest head of a request; a larger one is answered 431.
        head_fields: Most header fields of a request; more are answered 431.
        head_s: How long a connection may take to bring the head of a request.
        hold_s: How long an acknowledgement is held while the event log fails.
        uploads: Blobs received at once; more wait, unread.
        uploads_per_address: Of these, from one client's address.
        uploads_waiting: How many may wait; more are answered 503.
        upload_wait_s: How long one waits before it is answered 503.
        upload_stall_s: How long a blob's sender may send nothing.
        upload_bytes_per_s: Least average rate of a sender, with `upload_stall_s` to
            spare.
        drain_s: How long a stopping process finishes what is in flight; at most 10 s.
    """

    frame_bytes: int = MAX_FRAME_BYTES
    window_frames: int = frames.WINDOW_FRAMES
    window_bytes: int = frames.WINDOW_BYTES
    in_flight_bytes: int = 24 * MEBIBYTE
    intake_bytes: int = 16 * MEBIBYTE
    intake_stall_s: float = 15.0
    inline_bytes: int = MEBIBYTE // 2
    inline_json_bytes: int = 64 * 1024
    connections: int = 5_000
    http_connections: int = 2_000
    head_bytes: int = 64 * 1024
    head_fields: int = 100
    head_s: float = 15.0
    uploads: int = 64
    uploads_per_address: int = 16
    uploads_waiting: int = 1_000
    upload_wait_s: float = 30.0
    upload_bytes_per_s: float = 10_000
    upload_stall_s: float = 60.0
    hold_s: float = 40.0
    drain_s: float = 5.0

    @classmethod
    def from_settings(cls, settings: Any) -> Self:
        """Return the limits that Django's settings give.

        `MATYAN_ACK_HOLD_SECONDS` and `MATYAN_DRAIN_SECONDS` set the times;
        `MATYAN_GATEWAY_LIMITS` may name any field.
        """
        names = {
            "MATYAN_ACK_HOLD_SECONDS": "hold_s",
            "MATYAN_DRAIN_SECONDS": "drain_s",
        }
        given = {
            field: getattr(settings, name)
            for name, field in names.items()
            if hasattr(settings, name)
        }
        limits = cls(**{**given, **getattr(settings, "MATYAN_GATEWAY_LIMITS", {})})
        return replace(limits, drain_s=min(limits.drain_s, MAX_DRAIN_S))


class ByteBudget:
    """Bytes that may be held at once, given out in the order they are asked for.

    Belongs to one event loop's thread.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def used(self) -> int:
        """Bytes held now."""
        return self._used

    def try_acquire(self, size: int) -> bool:
        """Take `size` bytes if they are free and nobody waits; return whether."""
        if self._waiting or not self._fits(size):
            return False
        self._used += size
        return True

    async def acquire(self, size: int) -> None:
        """Take `size` bytes, waiting until they are free.

        More than the whole budget is given to one holder when nobody else has any.
        """
        if self.try_acquire(size):
            return
        turn = asyncio.get_running_loop().create_future()
        entry = (size, turn)
        self._waiting.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(size)
            else:
                self._waiting.remove(entry)
                self._give_out()
            raise

    def release(self, size: int) -> None:
        """Give back `size` bytes."""
        self._used -= size
        self._give_out()

    def _fits(self, size: int) -> bool:
        return self._used == 0 or self._used + size <= self._limit

    def _give_out(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            size, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._used += size
                turn.set_result(None)

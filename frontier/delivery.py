"""From decoded frames to acknowledgements, in order, for one connection.

One frame is published at a time, and its records one after the other: a later record
must never become durable when an earlier one did not, or a positioned writer's earlier
frame would look like a repetition when it is sent again. Throughput does not suffer
where it matters: the records of all connections share the event log's commits, and the
next frames are decoded meanwhile.

A record that the log refuses is tried again, with pauses, until `hold_s` has passed
since its frame arrived; then the connection is closed without an acknowledgement.

Design note: docs/subsystems/frontier.md#delivery
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import Final, Protocol

from backend.errors import RecordTooLargeError
from frontier import metrics
from frontier.gateway import Gateway
from frontier.protocols import Decoded, FrameProtocol
from frontier.publishing import HoldExpiredError, publish_durably

logger = logging.getLogger(__name__)

SERVICE_RESTART: Final = 1012
TRY_AGAIN_LATER: Final = 1013


class Peer(Protocol):
    """The connection, as the delivery sees it. Its methods raise nothing."""

    async def answer(self, text: str) -> None:
        """Send an acknowledgement, or do nothing if the connection is gone."""

    async def close_with(self, code: int, reason: str) -> None:
        """Close the connection, or do nothing if it is gone."""


@dataclass(slots=True, eq=False)
class _Frame:
    decoded: Decoded
    received_s: float
    reserved: int
    # A repetition of a frame still on its way carries no records of its own.
    original: _Frame | None = None
    answer: str = ""


class Delivery:
    """Publishes one connection's frames and acknowledges them, in order.

    Belongs to the event loop's thread. Frames are given by one caller, one at a time:
    `reserve`, then `submit`; or `repeat`.
    """

    def __init__(self, gateway: Gateway, peer: Peer, protocol: FrameProtocol) -> None:
        self._gateway = gateway
        self._limits = gateway.limits
        self._peer = peer
        self._protocol = protocol
        self._frames: deque[_Frame] = deque()
        self._reserved = 0
        self._expecting = False
        self._draining = False
        self._disconnected = False
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self._task = asyncio.ensure_future(self._run())
        gateway.add(self)

    async def reserve(self, size: int, *, wait: bool) -> bool:
        """Take `size` bytes of the window and of the process's budget.

        Args:
            size: What the frame takes in memory.
            wait: Whether to wait for room, up to `hold_s`.

        Returns:
            Whether there was room; if not, the frame must be forgotten. After True,
            `submit` must follow.
        """
        try:
            async with asyncio.timeout(self._limits.hold_s if wait else 0):
                await self._wait_for_window(size)
                if not self._gateway.budget.try_acquire(size):
                    await self._gateway.budget.acquire(size)
        except TimeoutError:
            return False
        if self._ended.is_set():
            self._gateway.budget.release(size)
            return False
        self._reserved += size
        metrics.IN_FLIGHT_BYTES.inc(size)
        self._expecting = True
        return True

    def submit(self, decoded: Decoded, *, reserved: int, received_s: float) -> None:
        """Queue a decoded frame, keeping what it needs of the reserved bytes."""
        self._expecting = False
        kept = min(reserved, decoded.size)
        self._release(reserved - kept)
        self._frames.append(_Frame(decoded, received_s, kept))
        self._changed.set()

    async def repeat(self, digest: bytes, *, received_s: float) -> bool:
        """Queue an acknowledgement for a frame if it repeats the last one received.

        An earlier frame does not count, even if it is on its way: what came behind it
        may have changed what it says, and this one changes it back.

        Returns:
            Whether it does; its records are not published again then.
        """
        if not self._frames or self._frames[-1].decoded.digest != digest:
            return False
        original = self._frames[-1].original or self._frames[-1]
        # Repetitions take no memory to speak of, but are not unlimited.
        await self._wait_for_window(0)
        repetition = _Frame(original.decoded, received_s, 0, original=original)
        self._frames.append(repetition)
        self._changed.set()
        return True

    @property
    def is_idle(self) -> bool:
        """Whether every frame has been answered."""
        return not self._frames and not self._expecting

    def disconnected(self) -> None:
        """Note that the client is gone.

        Frames of a client that will send them again are dropped. Those of one that will
        not are still published: nobody else has them.
        """
        self._disconnected = True
        if self._protocol.keeps_frames:
            self._task.cancel()
        self._changed.set()

    def begin_drain(self) -> None:
        """Take no more frames; close with 1012 once every frame is acknowledged."""
        self._draining = True
        self._changed.set()

    async def wait_ended(self) -> None:
        """Return when nothing is in flight and the connection has been closed."""
        await self._ended.wait()

    async def end_now(self) -> None:
        """Close with 1012, acknowledged or not."""
        self._task.cancel()
        await self._peer.close_with(SERVICE_RESTART, "the gateway is stopping")

    async def _wait_for_window(self, size: int) -> None:
        # A draining gateway reads on only for clients that would lose the frame.
        while not self._ended.is_set() and (
            not self._window_open(size)
            or (self._draining and self._protocol.keeps_frames)
        ):
            self._changed.clear()
            await self._changed.wait()

    def _window_open(self, size: int) -> bool:
        return len(self._frames) < self._limits.window_frames and (
            self._reserved == 0 or self._reserved + size <= self._limits.window_bytes
        )

    def _release(self, size: int) -> None:
        self._reserved -= size
        metrics.IN_FLIGHT_BYTES.dec(size)
        self._gateway.budget.release(size)

    async def _run(self) -> None:
        closing = SERVICE_RESTART, "the gateway is stopping"
        try:
            while await self._wait_for_frame():
                await self._settle(self._frames[0])
                self._release(self._frames.popleft().reserved)
                self._changed.set()
        except HoldExpiredError:
            closing = TRY_AGAIN_LATER, "the event log is failing"
        except asyncio.CancelledError:
            return
        finally:
            self._end()
        if not self._disconnected:
            await self._peer.close_with(*closing)

    def _end(self) -> None:
        for frame in self._frames:
            self._release(frame.reserved)
        self._frames.clear()
        self._ended.set()
        self._changed.set()
        self._gateway.remove(self)

    async def _wait_for_frame(self) -> bool:
        """Wait for the next frame; return False when there will be none."""
        while not self._frames:
            if self.is_idle and (self._draining or self._disconnected):
                return False
            self._changed.clear()
            await self._changed.wait()
        return True

    async def _settle(self, frame: _Frame) -> None:
        """Publish a frame and answer it."""
        if frame.original is not None:
            frame.answer = frame.original.answer
        else:
            frame.answer = await self._publish(frame)
        await self._peer.answer(frame.answer)
        metrics.ACK_SECONDS.observe(time.monotonic() - frame.received_s)

    async def _publish(self, frame: _Frame) -> str:
        """Make the frame's records durable; return the answer."""
        decoded = frame.decoded
        deadline_s = frame.received_s + self._limits.hold_s
        try:
            for record in decoded.records:
                await publish_durably(
                    record,
                    run_id=self._protocol.run_id,
                    health=self._gateway.log_health,
                    deadline_s=deadline_s,
                )
        except RecordTooLargeError as error:
            decoded.refused = str(error)
        except HoldExpiredError:
            self._count(decoded, "unavailable")
            reason = self._gateway.log_health.failure or "the event log is slow"
            answer = self._protocol.give_up(decoded, reason)
            if answer is not None:
                await self._peer.answer(answer)
            raise
        self._count(decoded, "ok" if decoded.refused is None else "refused")
        for message_type, count in decoded.counts.items():
            metrics.MESSAGES.labels(message_type).inc(count)
        # The answer to a repetition may still be needed; the records are not.
        decoded.records.clear()
        return self._protocol.acknowledge(decoded)

    def _count(self, decoded: Decoded, outcome: str) -> None:
        metrics.FRAMES.labels(self._protocol.name, outcome).inc()
        if outcome == "unavailable":
            logger.warning(
                "gateway.frame_not_taken",
                extra={"run_id": self._protocol.run_id, "bytes": decoded.size},
            )

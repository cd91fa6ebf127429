"""The state all connections of this process share: limits, budget, health, draining.

Everything here belongs to the event loop's thread, except `LogHealth.check`.

Design note: docs/subsystems/frontier.md
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

from django.conf import settings
from django.core.signals import setting_changed
from django.dispatch import receiver

from backend.errors import EventLogError
from frontier import metrics, producer
from frontier.limits import ByteBudget, GatewayLimits
from frontier.upload_slots import UploadSlots

logger = logging.getLogger(__name__)

PROBE_INTERVAL_S: Final = 1.0
"""While the log fails, how often a handshake looks whether it has recovered."""


class Connection(Protocol):
    """What draining needs of an open connection."""

    def begin_drain(self) -> None:
        """Take no more frames; close with 1012 once every frame is acknowledged."""

    async def wait_ended(self) -> None:
        """Return when nothing is in flight and the connection has been closed."""

    async def end_now(self) -> None:
        """Close with 1012, acknowledged or not."""


class LogHealth:
    """Whether the event log takes records, as far as this process has seen."""

    def __init__(self) -> None:
        self._failure: str | None = None
        self._probed_s = float("-inf")

    @property
    def failure(self) -> str | None:
        """Why the last record was not taken, None if it was."""
        return self._failure

    def note_success(self) -> None:
        """A record has become durable."""
        if self._failure is not None:
            logger.info("gateway.log_recovered")
            self._failure = None

    def note_failure(self, error: EventLogError) -> None:
        """A record was not taken, or may not have been."""
        metrics.PUBLISH_FAILURES.labels(error.code).inc()
        if self._failure is None:
            logger.warning("gateway.log_failing", extra={"reason": str(error)})
        self._failure = error.message

    async def refusal(self) -> str | None:
        """Return why the log cannot take records, None if it probably can.

        Looks at the log itself only when it has failed before, at most once in
        `PROBE_INTERVAL_S`.
        """
        if producer.find_producer() is not None and self._failure is None:
            return None
        if time.monotonic() - self._probed_s >= PROBE_INTERVAL_S:
            self._probed_s = time.monotonic()
            error = await asyncio.to_thread(self.check)
            if error is None:
                self.note_success()
            else:
                self._failure = error
        return self._failure

    @staticmethod
    def check() -> str | None:
        """Return why the log cannot take records, None if it can. Blocks ≤ ~1 s.

        In words that strangers may read; the log has the rest.
        """
        try:
            producer.get_producer()
            producer.get_event_log().check()
        except EventLogError as error:
            logger.warning("health.not_ready", extra={"reason": str(error)})
            return error.message
        return None


class Gateway:
    """One per process; see `get_gateway`.

    Attributes:
        limits: The bounds of this process.
        budget: Unacknowledged bytes of all connections.
        log_health: Whether the event log takes records.
        decoder: One thread for large frames: one at a time, so that what decoding
            needs exists once.
        uploads: Held by each blob being received.
        opening_blobs: Passed by requests for uploads, in the order they came.
        draining: Whether the process is about to stop.
    """

    def __init__(self, limits: GatewayLimits) -> None:
        self.limits = limits
        self.budget = ByteBudget(limits.in_flight_bytes)
        self.log_health = LogHealth()
        self.uploads = UploadSlots(limits)
        self.opening_blobs = asyncio.Lock()
        self.decoder = ThreadPoolExecutor(1, thread_name_prefix="frame-decoder")
        self.draining = False
        self._connections: set[Connection] = set()

    async def refusal(self) -> str | None:
        """Return why no connection can be taken now, None if one can."""
        if self.draining:
            return "the gateway is stopping"
        if len(self._connections) >= self.limits.connections:
            return "too many connections"
        failure = await self.log_health.refusal()
        return None if failure is None else f"the event log is failing: {failure}"

    def add(self, connection: Connection) -> None:
        """Count a connection as open."""
        self._connections.add(connection)
        metrics.CONNECTIONS.set(len(self._connections))
        if self.draining:
            connection.begin_drain()

    def remove(self, connection: Connection) -> None:
        """Count a connection as closed and all its frames as settled."""
        self._connections.discard(connection)
        metrics.CONNECTIONS.set(len(self._connections))

    async def drain(self) -> None:
        """Refuse connections, finish and acknowledge frames, close with 1012.

        Takes at most `limits.drain_s`; what is unfinished then is closed as it is.
        """
        self.draining = True
        connections = list(self._connections)
        logger.info("gateway.draining", extra={"connections": len(connections)})
        for connection in connections:
            connection.begin_drain()
        closing = [asyncio.ensure_future(c.wait_ended()) for c in connections]
        if closing:
            _done, unfinished = await asyncio.wait(closing, timeout=self.limits.drain_s)
            for task in unfinished:
                task.cancel()
        for connection in list(self._connections):
            await connection.end_now()
        logger.info("gateway.drained", extra={"unfinished": len(self._connections)})

    def close(self) -> None:
        """Stop the decoder thread."""
        self.decoder.shutdown(wait=False, cancel_futures=True)


_gateway: Gateway | None = None


def get_gateway() -> Gateway:
    """Return this process's gateway, made from settings on first use."""
    global _gateway  # noqa: PLW0603 - one per process is the point
    if _gateway is None:
        _gateway = Gateway(GatewayLimits.from_settings(settings))
    return _gateway


_SETTINGS: Final = frozenset(
    {
        "MATYAN_ACK_HOLD_SECONDS",
        "MATYAN_BUS",
        "MATYAN_DRAIN_SECONDS",
        "MATYAN_GATEWAY_LIMITS",
    }
)


@receiver(setting_changed)
def _forget(*, setting: str, **_later: Any) -> None:
    global _gateway  # noqa: PLW0603 - one per process is the point
    if setting in _SETTINGS and _gateway is not None:
        _gateway.close()
        _gateway = None

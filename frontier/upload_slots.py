"""Who may send a blob now: so many in all, few from one address, one to a place.

A signed address can be used by whoever has it, as often as they like. Without these
bounds one address, opened as often as there are slots, keeps everybody else out.

Belongs to one event loop's thread.

Design note: docs/subsystems/blobs.md#uploads
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from backend.access.attempts import network_of
from frontier.limits import GatewayLimits


class PlaceTakenError(Exception):
    """The same blob, or part of one, is being received already."""


class NoSlotError(Exception):
    """Too many blobs are being received, and others wait for longer."""


@dataclass(eq=False, slots=True)
class _Waiting:
    network: str
    turn: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class UploadSlots:
    """The slots of one process, given out in the order they are asked for.

    An address that has all it may have is passed over.
    """

    def __init__(self, limits: GatewayLimits) -> None:
        self._limits = limits
        self._places: set[str] = set()
        self._held: Counter[str] = Counter()
        self._waiting: list[_Waiting] = []

    @contextlib.asynccontextmanager
    async def hold(self, place: str, *, address: str) -> AsyncIterator[None]:
        """Hold a slot for `place` while the block runs, waiting for one first.

        Raises:
            PlaceTakenError: If somebody sends, or waits to send, to that place.
            NoSlotError: If there is none in time, or too many wait already.
        """
        if place in self._places:
            raise PlaceTakenError
        network = network_of(address)
        self._places.add(place)
        try:
            await self._take(network)
            try:
                yield
            finally:
                self._give_back(network)
        finally:
            self._places.discard(place)

    async def _take(self, network: str) -> None:
        if self._is_free(network):
            self._held[network] += 1
            return
        if len(self._waiting) >= self._limits.uploads_waiting:
            raise NoSlotError
        one = _Waiting(network)
        self._waiting.append(one)
        try:
            async with asyncio.timeout(self._limits.upload_wait_s):
                await one.turn
        except BaseException as error:
            self._leave(one)
            if isinstance(error, TimeoutError):
                raise NoSlotError from None
            raise

    def _leave(self, one: _Waiting) -> None:
        if one in self._waiting:
            self._waiting.remove(one)
        elif one.turn.done() and not one.turn.cancelled():
            # The slot came, but too late.
            self._give_back(one.network)

    def _is_free(self, network: str) -> bool:
        return (
            self._held.total() < self._limits.uploads
            and self._held[network] < self._limits.uploads_per_address
        )

    def _give_back(self, network: str) -> None:
        self._held[network] -= 1
        if not self._held[network]:
            del self._held[network]
        for one in list(self._waiting):
            # One that is being cancelled has no turn any more, and leaves by itself.
            if not one.turn.done() and self._is_free(one.network):
                self._waiting.remove(one)
                self._held[one.network] += 1
                one.turn.set_result(None)

"""The WebSocket consumer: reads frames no faster than they become durable.

While a frame has to wait for room (in the connection's window or the process's budget)
the consumer asks the server for no further message, and `frontier.websocket_protocol`
then stops reading from the socket. Under a server that reads on regardless, such as
Daphne, a client with too much unacknowledged is disconnected instead, since nothing
else would bound the memory.

Design note: docs/subsystems/frontier.md
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any

from channels.consumer import get_handler_name
from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer

from frontier import metrics
from frontier.admission import POLICY_VIOLATION
from frontier.auth import Admitted
from frontier.delivery import TRY_AGAIN_LATER, Delivery
from frontier.gateway import Gateway, get_gateway
from frontier.protocols import (
    BinaryProtocol,
    Decoded,
    FrameProtocol,
    JsonProtocol,
    frame_digest,
)
from frontier.websocket_protocol import PACED_EXTENSION
from matyan_wire.frames import SUBPROTOCOL

logger = logging.getLogger(__name__)


class IngestConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]  # untyped base
    """One client connection that logs to one run."""

    _gateway: Gateway
    _protocol: FrameProtocol
    _delivery: Delivery | None = None
    _admitted: Admitted
    _opened_s = 0.0

    async def dispatch(self, message: dict[str, Any]) -> None:
        """Hand a message to its method.

        The base class also closes old database connections, a thread hop for each
        message; there is no database here.
        """
        await getattr(self, get_handler_name(message))(message)

    async def connect(self) -> None:
        """Accept the connection in the protocol it asks for."""
        run_id = self.scope["url_route"]["kwargs"]["run_id"]
        binary = SUBPROTOCOL in self.scope.get("subprotocols", ())
        self._gateway = get_gateway()
        self._protocol = (BinaryProtocol if binary else JsonProtocol)(run_id=run_id)
        self._opened_s = time.monotonic()
        self._admitted = Admitted(self.scope)
        await self.accept(subprotocol=SUBPROTOCOL if binary else None)
        self._delivery = Delivery(self._gateway, self, self._protocol)

    async def websocket_receive(self, message: dict[str, Any]) -> None:
        """Take a frame.

        The message gives up its payload: the server and Channels keep the message until
        the next one, which would keep the last frame of every idle connection alive.
        """
        text, payload = message.pop("text", None), message.pop("bytes", None)
        received_us, received_s = time.time_ns() // 1000, time.monotonic()
        is_text = text is not None
        frame: bytes = text.encode() if is_text else payload
        del text, payload
        if not await self._admitted.still():
            await self.close_with(POLICY_VIOLATION, "the token is no longer valid")
        elif is_text is isinstance(self._protocol, BinaryProtocol):
            await self._refuse(received_s)
        elif not await self._repeat(frame, received_s):
            await self._take(frame, received_us=received_us, received_s=received_s)

    async def websocket_disconnect(self, message: dict[str, Any]) -> None:
        """Note that the client is gone."""
        if self._delivery is not None:
            self._delivery.disconnected()
            metrics.CONNECTION_SECONDS.observe(time.monotonic() - self._opened_s)
        raise StopConsumer

    async def answer(self, text: str) -> None:
        """Send an acknowledgement, or do nothing if the connection is gone."""
        with contextlib.suppress(OSError, RuntimeError):
            await self.send(text_data=text)

    async def close_with(self, code: int, reason: str) -> None:
        """Close the connection, or do nothing if it is gone."""
        with contextlib.suppress(OSError, RuntimeError):
            await self.close(code=code, reason=reason)

    async def _repeat(self, frame: bytes, received_s: float) -> bool:
        """Return whether the frame repeats one that is not answered yet.

        JSON clients send a frame again when its acknowledgement takes long.
        """
        delivery = self._open_delivery()
        if delivery.is_idle or self._protocol.keeps_frames:
            return False
        return await delivery.repeat(frame_digest(frame), received_s=received_s)

    async def _take(self, frame: bytes, *, received_us: int, received_s: float) -> None:
        size = self._protocol.size_of(frame)
        if not await self._reserve(size):
            return
        decoded = Decoded(refused="internal error; the frame was not stored")
        try:
            decoded = await self._decode(frame, size, received_us=received_us)
        except Exception:
            # A frame that shows a fault of this program must not end the connection,
            # and must not be answered as if it were stored.
            logger.exception("gateway.decode_failed")
        finally:
            self._open_delivery().submit(decoded, reserved=size, received_s=received_s)

    async def _refuse(self, received_s: float) -> None:
        if await self._reserve(0):
            self._open_delivery().submit(
                self._protocol.wrong_type(), reserved=0, received_s=received_s
            )

    async def _reserve(self, size: int) -> bool:
        paced = PACED_EXTENSION in (self.scope.get("extensions") or {})
        if await self._open_delivery().reserve(size, wait=paced):
            return True
        await self.close_with(TRY_AGAIN_LATER, "too much is unacknowledged")
        return False

    async def _decode(self, frame: bytes, size: int, *, received_us: int) -> Decoded:
        limits = self._gateway.limits
        is_columnar = self._protocol.is_columnar
        if size <= (limits.inline_bytes if is_columnar else limits.inline_json_bytes):
            return self._protocol.decode(frame, received_us=received_us)
        return await asyncio.get_running_loop().run_in_executor(
            self._gateway.decoder,
            lambda: self._protocol.decode(frame, received_us=received_us),
        )

    def _open_delivery(self) -> Delivery:
        if self._delivery is None:
            msg = "the server sent a message before the connection was accepted"
            raise RuntimeError(msg)
        return self._delivery

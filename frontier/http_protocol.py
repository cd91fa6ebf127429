"""The server's side of plain HTTP: bounded heads, bounded waiting, bounded connections.

uvicorn's protocol gathers a request's head for as long as one is sent, and waits for it
for ever. Here a head (the request line and the header fields, trailers too) has a size
and a number of fields (431 above) and has to be there a while after the connection was
opened or its last request answered. When all connections are taken, the one that has
waited longest for a head makes room; with nobody waiting, a new one is answered 503.

A connection that becomes a WebSocket does not count here any more.

Design note: docs/subsystems/frontier.md#server
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from frontier.gateway import get_gateway
from frontier.limits import GatewayLimits


class HeadTooLargeError(Exception):
    """Raised inside the parser, which then stops."""


class Connections:
    """Plain HTTP connections of this process. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._open: set[BoundedHttpProtocol] = set()
        # In the order they began to wait.
        self._waiting: dict[BoundedHttpProtocol, None] = {}

    def add(self, connection: BoundedHttpProtocol, *, limit: int) -> bool:
        """Count a new connection; return whether there is room for it."""
        if len(self._open) >= limit and not self._make_room():
            return False
        self._open.add(connection)
        return True

    def discard(self, connection: BoundedHttpProtocol) -> None:
        """The connection is gone, or speaks something else now."""
        self._open.discard(connection)
        self._waiting.pop(connection, None)

    def note(self, connection: BoundedHttpProtocol, *, waits: bool) -> None:
        """Record whether a connection waits for a head."""
        self._waiting.pop(connection, None)
        if waits and connection in self._open:
            self._waiting[connection] = None

    def _make_room(self) -> bool:
        oldest = next(iter(self._waiting), None)
        if oldest is None:
            return False
        self.discard(oldest)
        oldest.transport.abort()
        return True


_connections: Final = Connections()


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol within `GatewayLimits`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits: GatewayLimits = get_gateway().limits
        self._head_bytes = 0
        # Fed to the parser since it last told anything but a piece of a head.
        self._untold_bytes = 0
        self._too_large = False
        self._head_timer: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: Any) -> None:
        """Take the connection if there is room."""
        super().connection_made(transport)
        if _connections.add(self, limit=self._limits.http_connections):
            self._await_head()
        else:
            self._refuse(503, "unavailable", "Too many connections")

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_timer()
        _connections.discard(self)
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        """Parse what arrived, unless it makes a head too large."""
        if self.transport.is_closing():
            return
        self._untold_bytes += len(data)
        super().data_received(data)
        if self._untold_bytes > self._limits.head_bytes:
            self._refuse_head()

    @override
    def on_message_begin(self) -> None:
        """Begin counting a head."""
        super().on_message_begin()
        self._head_bytes = 0

    @override
    def on_url(self, url: bytes) -> None:
        """Take a piece of the address."""
        self._count(len(url))
        super().on_url(url)

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field."""
        # What a field takes beside its bytes.
        self._count(len(name) + len(value or b"") + 4)
        super().on_header(name, value)
        if len(self.headers) > self._limits.head_fields:
            self._too_large = True
            raise HeadTooLargeError

    @override
    def on_headers_complete(self) -> None:
        """Stop waiting for the head, and start the application."""
        self._untold_bytes = 0
        self._stop_timer()
        _connections.note(self, waits=False)
        super().on_headers_complete()

    @override
    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._untold_bytes = 0
        super().on_body(body)

    @override
    def on_response_complete(self) -> None:
        """Wait for the next head, unless it is here already."""
        more = bool(self.pipeline)
        super().on_response_complete()
        if not more and not self.transport.is_closing():
            self._await_head()

    @override
    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over."""
        self._stop_timer()
        self._untold_bytes = 0
        _connections.discard(self)
        super().handle_websocket_upgrade()

    @override
    def send_400_response(self, msg: str) -> None:
        """Answer what the parser does not take."""
        if self._too_large:
            self._refuse_head()
        else:
            self._refuse(400, "bad_request", msg)

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._limits.head_bytes:
            self._too_large = True
            raise HeadTooLargeError

    def _await_head(self) -> None:
        self._stop_timer()
        self._head_timer = self.loop.call_later(self._limits.head_s, self._give_up)
        _connections.note(self, waits=True)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self.transport.abort()

    def _refuse_head(self) -> None:
        self._refuse(431, "head_too_large", "The request's head is too large")

    def _refuse(self, status: int, code: str, message: str) -> None:
        if self.transport.is_closing():
            return
        error = {"code": code, "message": message}
        body = json.dumps({"message": message, "detail": message, "error": error})
        lines = [
            STATUS_LINE[status],
            b"content-type: application/json\r\n",
            b"content-length: %d\r\n" % len(body),
            b"retry-after: 1\r\n" if status == 503 else b"",
            b"connection: close\r\n\r\n",
            body.encode(),
        ]
        self.transport.write(b"".join(lines))
        self.transport.close()

"""The server process: uvicorn, reading no faster than the application takes.

`serve` runs any ASGI application, with or without the gateway's routes in it. On
SIGTERM or SIGINT the gateway is drained first, while handshakes are still answered with
503; then the server stops.

Design note: docs/subsystems/frontier.md#server
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import resource
import signal
import socket
from collections.abc import Sequence
from typing import Any, Final

import uvicorn
from typing_extensions import override

from frontier import producer
from frontier.gateway import get_gateway
from frontier.http_protocol import BoundedHttpProtocol
from frontier.websocket_protocol import PacedWebSocketProtocol

logger = logging.getLogger(__name__)

CLOSING_S: Final = 1.0
"""How long clients have to answer the closing handshake once everything is drained."""

OPEN_FILES: Final = 16_384
"""Descriptors wanted: every connection takes one, and some are needed besides."""

_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_MMAP_THRESHOLD_BYTES: Final = 256 * 1024


class GatewayServer(uvicorn.Server):
    """A uvicorn server that drains the gateway before it stops listening."""

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, give clients a moment to close, then stop as uvicorn does."""
        await get_gateway().drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_S):
                # uvicorn keeps a set, with nothing to wait on.
                while any(map(_is_websocket, self.server_state.connections)):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        await super().shutdown(sockets)


def build_server(
    application: Any, *, host: str, port: int, **options: Any
) -> GatewayServer:
    """Return a server for `application`; `run()` it, or `serve()` it on a loop.

    Args:
        application: ASGI application.
        host: Address to listen on.
        port: Port to listen on.
        options: Further options of `uvicorn.Config`; they win over the ones here.
    """
    config = {
        "http": BoundedHttpProtocol,
        "ws": PacedWebSocketProtocol,
        "ws_max_size": get_gateway().limits.frame_bytes,
        # Deflating scalars costs more than it saves, and inflating is a second copy.
        "ws_per_message_deflate": False,
        "ws_ping_interval": 20.0,
        "ws_ping_timeout": 20.0,
        "lifespan": "off",
        "access_log": False,
        "log_config": None,
        "server_header": False,
        "timeout_graceful_shutdown": 5,
        **options,
    }
    return GatewayServer(uvicorn.Config(application, host=host, port=port, **config))


def serve(
    application: Any,
    *,
    host: str,
    port: int,
    sockets: Sequence[socket.socket] | None = None,
    **options: Any,
) -> None:
    """Serve `application` until SIGTERM or SIGINT; return when it has stopped.

    Args:
        application: ASGI application.
        host: Address to listen on.
        port: Port to listen on.
        sockets: Listening sockets to use instead.
        options: Further options of `uvicorn.Config`.
    """
    return_freed_memory()
    raise_open_files()
    # uvicorn raises the signal again once it has stopped; that is no news by then.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server = build_server(application, host=host, port=port, **options)
    try:
        server.run(sockets=list(sockets) if sockets is not None else None)
    finally:
        producer.close()


def return_freed_memory() -> None:
    """Make glibc give the memory of large frames back to the system when it is freed.

    Its threshold for doing so otherwise rises with the first large frame, after which
    freed frames stay in the heap as holes. Does nothing on other C libraries.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
        mallopt(_M_ARENA_MAX, 2)


def raise_open_files(wanted: int = OPEN_FILES) -> None:
    """Raise the soft limit of open files to `wanted`, as far as the hard one allows.

    With the usual 1,024, that many idle connections would keep everybody else out, the
    health check included. Never lowers it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # Some systems allow less than the hard limit says.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return
        logger.warning("gateway.few_open_files", extra={"limit": soft})


def _is_websocket(connection: object) -> bool:
    return isinstance(connection, PacedWebSocketProtocol)

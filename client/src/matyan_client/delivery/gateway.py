"""Finds the gateway of a backend and opens connections to it.

Given one address, the gateway is looked for there first; a server that refuses the
handshake is asked where its gateway is (`GET …/version/`, key "gateway"), and the
answer is kept. Errors name the address and what to do.
"""

from __future__ import annotations

# Loaded here and not when the sender's thread first needs them: a fork in the middle of
# that thread's import would leave the child with half a module for good.
import encodings.idna  # noqa: F401  # pyright: ignore[reportUnusedImport]
from typing import Final

import httpcore  # noqa: F401  # pyright: ignore[reportUnusedImport]
import httpx
import msgspec
import zstandard  # noqa: F401  # pyright: ignore[reportUnusedImport]
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from matyan_client import tls
from matyan_client.delivery.channels import (
    BinaryCodec,
    Channel,
    JsonCodec,
)
from matyan_client.urls import BaseUrl
from matyan_wire.frames import SUBPROTOCOL

OPEN_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 1.0
PING_S: Final = 20.0

_BUSY: Final = frozenset({429, 500, 502, 503, 504})
_CLOSED_DOOR: Final = frozenset({401, 407})


class GatewayUnreachableError(ConnectionError):
    """No connection can be made now; trying again later may help.

    Attributes:
        refused: Whether the server answered and said no: something must be changed.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class _GatewayPlace(msgspec.Struct):
    same_origin: bool = True
    port: int | None = None


class _Version(msgspec.Struct):
    version: str = ""
    gateway: _GatewayPlace | None = None


class Gateway:
    """The gateway of one run's data. Used by one thread.

    Args:
        backend: The backend's address.
        frontier: The gateway's address, None to find it.
    """

    def __init__(self, *, backend: BaseUrl, frontier: BaseUrl | None) -> None:
        self._backend = backend
        self._given = frontier
        self._found: BaseUrl | None = None

    @property
    def address(self) -> BaseUrl:
        """The address the next connection is tried at."""
        return self._given or self._found or self._backend

    def open(self, run_id: str) -> Channel:
        """Return an open channel for `run_id`.

        Raises:
            GatewayUnreachableError: If there is none; the text names address and
                remedy.
        """
        address = self.address
        try:
            return _open(address, run_id)
        except InvalidStatus as error:
            status = error.response.status_code
            if self._given or status in _BUSY | _CLOSED_DOOR or not self._look():
                raise _refusal(address, status) from error
        except (InvalidHandshake, InvalidURI) as error:
            if self._given or not self._look():
                raise _no_websocket(address, error) from error
        except (OSError, TimeoutError) as error:
            self._found = None  # the server may come back with its gateway elsewhere
            raise _unreachable(address, error) from error
        return self._open_found(run_id)

    def _open_found(self, run_id: str) -> Channel:
        address = self.address
        try:
            return _open(address, run_id)
        except InvalidStatus as error:
            raise _refusal(address, error.response.status_code) from error
        except InvalidHandshake as error:
            raise _no_websocket(address, error) from error
        except (OSError, TimeoutError) as error:
            self._found = None
            raise _unreachable(address, error) from error

    def _look(self) -> bool:
        """Ask the backend where its gateway is; return whether it is elsewhere."""
        if self._found is not None:
            self._found = None
            return False
        self._found = find_gateway(self._backend)
        return self._found is not None


def find_gateway(backend: BaseUrl) -> BaseUrl | None:
    """Return the gateway's address as the backend tells it.

    None when it cannot be asked, does not tell, or is the gateway itself.
    """
    try:
        response = httpx.get(
            backend.rest("version/"),
            headers=backend.authorization(),
            timeout=OPEN_TIMEOUT_S,
            verify=backend.tls.context(),
        ).raise_for_status()
        answer = msgspec.json.decode(response.content, type=_Version)
    except (httpx.HTTPError, msgspec.MsgspecError):
        return None
    if answer.gateway is None:
        # A server that does not tell: the two default ports belong together.
        return backend.at_port(53801) if backend.port == 53800 else None
    port = answer.gateway.port
    if port is None or port == backend.port:
        return None
    return backend.at_port(port)


def _open(address: BaseUrl, run_id: str) -> Channel:
    opened = connect(
        address.websocket(run_id),
        subprotocols=[Subprotocol(SUBPROTOCOL)],
        compression=None,
        additional_headers=address.authorization(),
        ssl=address.tls.context() if address.scheme == "https" else None,
        open_timeout=OPEN_TIMEOUT_S,
        close_timeout=CLOSE_TIMEOUT_S,
        ping_interval=PING_S,
        ping_timeout=PING_S,
        proxy=None if address.is_loopback else True,
    )
    # Entered by hand, because the channel lives longer than a block; newer versions
    # of websockets warn about a connection that is not entered at all.
    connection: ClientConnection = opened.__enter__()
    if connection.subprotocol == SUBPROTOCOL:
        return Channel(connection, BinaryCodec(compress=not address.is_loopback))
    return Channel(connection, JsonCodec())


def _refusal(address: BaseUrl, status: int) -> GatewayUnreachableError:
    if status in _BUSY:
        text = f"{address} is busy or starting (HTTP {status}); it is tried again."
        return GatewayUnreachableError(text)
    if status == 403:
        remedy = "Its token may not log runs: take one whose scope is `write`."
    elif status in _CLOSED_DOOR and not address.is_let_in:
        remedy = "It needs a token: give `token=` or set MATYAN_TOKEN."
    elif status in _CLOSED_DOOR:
        remedy = (
            "The token (`token=`, MATYAN_TOKEN, or in the address) is unknown there, "
            "expired or revoked: give another."
        )
    elif status == 404:
        remedy = (
            "Check the address: it must be the Matyan server, with its path prefix if "
            "it has one. If the gateway is elsewhere, give `frontier_url=` or set "
            "MATYAN_FRONTIER_URL."
        )
    else:
        remedy = "Check that the address is a Matyan server's and that no proxy is in "
        remedy += "the way of WebSockets; or give `frontier_url=`."
    text = f"{address} refuses the run's connection (HTTP {status}). {remedy}"
    return GatewayUnreachableError(text, refused=True)


def _no_websocket(address: BaseUrl, error: Exception) -> GatewayUnreachableError:
    text = (
        f"{address} does not speak WebSocket ({error}). Check the address and its "
        "scheme (http or https), or give `frontier_url=`."
    )
    return GatewayUnreachableError(text, refused=True)


def _unreachable(address: BaseUrl, error: Exception) -> GatewayUnreachableError:
    remedy = tls.remedy(error) or (
        "Start the server (`make up`), or check `repo=` / MATYAN_BACKEND_URL."
    )
    reason = str(error) or type(error).__name__
    return GatewayUnreachableError(f"{address} cannot be reached ({reason}). {remedy}")

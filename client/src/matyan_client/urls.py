"""Server addresses: reading, joining and turning them into WebSocket addresses.

A base address is `http(s)://[user[:password]@]host[:port][/prefix]`; `ws(s)://` is
taken for `http(s)://`. A prefix is kept, a trailing slash is not.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import unquote, urlsplit

from typing_extensions import override

DEFAULT_BACKEND: Final = "http://localhost:53800"

_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class BaseUrl:
    """The address of a server.

    Attributes:
        scheme: "http" or "https".
        host: As given; IPv6 without brackets.
        port: As given, None for the scheme's own.
        prefix: Path before "/api", "" or "/…" without a trailing slash.
        username, password: Decoded, None when the address has none.
    """

    scheme: str
    host: str
    port: int | None = None
    prefix: str = ""
    username: str | None = None
    password: str | None = None

    @classmethod
    def parse(cls, text: str) -> BaseUrl:
        """Return the address in `text`.

        Raises:
            ValueError: If it is no address of a server; the text says what is wrong.
        """
        trimmed = text.strip()
        try:
            parts = urlsplit(trimmed)
            port = parts.port
        except ValueError as error:
            raise ValueError(_wrong(text, str(error))) from error
        problem = _problem(parts.scheme, parts.hostname, parts.query, parts.fragment)
        if problem or not parts.hostname:
            raise ValueError(_wrong(text, problem))
        return cls(
            scheme=_SCHEMES[parts.scheme],
            host=parts.hostname,
            port=port,
            prefix=parts.path.rstrip("/"),
            username=None if parts.username is None else unquote(parts.username),
            password=None if parts.password is None else unquote(parts.password),
        )

    def at_port(self, port: int) -> BaseUrl:
        """Return the same host at another port."""
        return replace(self, port=port)

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine."""
        return self.host in _LOOPBACK

    def _origin(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    @override
    def __str__(self) -> str:
        """Return the address without credentials, fit to be printed."""
        return f"{self.scheme}://{self._origin()}{self.prefix}"

    def rest(self, path: str) -> str:
        """Return the address of a REST resource, without credentials."""
        return f"{self}/api/v1/rest/{path.lstrip('/')}"

    def websocket(self, run_id: str) -> str:
        """Return the address of a run's WebSocket, without credentials."""
        scheme = "wss" if self.scheme == "https" else "ws"
        return f"{scheme}://{self._origin()}{self.prefix}/api/v1/ws/runs/{run_id}"

    def authorization(self) -> dict[str, str]:
        """Return the headers that carry the address's credentials."""
        if self.username is None:
            return {}
        pair = f"{self.username}:{self.password or ''}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}


def _problem(scheme: str, host: str | None, query: str, fragment: str) -> str:
    if scheme not in _SCHEMES:
        return "it must begin with http:// or https://"
    if not host:
        return "it names no host"
    if query or fragment:
        return "it must not have a query or a fragment"
    return ""


def _wrong(text: str, problem: str) -> str:
    return (
        f"{text!r} is not a server address: {problem}. "
        f"Give one such as {DEFAULT_BACKEND!r}."
    )


@dataclass(frozen=True)
class Endpoints:
    """Where a run's data goes and where it is read.

    Attributes:
        backend: The REST side.
        frontier: The WebSocket side, None to find it from the backend.
    """

    backend: str
    frontier: str | None


def choose(
    repo: str | None, frontier_url: str | None, *, backend_env: str, frontier_env: str
) -> Endpoints:
    """Return the addresses to use: arguments, then environment, then the same host.

    Raises:
        ValueError: If one of them is no address.
    """
    backend = repo or backend_env or DEFAULT_BACKEND
    frontier = frontier_url or (None if repo else frontier_env) or None
    BaseUrl.parse(backend)
    if frontier:
        BaseUrl.parse(frontier)
    return Endpoints(backend, frontier)

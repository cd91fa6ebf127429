"""Server addresses: reading, joining and turning them into WebSocket addresses.

A base address is `http(s)://[user[:password]@]host[:port][/prefix]`; `ws(s)://` is
taken for `http(s)://`. A prefix is kept, a trailing slash is not.

A token (`mty_…`) may be either half of the userinfo, or stand in the path as
`/t/<token>`; wherever it stands, it is taken out and sent in a header. Nothing here
that is printed, logged or stored holds a secret.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from typing_extensions import override

from matyan_client.tls import USUAL, Tls

DEFAULT_BACKEND: Final = "http://localhost:53800"

_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_TOKEN_PREFIX: Final = "mty_"  # noqa: S105 - how tokens begin, none itself
_TOKEN_PATH: Final = re.compile(r"/+t/+(?P<token>mty_[^/]+)(?=/|\Z)")
_TOKEN: Final = re.compile(r"[!-~]{1,4096}\Z")
_SECRETS: Final = re.compile(r"//[^/]*@|/t/[^/?#]*|mty_\w+")


@dataclass(frozen=True)
class BaseUrl:
    """The address of a server, and what lets one in there.

    Attributes:
        scheme: "http" or "https".
        host: As given; IPv6 without brackets.
        port: As given, None for the scheme's own.
        prefix: Path before "/api", "" or "/…" without a trailing slash.
        username, password: Decoded, None when the address has none, or a token.
        token: The server's token, None for none.
        tls: How its certificate is checked.
    """

    scheme: str
    host: str
    port: int | None = None
    prefix: str = ""
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    tls: Tls = USUAL

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
            raise ValueError(_wrong(text, without_secrets(str(error)))) from None
        problem = _problem(parts.scheme, parts.hostname, parts.query, parts.fragment)
        if problem or not parts.hostname:
            raise ValueError(_wrong(text, problem))
        in_path = _TOKEN_PATH.search(parts.path)
        address = cls(
            scheme=_SCHEMES[parts.scheme],
            host=parts.hostname,
            port=port,
            prefix=_TOKEN_PATH.sub("", parts.path).rstrip("/"),
            username=None if parts.username is None else unquote(parts.username),
            password=None if parts.password is None else unquote(parts.password),
            token=in_path["token"] if in_path else None,
        )
        return address._with_token_of_userinfo()

    def _with_token_of_userinfo(self) -> BaseUrl:
        for half in (self.password, self.username):
            if half is not None and half.startswith(_TOKEN_PREFIX):
                return replace(self, token=half, username=None, password=None)
        return self

    def at_port(self, port: int) -> BaseUrl:
        """Return the same host at another port."""
        return replace(self, port=port)

    def let_in(
        self, *, token: str | None = None, default_token: str | None = None
    ) -> BaseUrl:
        """Return the same address with a token.

        Args:
            token: Comes before what the address brings itself.
            default_token: Comes after it.
        """
        if token:
            return replace(self, token=token)
        if default_token and self.token is None and self.username is None:
            return replace(self, token=default_token)
        return self

    @property
    def is_let_in(self) -> bool:
        """Whether it has any credentials."""
        return self.token is not None or self.username is not None

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
        if self.token is not None:
            return {"Authorization": f"Bearer {self.token}"}
        if self.username is None:
            return {}
        pair = f"{self.username}:{self.password or ''}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}

    def with_userinfo(self) -> str:
        """Return the address with its user name and password: a secret."""
        if self.username is None:
            return str(self)
        userinfo = (
            f"{quote(self.username, safe='')}:{quote(self.password or '', safe='')}"
        )
        return str(self).replace("://", f"://{userinfo}@", 1)


def _problem(scheme: str, host: str | None, query: str, fragment: str) -> str:
    if scheme not in _SCHEMES:
        return "it must begin with http:// or https://"
    if not host:
        return "it names no host"
    if query or fragment:
        return "it must not have a query or a fragment"
    return ""


def without_secrets(text: str) -> str:
    """Return `text`, which may hold an address that cannot be parsed, to be shown."""
    return _SECRETS.sub(lambda found: "//…@" if "@" in found[0] else "…", text)


def _wrong(text: str, problem: str) -> str:
    return (
        f"{without_secrets(text)!r} is not a server address: {problem}. "
        f"Give one such as {DEFAULT_BACKEND!r}."
    )


@dataclass(frozen=True)
class Endpoints:
    """Where a run's data goes and where it is read.

    Attributes:
        backend: The REST side.
        frontier: The WebSocket side, None to find it from the backend.
    """

    backend: BaseUrl
    frontier: BaseUrl | None

    def let_in(self, *, default_token: str | None) -> Endpoints:
        """Return the same addresses, with a token where they have no credentials."""
        return Endpoints(
            self.backend.let_in(default_token=default_token),
            self.frontier and self.frontier.let_in(default_token=default_token),
        )

    def borrow(self, lenders: Iterable[Endpoints]) -> Endpoints:
        """Return the same addresses with the credentials of one who has them.

        What stands in a local log is an address without its secrets. Only another
        address of the same server lends its own.
        """
        if self.backend.is_let_in:
            return self
        for lender in lenders:
            if lender.backend.is_let_in and str(lender.backend) == str(self.backend):
                frontier = self.frontier and _lend(lender.backend, self.frontier)
                return Endpoints(_lend(lender.backend, self.backend), frontier)
        return self


def _lend(lender: BaseUrl, borrower: BaseUrl) -> BaseUrl:
    if borrower.is_let_in:
        return borrower
    return replace(
        borrower,
        username=lender.username,
        password=lender.password,
        token=lender.token,
    )


def choose(  # noqa: PLR0913 - arguments, and what stands in for them
    repo: str | None,
    frontier_url: str | None,
    *,
    backend_env: str,
    frontier_env: str,
    token: str | None = None,
    tls: Tls = USUAL,
) -> Endpoints:
    """Return the addresses to use: arguments, then environment, then the same host.

    Args:
        repo: The backend's address.
        frontier_url: The gateway's address.
        backend_env: The backend's, when `repo` is not given.
        frontier_env: The gateway's, when neither is given.
        token: Token for both, whatever the addresses bring.
        tls: How certificates are checked.

    Raises:
        ValueError: If one of them is no address, or a token is none.
    """
    check_token(token, "token=")

    def address(text: str) -> BaseUrl:
        return replace(BaseUrl.parse(text), tls=tls).let_in(token=token)

    backend = address(repo or backend_env or DEFAULT_BACKEND)
    frontier = frontier_url or (None if repo else frontier_env) or None
    if frontier is None:
        return Endpoints(backend, None)
    gateway = address(frontier)
    # One token for one server, whichever of its two addresses names it.
    return Endpoints(
        backend.let_in(default_token=gateway.token),
        gateway.let_in(default_token=backend.token),
    )


def check_token(token: str | None, name: str) -> None:
    """Refuse what cannot be sent as a token, without showing it.

    Raises:
        ValueError: If it has spaces, control or foreign characters.
    """
    if token and not _TOKEN.match(token):
        msg = f"{name} is not a token: it must be one word of ASCII letters and signs"
        raise ValueError(msg)

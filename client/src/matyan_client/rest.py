"""The REST side: reading runs and asking questions.

Errors name the address and what to do; a refused query is a `QueryError` that points at
the place.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final, cast

import httpx

from matyan_client import tls
from matyan_client.urls import BaseUrl
from matyan_wire.tree_stream import TreeStreamError, is_progress, iter_trees

TIMEOUT_S: Final = 30.0
STREAM_TIMEOUT_S: Final = 120.0

_REMEDIES: Final[dict[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "Give a token: `token=`, or set MATYAN_TOKEN.",
    HTTPStatus.FORBIDDEN: "It takes a token of a greater scope.",
}

BYTES_AT_A_TIME: Final = 256 * 1024

JsonValue = Any


class ServerError(ConnectionError):
    """The server cannot be reached, or fails; the text names its address."""


class NotFoundError(LookupError):
    """The server does not have what was asked for.

    Attributes:
        code: What the server calls it; "" if it does not know the address at all.
    """

    code = ""


class QueryError(ValueError):
    """A query cannot be understood; the text tells why.

    Attributes:
        statement: The line with the mistake, in the parentheses the server adds.
        line, offset: Where it is, from 1; 0 when the server does not say.
    """

    def __init__(self, message: str, *, statement: str, line: int, offset: int) -> None:
        super().__init__(message)
        self.statement = statement
        self.line = line
        self.offset = offset


class RestClient:
    """HTTP calls to one backend. Thread-safe; connections are pooled until `close`."""

    def __init__(self, backend: BaseUrl) -> None:
        self.backend = backend
        self._client = httpx.Client(
            headers={"User-Agent": "matyan-client", **backend.authorization()},
            timeout=TIMEOUT_S,
            verify=backend.tls.context(),
            trust_env=not backend.is_loopback,
        )

    def get(
        self, path: str, *, timeout_s: float = TIMEOUT_S, **params: Any
    ) -> JsonValue:
        """Return the JSON at `path`.

        Args:
            path: The resource.
            timeout_s: How long each step of the call may take.
            params: The query.

        Raises:
            ServerError, NotFoundError, QueryError: As their names say.
        """
        return _json_of(self._call("GET", path, params=params, timeout=timeout_s))

    def iter_bytes(self, path: str, params: Mapping[str, Any]) -> Iterator[bytes]:
        """Yield the body at `path` as it arrives, all of it or an error.

        Raises:
            ServerError, NotFoundError: As their names say.
        """
        url = self.backend.rest(path)
        with (
            self._translated(url),
            self._client.stream(
                "GET", url, params=params, timeout=STREAM_TIMEOUT_S
            ) as response,
        ):
            if response.is_error:
                response.read()
            _check(response, url)
            yield from response.iter_bytes(BYTES_AT_A_TIME)

    def delete(self, path: str) -> None:
        """Delete what is at `path`.

        Raises:
            ServerError, NotFoundError: As their names say.
        """
        self._call("DELETE", path)

    def iter_trees(
        self, path: str, *, body: JsonValue = None, **params: Any
    ) -> Iterator[tuple[str, Any]]:
        """Yield the trees of a stream with their keys, progress frames left out.

        Args:
            path: The resource.
            body: Posted as JSON, if given.
            params: The query.

        Raises:
            ServerError, NotFoundError, QueryError: As their names say.
        """
        url = self.backend.rest(path)
        with (
            self._translated(url),
            self._client.stream(
                "GET" if body is None else "POST",
                url,
                params=params,
                json=body,
                timeout=STREAM_TIMEOUT_S,
            ) as response,
        ):
            if response.is_error:
                response.read()
            _check(response, url)
            _refuse_pages(response)
            for key, tree in iter_trees(response.iter_bytes()):
                if not is_progress(key):
                    yield str(key), tree

    def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        url = self.backend.rest(path)
        with self._translated(url):
            response = self._client.request(method, url, **options)
            _check(response, url)
            return response

    @contextmanager
    def _translated(self, url: str) -> Generator[None, None, None]:
        try:
            yield
        except (httpx.HTTPError, TreeStreamError) as error:
            reason = str(error) or type(error).__name__
            remedy = tls.remedy(error) or (
                "Start the server, or check `repo=` / MATYAN_BACKEND_URL."
            )
            msg = f"{url} cannot be read ({reason}). {remedy}"
            raise ServerError(msg) from error

    def close(self) -> None:
        """Close the pooled connections."""
        self._client.close()


def _json_of(response: httpx.Response) -> JsonValue:
    """Return the body as JSON.

    Raises:
        ServerError: If it is none: somebody else answers at this address.
    """
    _refuse_pages(response)
    try:
        return response.json()
    except ValueError as error:
        raise _no_api(response) from error


def _refuse_pages(response: httpx.Response) -> None:
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise _no_api(response)


def _no_api(response: httpx.Response) -> ServerError:
    kind = response.headers.get("Content-Type") or "no content type"
    msg = (
        f"{response.url.copy_with(query=None)} is no Matyan API address: it answers "
        f"HTTP {response.status_code} with {kind}. Give the server's own address, "
        "without a page's path, as `repo=` / MATYAN_BACKEND_URL."
    )
    return ServerError(msg)


def _check(response: httpx.Response, url: str) -> None:
    if response.is_success:
        return
    try:
        body: object = response.json()
    except ValueError:
        body = None
    answer = cast("dict[str, Any]", body) if isinstance(body, dict) else {}
    message = str(answer.get("message") or answer.get("detail") or response.text[:200])
    if response.status_code == HTTPStatus.NOT_FOUND:
        _refuse_pages(response)
        missing = NotFoundError(f"{url}: {message or 'not found'}")
        error = answer.get("error")
        if isinstance(error, dict):
            missing.code = str(cast("dict[str, Any]", error).get("code", ""))
        raise missing
    if response.status_code == HTTPStatus.BAD_REQUEST:
        raise _query_error(_reason_of(answer) or message, answer.get("detail"))
    msg = f"{url} answered HTTP {response.status_code}: {message}"
    if remedy := _REMEDIES.get(response.status_code):
        msg += f". {remedy}"
    raise ServerError(msg)


def _reason_of(answer: dict[str, Any]) -> str:
    """Return the server's own words; a query's `message` is one fixed word."""
    error = answer.get("error")
    found = cast("dict[str, Any]", error) if isinstance(error, dict) else {}
    return str(found.get("message") or "")


def _query_error(message: str, detail: object) -> QueryError:
    place = cast("dict[str, Any]", detail) if isinstance(detail, dict) else {}
    statement = str(place.get("statement", ""))
    line, offset = int(place.get("line") or 0), int(place.get("offset") or 0)
    if statement:
        message = f"{message} in line {line}: {statement}\n{' ' * (offset - 1)}^"
    return QueryError(message, statement=statement, line=line, offset=offset)

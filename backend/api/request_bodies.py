"""Bounds the bodies of requests before Django puts them aside.

Django writes a body to a temporary file, whole, before any of its code looks at the
request. `BodyGate` stands around it and hands over no more than may be sent:

- 64 kB, whoever asks. That is enough for every form, and for nearly every question.
- `settings.DATA_UPLOAD_MAX_MEMORY_SIZE` where a body belongs and access is granted.
  That is decided before the body is read, by what decides it afterwards.

A body that comes slower than 10 kB/s on average, after 30 s to spare, is given up.
Blobs do not come this way (`frontier.uploads`).

Design note: docs/subsystems/api.md#requests
"""

from __future__ import annotations

import asyncio
import io
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from channels.db import database_sync_to_async
from django.conf import settings
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.exceptions import SuspiciousOperation
from django.core.handlers.asgi import ASGIRequest
from django.http import Http404, HttpResponse
from django.urls import resolve

from backend.api import access, access_rules, handlers, observability
from backend.api.middleware import PathMiddleware
from backend.errors import AccessError

SMALL_BYTES: Final = 64 * 1024
SPARE_S: Final = 30.0
LEAST_BYTES_PER_S: Final = 10_000

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_pool = ThreadPoolExecutor(2, thread_name_prefix="body-access")


class BodyGate:
    """ASGI middleware around Django: a body over its limit is answered 413."""

    def __init__(self, application: Any) -> None:
        self._application = application

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass on a request whose body may be read; answer any other."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        started_s = time.perf_counter()
        body = _BoundedBody(scope, receive)
        await body.expect(_announced_bytes(scope))
        if body.refused is None:
            await self._application(scope, body.receive, send)
        if body.refused is not None:
            observability.count_request(
                method=scope["method"],
                route="",
                status=body.refused.status_code,
                seconds=time.perf_counter() - started_s,
            )
            await _answer(send, body.refused)


class _BoundedBody:
    """One request's body: counted, timed, and cut off at its limit.

    Attributes:
        refused: The answer to a body that is not read further. The application is told
            that the client is gone; it has answered nothing by then, because Django
            reads the body first.
    """

    def __init__(self, scope: Message, receive: Receive) -> None:
        self.refused: HttpResponse | None = None
        self._scope = scope
        self._receive = receive
        self._limit = SMALL_BYTES
        self._received = 0
        self._ended = False
        self._started_s = time.monotonic()

    async def expect(self, size: int) -> None:
        """Refuse the request unless a body of `size` bytes may be sent with it."""
        if size <= self._limit or self._limit > SMALL_BYTES:
            pass
        elif isinstance(allowed := await _allowance(self._scope), HttpResponse):
            self.refused = allowed
        else:
            self._limit = allowed
        if self.refused is None and size > self._limit:
            self.refused = handlers.payload_too_large()

    async def receive(self) -> Message:
        """Return the next message of the server."""
        if self._ended:
            return await self._receive()
        spare_s = SPARE_S + self._received / LEAST_BYTES_PER_S
        try:
            async with asyncio.timeout(self._started_s + spare_s - time.monotonic()):
                message = await self._receive()
        except TimeoutError:
            self.refused = handlers.request_timeout()
            return {"type": "http.disconnect"}
        self._received += len(message.get("body", b""))
        await self.expect(self._received)
        if self.refused is not None:
            return {"type": "http.disconnect"}
        self._ended = not message.get("more_body", False)
        return message


async def _allowance(scope: Message) -> int | HttpResponse:
    """Return how large the body may be, or the answer to who has no access."""
    if settings.MATYAN_ROLE == "frontier" or scope["method"] in _WITHOUT_BODY:
        return SMALL_BYTES
    return await _decide(scope)


def _allowance_of(scope: Message) -> int | HttpResponse:
    try:
        request = _request_of(scope)
        route = request.resolver_match.route if request.resolver_match else ""
        if not route.startswith(_WITH_BODY):
            return SMALL_BYTES
        access.check(request, method=request.method or "")
    except AccessError as error:
        return access.refusal(error)
    except Http404:
        return SMALL_BYTES
    except (SuspiciousOperation, UnicodeError):
        return handlers.bad_request(None)
    return int(settings.DATA_UPLOAD_MAX_MEMORY_SIZE)


_decide: Callable[[Message], Awaitable[int | HttpResponse]] = database_sync_to_async(
    _allowance_of, thread_sensitive=False, executor=_pool
)


def _request_of(scope: Message) -> ASGIRequest:
    """Return the request without its body, as far as access is concerned.

    Raises:
        Http404: If it is no route.
    """
    request = ASGIRequest(scope, io.BytesIO())
    PathMiddleware(_nothing).before(request)
    SessionMiddleware(_nothing).process_request(request)
    AuthenticationMiddleware(_nothing).process_request(request)
    request.resolver_match = resolve(request.path_info)
    return request


def _nothing(_request: Any) -> HttpResponse:
    return HttpResponse()


_WITH_BODY: Final = ("^api/v1/rest/", "admin/")
"""Routes a large body can belong to; `access` decides about each of them."""

_WITHOUT_BODY: Final = access_rules.SAFE_METHODS | {"TRACE", "CONNECT"}
_DIGITS: Final = re.compile(rb"[0-9]{1,18}\Z")


def _announced_bytes(scope: Message) -> int:
    """Return the body's length, 0 if it is not announced."""
    values = (value for name, value in scope["headers"] if name == b"content-length")
    value = next(values, b"")
    return int(value) if _DIGITS.match(value) else 0


async def _answer(send: Send, response: HttpResponse) -> None:
    response.headers["Content-Length"] = str(len(response.content))
    response.headers["X-Request-ID"] = uuid.uuid4().hex
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in response.items()
    ]
    start = {"type": "http.response.start", "status": response.status_code}
    await send({**start, "headers": headers})
    await send({"type": "http.response.body", "body": response.content})

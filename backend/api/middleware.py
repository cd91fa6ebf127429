"""Middleware around every HTTP request; nothing here looks into or buffers a body.

`RequestIdMiddleware` names and counts requests, `PathMiddleware` tidies paths,
`CorsMiddleware` answers browsers whose page comes from another origin. All three run
on both WSGI and ASGI without a thread hop.

Design note: docs/subsystems/api.md#requests
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers
from typing_extensions import override

from backend.api import observability
from backend.api.handlers import error_body

GetResponse = Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._\-]{1,64}\Z")
_SLASHES: Final = re.compile(r"/{2,}")
_METHODS: Final = "GET, POST, PUT, PATCH, DELETE, OPTIONS"
_HEADERS: Final = "Content-Type, X-Timezone-Offset, Authorization, X-Request-ID"
_PREFLIGHT_AGE_S: Final = 600


class Middleware:
    """Runs on WSGI and ASGI without a thread hop; does nothing by itself."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        """Return the response, or under ASGI something to await for it."""
        if self.is_async:
            return self._call_async(request)
        early = self.before(request)
        response = cast("HttpResponseBase", early or self.get_response(request))
        return self.after(request, response)

    async def _call_async(self, request: HttpRequest) -> HttpResponseBase:
        response: HttpResponseBase | None = self.before(request)
        if response is None:
            response = await cast(
                "Awaitable[HttpResponseBase]", self.get_response(request)
            )
        return self.after(request, response)

    def before(self, request: HttpRequest) -> HttpResponse | None:
        """Return an answer to give at once, or None to go on."""

    def after(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        """Return the response to send."""
        return response


class RequestIdMiddleware(Middleware):
    """Gives each request an id (the caller's, when it is usable) and counts it."""

    @override
    def before(self, request: HttpRequest) -> None:
        given = request.headers.get("X-Request-ID", "")
        usable = _REQUEST_ID.match(given)
        request.META["MATYAN_REQUEST_ID"] = given if usable else uuid.uuid4().hex
        request.META["MATYAN_STARTED_S"] = time.perf_counter()

    @override
    def after(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        response.headers["X-Request-ID"] = request.META["MATYAN_REQUEST_ID"]
        match = getattr(request, "resolver_match", None)
        observability.count_request(
            method=request.method or "",
            route=match.route if match else "",
            status=response.status_code,
            seconds=time.perf_counter() - request.META["MATYAN_STARTED_S"],
        )
        return response


class PathMiddleware(Middleware):
    """Collapses repeated slashes: clients join a base URL ending in one with a path."""

    @override
    def before(self, request: HttpRequest) -> None:
        if "//" in request.path_info:
            request.path_info = _SLASHES.sub("/", request.path_info)
            request.path = _SLASHES.sub("/", request.path)


class CorsMiddleware(Middleware):
    """Lets pages of the origins in `settings.CORS_ORIGINS` call the API."""

    @override
    def before(self, request: HttpRequest) -> HttpResponse | None:
        preflight = (
            request.method == "OPTIONS"
            and "Origin" in request.headers
            and "Access-Control-Request-Method" in request.headers
        )
        if not preflight:
            return None
        if request.headers["Origin"] not in settings.CORS_ORIGINS:
            return JsonResponse(
                error_body("bad_request", "This origin may not call the API"),
                status=400,
            )
        response = HttpResponse(status=200)
        del response.headers["Content-Type"]
        response.headers["Access-Control-Allow-Methods"] = _METHODS
        response.headers["Access-Control-Allow-Headers"] = _HEADERS
        response.headers["Access-Control-Max-Age"] = str(_PREFLIGHT_AGE_S)
        return response

    @override
    def after(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        origin = request.headers.get("Origin")
        if origin is None:
            return response
        patch_vary_headers(response, ["Origin"])
        if origin in settings.CORS_ORIGINS:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Allow-Credentials"] = "true"
            response.headers["Access-Control-Expose-Headers"] = "X-Request-ID"
        return response

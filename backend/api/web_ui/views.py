"""Addresses that belong to people: the web UI's pages, and what stands in for it.

`page` is the last route of all. Every GET or HEAD that would take HTML gets the UI's
one page, which then shows what its own router makes of the address. What is the
server's own (`RESERVED`) is never a page: there an unknown address is a JSON 404.

Design note: docs/subsystems/web-ui.md#addresses
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Final

from django.conf import settings
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
)
from django.utils.cache import patch_vary_headers
from django.views.decorators.http import require_safe

from backend.api import handlers, observability
from backend.api.web_ui import index, package
from backend.api.web_ui.absent import ABSENT_PAGE, ABSENT_POLICY

RESERVED: Final = frozenset({"api", "health", "admin", "static", "static-files"})
"""First path components that are never pages of the UI. Prometheus shares `metrics`."""


def page(request: HttpRequest) -> HttpResponseBase:
    """Answer any address that is no other route's."""
    first = request.path_info.split("/", 2)[1]
    if (
        first in RESERVED
        or request.method not in {"GET", "HEAD"}
        or not request.accepts("text/html")
    ):
        return handlers.not_found(request)
    return _index(request)


@require_safe
def metrics(request: HttpRequest) -> HttpResponseBase:
    """Answer `/metrics`: a page in browsers, numbers for Prometheus."""
    if "text/html" in request.headers.get("Accept", ""):
        return _index(request)
    return observability.metrics_view(request)


def _index(request: HttpRequest) -> HttpResponse:
    root = package.find_root()
    if root is None:
        response = HttpResponse(ABSENT_PAGE, status=200 if request.path == "/" else 404)
        policy = ABSENT_POLICY
    else:
        rendered = index.render(
            _template(root),
            origin=index.origin_of(request),
            base_path=request.META.get("SCRIPT_NAME", "").rstrip("/"),
            report_scripts=settings.MATYAN_REPORT_SCRIPTS,
        )
        response, policy = HttpResponse(rendered.html), rendered.policy
    response.headers["Cache-Control"] = "no-cache"
    response.headers["Content-Security-Policy"] = policy
    patch_vary_headers(response, ["Accept", "X-Forwarded-Host", "X-Forwarded-Proto"])
    return response


@functools.cache
def _template(root: Path) -> str:
    return package.read_template(root)


def favicon(request: HttpRequest) -> HttpResponseBase:
    """Answer what browsers ask for on pages that name no icon."""
    if package.find_root() is None:
        return handlers.not_found(request)
    base_path = request.META.get("SCRIPT_NAME", "").rstrip("/")
    return HttpResponseRedirect(f"{base_path}/static-files/favicon.ico")

"""What each route needs: the one list to read when asking who can reach what.

A route that is not listed needs credentials, the scope `read` for GET and HEAD and
`write` for everything else. Forgetting to list a route therefore closes it.

Design note: docs/subsystems/access.md#routes
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from backend.domain.access import Scope

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

PUBLIC: Final[Mapping[str, str]] = {
    r"^health/live/?$": "probes have no credentials; it tells that the process runs",
    r"^health/ready/?$": "probes have no credentials; it tells what does not answer",
    r"^sign-in/?$": "where people get in",
    r"^sign-out/?$": "ends the session it is asked with, and does nothing without one",
    r"^api/auth/refresh/?$": "pages ask it whether there is a session; 401 without one",
    r"^favicon\.ico$": "asked for on the sign-in page; leads to a public file",
}
"""Route to the reason why it needs no credentials."""

PUBLIC_PREFIXES: Final[Mapping[str, str]] = {
    "/static/": "files of published packages: the admin's and the browsable API's",
    "/static-files/": "files of the published package `matyan-ui`",
    "/api/v1/blobs/upload/": (
        "the address itself is the credential: signed, for one key, one size, a while"
    ),
}
"""Prefix to the reason; these are answered before Django looks for a route."""

LOCAL: Final[Mapping[str, str]] = {
    r"^api/metrics/?$": "scraped by a Prometheus on this machine",
    r"^metrics/?$": "scraped by a Prometheus on this machine",
}
"""Routes that need no credentials when asked from this machine itself."""

_READING_POST: Final = re.compile(r"/(?:get-batch|get-step|align)/\?\$\Z")
"""Questions whose lists are too long for an address."""

_DESTROYING: Final = frozenset(
    {
        ("DELETE", r"^api/v1/rest/runs/(?P<run_id>[^/]+)/?$"),
        ("POST", r"^api/v1/rest/runs/delete-batch/?$"),
        ("POST", r"^api/v1/rest/runs/(?P<run_id>[^/]+)/clear-tombstone/?$"),
        ("DELETE", r"^api/v1/rest/experiments/(?P<experiment_id>[^/]+)/?$"),
    }
)
"""What cannot be made again, or brings deleted runs' late records back."""


def needed_scope(method: str, route: str) -> Scope:
    """Return the scope that `method` needs on `route` (a URL pattern)."""
    if (method, route) in _DESTROYING:
        return Scope.ADMIN
    if method in SAFE_METHODS:
        return Scope.READ
    if method == "POST" and _READING_POST.search(route):
        return Scope.READ
    return Scope.WRITE

"""Every route there is, with an address for each: what the walk over all routes takes.

Django's routes come from the resolver of a role's URLs; those the gateway answers
before Django, and its WebSockets, are listed by the modules that route them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.urls import URLResolver, get_resolver
from django.urls.resolvers import RoutePattern
from django.utils.regex_helper import normalize

from frontier.presign import ROUTES as UPLOAD_QUESTIONS

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
UNSAFE = ("POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True)
class Route:
    """A route, as `resolver_match.route` names it, and an address that leads to it."""

    pattern: str
    path: str


def django_routes(urlconf: str) -> list[Route]:
    """Return the routes of a role."""
    routes = []
    for pattern, regex in _walk(get_resolver(urlconf), "", ""):
        template, names = normalize(regex)[0]
        values = {name: _sample(regex, name) for name in names}
        routes.append(Route(pattern, "/" + template % values))
    return routes


def _sample(regex: str, name: str) -> str:
    """Return a value for a group: the first of those it lists, if it lists any."""
    words = re.search(rf"\(\?P<{name}>([\w-]+(?:\|[\w-]+)*)\)", regex)
    return words[1].split("|")[0] if words else "1"


def _walk(resolver: Any, pattern: str, regex: str) -> Iterator[tuple[str, str]]:
    for entry in resolver.url_patterns:
        own = str(entry.pattern)
        here = pattern + (own.removeprefix("^") if pattern else own)
        part = entry.pattern.regex.pattern
        if isinstance(entry.pattern, RoutePattern):
            part = part.replace(r"\Z", "")
        path = regex + part.removeprefix("^").removesuffix("$").removesuffix(r"\Z")
        if isinstance(entry, URLResolver):
            yield from _walk(entry, here, path)
        else:
            yield here, path


def upload_question_paths() -> list[str]:
    """Return the paths the gateway answers before Django, except signed uploads."""
    return [f"/api/v1/rest/artifacts/{route}" for route in UPLOAD_QUESTIONS]

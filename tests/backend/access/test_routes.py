"""With access restricted, no route is reachable without credentials.

The walk takes every route of both roles. What is public is named here with a reason, a
second time: making a route public takes a change in two places.
"""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import resolve

from backend.api import access_rules
from frontier.routing import websocket_urlpatterns
from tests.backend.access.asgi import ask
from tests.backend.access.routes import (
    METHODS,
    UNSAFE,
    Route,
    django_routes,
    upload_question_paths,
)

PUBLIC = {
    r"^health/live/?$": "probes",
    r"^health/ready/?$": "probes",
    r"^sign-in/?$": "people get in here",
    r"^sign-out/?$": "ends one's own session",
    r"^api/auth/refresh/?$": "answers 401 itself",
    r"^favicon\.ico$": "leads to a public file",
}
PUBLIC_PREFIXES = {
    "/static/": "published packages",
    "/static-files/": "a published package",
    "/api/v1/blobs/upload/": "signed addresses",
}
LOCAL = {r"^api/metrics/?$", r"^metrics/?$"}
READING_POSTS = ("/get-batch/?$", "/align/?$")
FAR = {"REMOTE_ADDR": "192.0.2.7"}

BACKEND = "matyan_project.urls"
GATEWAY = "frontier.urls"
ALL = {
    f"{urlconf.split('.')[0]} {route.pattern}": (urlconf, route)
    for urlconf in (BACKEND, GATEWAY)
    for route in django_routes(urlconf)
}
CLOSED = {name: found for name, found in ALL.items() if found[1].pattern not in PUBLIC}
CHANGING = {
    name: found
    for name, found in CLOSED.items()
    if not found[1].pattern.endswith(READING_POSTS)
}


@pytest.fixture(autouse=True)
def _role(request: pytest.FixtureRequest, settings: Any) -> None:
    if "urlconf" in request.fixturenames:
        settings.ROOT_URLCONF = request.getfixturevalue("urlconf")
        settings.MATYAN_ROLE = "frontier" if settings.ROOT_URLCONF == GATEWAY else "all"


def test_what_is_public_is_known_here_too() -> None:
    assert set(access_rules.PUBLIC) == set(PUBLIC)
    assert set(access_rules.PUBLIC_PREFIXES) == set(PUBLIC_PREFIXES)
    assert set(access_rules.LOCAL) == LOCAL
    assert all([*access_rules.PUBLIC.values(), *access_rules.PUBLIC_PREFIXES.values()])


def test_what_is_listed_is_a_route() -> None:
    routes = {
        route.pattern for url in (BACKEND, GATEWAY) for route in django_routes(url)
    }
    destroying = {route for _, route in access_rules._DESTROYING}
    assert {*PUBLIC, *LOCAL, *destroying} <= routes


@pytest.mark.parametrize(("urlconf", "route"), ALL.values(), ids=ALL)
def test_an_address_leads_to_its_route(urlconf: str, route: Route) -> None:
    assert resolve(route.path, urlconf).route == route.pattern


@pytest.mark.django_db
@pytest.mark.parametrize(("urlconf", "route"), CLOSED.values(), ids=CLOSED)
def test_nobody_gets_anywhere(urlconf: str, route: Route) -> None:
    client = Client(**FAR)
    for method in METHODS:
        answer = client.generic(method, route.path)
        assert answer.status_code == 401, (method, route.path)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        page = client.generic(method, route.path, headers={"Accept": "text/html"})
        if method in {"GET", "HEAD"} and urlconf == BACKEND:
            assert page.status_code == 302
            assert page.headers["Location"].startswith("/sign-in?next=/")
        else:
            assert page.status_code == 401
    wrong = {"Authorization": f"Bearer mty_{'a' * 12}_{'b' * 40}"}
    assert Client(headers=wrong, **FAR).get(route.path).status_code == 401


@pytest.mark.parametrize(("urlconf", "route"), CHANGING.values(), ids=CHANGING)
def test_a_read_token_changes_nothing(
    urlconf: str, route: Route, read_token: str
) -> None:
    client = Client(headers={"Authorization": f"Bearer {read_token}"}, **FAR)
    for method in UNSAFE:
        assert client.generic(method, route.path).status_code == 403, method


def test_the_websocket_routes_are_the_ones_tested_here() -> None:
    patterns = [str(entry.pattern) for entry in websocket_urlpatterns]
    assert patterns == [r"^api/v1/ws/runs/(?P<run_id>[^/]+)$"]


@pytest.mark.parametrize("prefix", ["", "//", "/team/x", "/t/wrong"])
@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "Basic !", "Other x"])
@pytest.mark.django_db(transaction=True)
async def test_websockets_are_closed(prefix: str, authorization: str | None) -> None:
    headers = {"authorization": authorization} if authorization else {}
    path = f"{prefix}/api/v1/ws/runs/r"
    assert (await ask(path, kind="websocket", headers=headers))[0] == 401


@pytest.mark.django_db(transaction=True)
async def test_a_read_token_opens_no_websocket(read_token: str) -> None:
    headers = {"authorization": f"Bearer {read_token}"}
    assert (await ask("/api/v1/ws/runs/r", kind="websocket", headers=headers))[0] == 403


@pytest.mark.parametrize("path", upload_question_paths())
@pytest.mark.parametrize("prefix", ["", "//", "/team/x"])
@pytest.mark.django_db(transaction=True)
async def test_uploads_are_not_allowed_to_anybody(
    path: str, prefix: str, read_token: str
) -> None:
    headers = {"host": "h"}
    assert (await ask(prefix + path, method="POST", headers=headers))[0] == 401
    headers["authorization"] = f"Bearer {read_token}"
    assert (await ask(prefix + path, method="POST", headers=headers))[0] == 403

"""With access restricted, no route is reachable without credentials.

The walk takes every route of both roles. What is public is named here with a reason, a
second time: making a route public takes a change in two places.
"""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import resolve

from backend.access.verifier import VERIFIER
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
READING_POSTS = ("/get-batch/?$", "/get-step/?$", "/align/?$")
FAR = {"REMOTE_ADDR": "192.0.2.7"}

BACKEND = "matyan_project.urls"
GATEWAY = "frontier.urls"
Asked = list[tuple[str, str, int]]


@pytest.fixture(params=[BACKEND, GATEWAY])
def routes(request: pytest.FixtureRequest, settings: Any) -> list[Route]:
    """The routes of one role, which is in force."""
    settings.ROOT_URLCONF = request.param
    settings.MATYAN_ROLE = "frontier" if request.param == GATEWAY else "all"
    return django_routes(request.param)


def _closed(routes: list[Route]) -> list[Route]:
    return [route for route in routes if route.pattern not in PUBLIC]


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


def test_an_address_leads_to_its_route(routes: list[Route]) -> None:
    for route in routes:
        assert resolve(route.path).route == route.pattern


@pytest.mark.django_db
def test_nobody_gets_anywhere(routes: list[Route]) -> None:
    client = Client(**FAR)
    open_routes: Asked = []
    for route in _closed(routes):
        for method in METHODS:
            answer = client.generic(method, route.path)
            asks = answer.headers.get("WWW-Authenticate", "").startswith("Bearer")
            if answer.status_code != 401 or not asks:
                open_routes.append((method, route.path, answer.status_code))
    assert len(_closed(routes)) > 2
    assert open_routes == []


@pytest.mark.django_db
def test_browsers_are_led_to_the_sign_in_page(
    routes: list[Route], settings: Any
) -> None:
    expected = 401 if settings.MATYAN_ROLE == "frontier" else 302
    client = Client(headers={"Accept": "text/html"}, **FAR)
    for route in _closed(routes):
        page = client.get(route.path)
        assert page.status_code == expected
        if expected == 302:
            assert page.headers["Location"].startswith("/sign-in?next=/")
        assert client.post(route.path).status_code == 401


@pytest.mark.django_db
def test_no_redirect_carries_a_token() -> None:
    token = f"mty_{'a' * 12}_{'b' * 40}"
    client = Client(headers={"Accept": "text/html"}, **FAR)
    for path in (f"/t/{token}/", f"/t/{token}/runs/r", f"/x/t/{token}", f"/?k={token}"):
        answer = client.get(path)
        assert answer.status_code == 401
        assert token not in str(answer.headers)


def test_a_read_token_may_ask_for_a_step(read_token: str, runtime: Any) -> None:
    client = Client(headers={"Authorization": f"Bearer {read_token}"}, **FAR)
    path = "/api/v1/rest/runs/r/images/get-step"
    assert client.generic("POST", path, "[]", "application/json").status_code == 404


@pytest.mark.django_db
def test_a_wrong_token_is_no_better_than_none(
    routes: list[Route], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VERIFIER.limiter, "begin", lambda address: True)
    wrong = {"Authorization": f"Bearer mty_{'a' * 12}_{'b' * 40}"}
    client = Client(headers=wrong, **FAR)
    for route in _closed(routes):
        assert client.get(route.path).status_code == 401


def test_a_read_token_changes_nothing(routes: list[Route], read_token: str) -> None:
    client = Client(headers={"Authorization": f"Bearer {read_token}"}, **FAR)
    changed: Asked = []
    for route in _closed(routes):
        if route.pattern.endswith(READING_POSTS):
            continue
        for method in UNSAFE:
            status = client.generic(method, route.path).status_code
            if status != 403:
                changed.append((method, route.path, status))
    assert changed == []


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

# ruff: noqa: S105, S106, S107 - passwords of people who do not exist
from __future__ import annotations

import contextlib
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.backends import ModelBackend
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError
from django.test import Client

from backend.access.people import PasswordBackend

REST = "/api/v1/rest"
FAR = {"REMOTE_ADDR": "192.0.2.7"}
PAGE = {"Accept": "text/html"}


@pytest.fixture
def person(django_user_model: Any) -> Any:
    return django_user_model.objects.create_user("ann", password="correct horse")


@pytest.fixture
def staff(django_user_model: Any) -> Any:
    return django_user_model.objects.create_superuser("root", password="x")


def _sign_in(client: Client, password: str = "correct horse", **fields: str) -> Any:
    page = client.get("/sign-in", headers=PAGE)
    token = re.search(r'csrfmiddlewaretoken" value="(\w+)"', page.content.decode())
    assert token
    form = {"username": "ann", "password": password, "csrfmiddlewaretoken": token[1]}
    return client.post("/sign-in", {**form, **fields})


def test_cookies_are_named_for_the_installation(person: Any, runtime: Any) -> None:
    client = Client()
    _sign_in(client)
    assert set(client.cookies) == {
        settings.SESSION_COOKIE_NAME,
        settings.CSRF_COOKIE_NAME,
    }
    kinds = {re.sub(r"_[0-9a-f]{8}$", "_…", name) for name in client.cookies}
    assert kinds == {"matyan_session_…", "matyan_csrf_…"}


def test_a_person_signs_in_and_out(person: Any, runtime: Any) -> None:
    client = Client(enforce_csrf_checks=True, **FAR)
    assert (
        client.get("/runs", headers=PAGE).headers["Location"] == "/sign-in?next=/runs"
    )
    answer = _sign_in(client, next="/runs")
    assert answer.headers["Location"] == "/runs"
    cookie = client.cookies[settings.SESSION_COOKIE_NAME]
    assert (cookie["httponly"], cookie["samesite"]) == (True, "Lax")
    assert client.get(f"{REST}/projects/").status_code == 200
    assert client.get("/api/auth/refresh").json()["token_type"] == "Session"
    # What a page keeps from that must not stand in the cookie's way.
    stored = {"Authorization": "Session cookie"}
    assert client.get(f"{REST}/projects/", headers=stored).status_code == 200
    assert client.get("/sign-in", headers=PAGE).headers["Location"] == "/"
    form = client.get("/sign-out").content.decode()
    token = re.search(r'csrfmiddlewaretoken" value="(\w+)"', form)
    assert token
    assert client.post("/sign-out").status_code == 403
    client.post("/sign-out", {"csrfmiddlewaretoken": token[1]})
    assert client.get(f"{REST}/projects/").status_code == 401
    assert client.get("/api/auth/refresh").status_code == 401


@pytest.mark.parametrize(
    "place", ["https://evil.example/", "//evil.example", "javascript:x"]
)
def test_signing_in_leads_to_no_other_site(place: str, person: Any) -> None:
    assert _sign_in(Client(**FAR), next=place).headers["Location"] == "/"


def test_a_wrong_password_says_so_and_is_counted(person: Any) -> None:
    client = Client(**FAR)
    answers = [_sign_in(client, "wrong") for _ in range(11)]
    assert answers[0].status_code == 200
    assert b"is wrong" in answers[0].content
    assert answers[-1].status_code == 429
    assert _sign_in(client).status_code == 429
    # The admin's own form is behind the same limit.
    assert not client.login(username="ann", password="wrong")
    other = Client(REMOTE_ADDR="192.0.2.8")
    assert _sign_in(other).status_code == 302


def test_passwords_tried_at_once_are_not_all_looked_at(
    monkeypatch: pytest.MonkeyPatch, rf: Any
) -> None:
    begun: list[int] = []
    together: list[int] = []

    def hash_slowly(*_: Any, **__: Any) -> None:
        together.append(1)
        begun.append(len(together))
        time.sleep(0.01)
        together.pop()

    monkeypatch.setattr(ModelBackend, "authenticate", hash_slowly)
    request = rf.post("/sign-in", **FAR)

    def guess(_: int) -> None:
        with contextlib.suppress(PermissionDenied):
            PasswordBackend().authenticate(request, "ann", "wrong")

    with ThreadPoolExecutor(40) as pool:
        list(pool.map(guess, range(40)))
    assert len(begun) == 10
    assert max(begun) <= 2


def test_right_passwords_use_nothing_up(person: Any) -> None:
    for _ in range(15):
        assert _sign_in(Client(**FAR)).status_code == 302
    assert b"is wrong" in _sign_in(Client(**FAR), "wrong").content


def test_the_sign_in_page_needs_nothing_else(db: None) -> None:
    page = Client(**FAR).get("/sign-in", headers=PAGE)
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    text = page.content.decode()
    assert "src=" not in text
    assert "<link" not in text


def test_without_a_database_it_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise DatabaseError

    monkeypatch.setattr("django.contrib.sessions.backends.db.SessionStore.load", fail)
    client = Client(**FAR)
    client.cookies[settings.SESSION_COOKIE_NAME] = "x" * 32
    assert client.get(f"{REST}/projects/").status_code == 503
    assert client.get("/sign-in", headers=PAGE).status_code == 503
    assert client.get("/api/auth/refresh").status_code == 503
    assert client.get("/health/live").status_code == 200


def _post(client: Client, path: str, body: Any = None, **headers: str) -> int:
    answer = client.post(
        f"{REST}/{path}",
        json.dumps(body or {}),
        content_type="application/json",
        headers=headers,
    )
    return int(answer.status_code)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://testserver"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_changes_come_from_own_pages(
    headers: dict[str, str], status: int, person: Any, runtime: Any
) -> None:
    client = Client(**FAR)
    client.force_login(person)
    assert _post(client, "tags/", {"name": "t"}, **headers) == status


def test_what_destroys_is_for_administrators(
    person: Any, staff: Any, runtime: Any
) -> None:
    client = Client(**FAR)
    client.force_login(person)
    assert _post(client, "runs/delete-batch/", []) == 403
    assert client.delete(f"{REST}/runs/x").status_code == 403
    client.force_login(staff)
    assert client.delete(f"{REST}/runs/x").status_code == 404


def test_prometheus_on_this_machine_needs_no_token(db: None, settings: Any) -> None:
    near = Client(REMOTE_ADDR="127.0.0.1")
    for path in ("/metrics/", "/api/metrics/"):
        assert near.get(path).status_code == 200
        proxied = near.get(path, headers={"X-Forwarded-For": "192.0.2.9"})
        assert proxied.status_code == 401
        assert Client(**FAR).get(path).status_code == 401


def test_a_read_token_reads(make_token: Any, runtime: Any) -> None:
    headers = {"Authorization": f"Bearer {make_token('read')}"}
    client = Client(headers=headers, **FAR)
    assert client.get(f"{REST}/projects/").status_code == 200
    assert client.get("/api/metrics/").status_code == 200
    assert (
        _post(client, "runs/search/metric/align/", {"align_by": "x", "runs": []}) < 300
    )


def test_the_schema_tells_how_to_get_in(make_token: Any) -> None:
    headers = {"Authorization": f"Bearer {make_token('read')}"}
    text = Client(headers=headers, **FAR).get("/api/v1/schema/").content.decode()
    assert "scheme: bearer" in text
    assert "scheme: basic" in text


def test_open_access_asks_nobody(settings: Any, runtime: Any) -> None:
    settings.MATYAN_AUTH_REQUIRED = False
    client = Client(**FAR)
    assert client.get(f"{REST}/version/").status_code == 200
    wrong = {"Authorization": "Bearer wrong"}
    assert client.get(f"{REST}/version/", headers=wrong).status_code == 200
    assert client.get("/sign-in").headers["Location"] == "/"
    assert client.get("/api/auth/refresh").status_code == 401

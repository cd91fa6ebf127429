# ruff: noqa: S106 - passwords of people who do not exist
from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.test import Client

from backend.access.verifier import VERIFIER
from backend.domain.access import Scope
from backend.errors import AccessError
from backend.models import ApiToken

PAGE = "/admin/backend/apitoken/"
TOKEN = re.compile(r"mty_\w{12}_\w{40}")


@pytest.fixture
def root(django_user_model: Any) -> Any:
    return django_user_model.objects.create_superuser("root", password="x")


@pytest.fixture
def client(root: Any) -> Client:
    VERIFIER.clear()
    client = Client()
    client.force_login(root)
    return client


def _make(client: Client, **fields: str) -> Any:
    form = {"name": "ci", "scope": "read", "expires_at_0": "", "expires_at_1": ""}
    return client.post(f"{PAGE}add/", {**form, **fields})


def test_a_token_is_shown_once(client: Client, root: Any) -> None:
    page = _make(client)
    token = TOKEN.search(page.content.decode())
    assert token
    assert "no-store" in page.headers["Cache-Control"]
    assert VERIFIER.verify(token[0], address="").scope is Scope.READ
    row = ApiToken.objects.get()
    assert row.created_by == root
    secret = token[0].rsplit("_", 1)[1]
    for place in (PAGE, f"{PAGE}{row.pk}/change/", f"{PAGE}{row.pk}/history/"):
        shown = client.get(place)
        assert shown.status_code == 200
        assert secret not in shown.content.decode()
    assert secret not in str(dict(client.cookies)) + str(dict(client.session))
    entry = LogEntry.objects.get()
    assert (entry.user, entry.object_id) == (root, str(row.pk))
    assert secret not in entry.change_message + entry.object_repr


def test_a_token_cannot_end_before_it_begins(client: Client) -> None:
    page = _make(client, expires_at_0="2001-01-01", expires_at_1="00:00")
    assert "in the past" in page.content.decode()
    assert not ApiToken.objects.exists()


def test_revoking_is_asked_for_and_audited(client: Client) -> None:
    token = TOKEN.search(_make(client).content.decode())
    assert token
    row = ApiToken.objects.get()
    form = {"action": "revoke", "_selected_action": str(row.pk)}
    asked = client.post(PAGE, form)
    assert "shut out" in asked.content.decode()
    assert ApiToken.objects.get().revoked_at is None
    client.post(PAGE, {**form, "confirmed": "yes"})
    assert ApiToken.objects.get().state == "revoked"
    with pytest.raises(AccessError):
        VERIFIER.verify(token[0], address="")
    assert LogEntry.objects.latest("pk").change_message == "Revoked."


def test_tokens_are_neither_changed_nor_deleted(client: Client) -> None:
    _make(client)
    place = f"{PAGE}{ApiToken.objects.get().pk}"
    assert client.post(f"{place}/change/", {"name": "x"}).status_code == 403
    assert client.post(f"{place}/delete/", {"post": "yes"}).status_code == 403


def test_looking_is_not_making_nor_revoking(client: Client, root: Any) -> None:
    _make(client)
    row = ApiToken.objects.get()
    root.is_superuser = False
    root.save()
    root.user_permissions.add(Permission.objects.get(codename="view_apitoken"))
    assert client.get(PAGE).status_code == 200
    assert _make(client).status_code == 403
    client.post(
        PAGE,
        {"action": "revoke", "_selected_action": str(row.pk), "confirmed": "yes"},
    )
    assert ApiToken.objects.get().revoked_at is None

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import DatabaseError
from django.utils import timezone

from backend.access import tokens, verifier
from backend.access.attempts import AttemptLimiter
from backend.access.verifier import TokenVerifier
from backend.domain.access import Scope
from backend.errors import AccessError, AccessUnavailableError, TooManyAttemptsError
from backend.models import ApiToken
from tests.backend.access.conftest import MakeToken

HERE = "192.0.2.1"


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def verify(clock: Clock) -> TokenVerifier:
    limiter = AttemptLimiter(burst=3, per_minute=60, clock=clock)
    return TokenVerifier(limiter=limiter, ttl_s=10, capacity=2, clock=clock)


def test_a_token_can_stand_anywhere_in_an_address(make_token: MakeToken) -> None:
    assert re.fullmatch(r"mty_[A-Za-z0-9]{12}_[A-Za-z0-9]{40}", make_token())


def test_the_secret_is_not_in_the_table(make_token: MakeToken) -> None:
    secret = make_token().rsplit("_", 1)[1]
    row = ApiToken.objects.values().get()
    assert secret not in str(row)
    assert secret.encode() not in bytes(row["digest"])


@pytest.mark.parametrize("name", ["", " ", "x" * 101])
@pytest.mark.django_db
def test_a_token_needs_a_name(name: str) -> None:
    with pytest.raises(ValueError, match="1 to 100"):
        tokens.create_token(name=name, scope=Scope.READ)


@pytest.mark.parametrize(
    ("scope", "may"),
    [("read", {"read"}), ("write", {"read", "write"}), ("admin", set(Scope))],
)
def test_scopes_include_smaller_ones(
    scope: str, may: set[str], make_token: MakeToken, verify: TokenVerifier
) -> None:
    principal = verify.verify(make_token(scope), address=HERE)
    assert {needed for needed in Scope if principal.may(needed)} == may


def test_wrong_tokens_are_refused(make_token: MakeToken, verify: TokenVerifier) -> None:
    right = make_token()
    other_secret = right[:-1] + ("a" if right[-1] != "a" else "b")
    other_id = "mty_" + "z" * 12 + right[16:]
    for wrong in (
        "",
        "x",
        right + "a",
        right.lower(),
        other_secret,
        other_id,
        "é" * 57,
    ):
        verify.limiter.clear()
        with pytest.raises(AccessError, match="missing or wrong"):
            verify.verify(wrong, address=HERE)


def test_a_good_token_is_believed_for_a_while(
    make_token: MakeToken,
    verify: TokenVerifier,
    clock: Clock,
    django_assert_num_queries: Any,
) -> None:
    token = make_token()
    verify.verify(token, address=HERE)
    with django_assert_num_queries(0):
        verify.verify(token, address=HERE)
    ApiToken.objects.update(revoked_at=timezone.now())
    clock.now_s += 9
    verify.verify(token, address=HERE)
    clock.now_s += 2
    with pytest.raises(AccessError):
        verify.verify(token, address=HERE)


def test_a_token_ends_on_the_dot(make_token: MakeToken, verify: TokenVerifier) -> None:
    soon = timezone.now() + timedelta(seconds=0.2)
    token = make_token(expires_at=soon)
    verify.verify(token, address=HERE)
    while timezone.now() <= soon:
        pass
    assert verify.find_known(token) is None
    with pytest.raises(AccessError):
        verify.verify(token, address=HERE)


def test_memory_is_bounded(make_token: MakeToken, verify: TokenVerifier) -> None:
    first, *others = [make_token() for _ in range(3)]
    for token in (first, *others):
        verify.verify(token, address=HERE)
    assert verify.find_known(first) is None
    assert all(verify.find_known(token) for token in others)


def test_failures_are_limited_by_address(
    make_token: MakeToken, verify: TokenVerifier, clock: Clock
) -> None:
    known, new = make_token(), make_token()
    verify.verify(known, address=HERE)
    for _ in range(3):
        with pytest.raises(AccessError):
            verify.verify("wrong", address=HERE)
    with pytest.raises(TooManyAttemptsError):
        verify.verify(new, address=HERE)
    # Neighbours behind the same address that were let in before stay in.
    clock.now_s += 0.5
    verify._known[verifier._key(known)] = verifier._Known(
        verify.verify(known, address=HERE), None, -1e9
    )
    verify.verify(known, address=HERE)
    verify.verify(new, address="192.0.2.2")
    clock.now_s += 60
    verify.verify(new, address=HERE)


def test_an_unreadable_table_is_no_wrong_token(
    make_token: MakeToken, verify: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(text: str) -> None:
        raise DatabaseError

    monkeypatch.setattr(tokens, "find_token", fail)
    with pytest.raises(AccessUnavailableError):
        verify.verify(make_token(), address=HERE)


def test_use_is_noted_at_most_once_a_minute(
    make_token: MakeToken, verify: TokenVerifier, clock: Clock
) -> None:
    token = make_token()
    verify.verify(token, address=HERE)
    first = ApiToken.objects.get().last_used_at
    clock.now_s += 11
    verify.verify(token, address=HERE)
    assert first is not None
    assert ApiToken.objects.get().last_used_at == first
    ApiToken.objects.update(last_used_at=first - timedelta(minutes=2))
    clock.now_s += 11
    verify.verify(token, address=HERE)
    assert ApiToken.objects.get().last_used_at >= first


def test_addresses_are_forgotten_when_there_are_too_many(clock: Clock) -> None:
    limiter = AttemptLimiter(burst=1, per_minute=1, max_addresses=10, clock=clock)
    for number in range(11):
        limiter.count(f"192.0.2.{number}")
    assert not limiter.is_blocked("192.0.2.0")
    assert limiter.is_blocked("192.0.2.10")


def test_tokens_tried_at_once_are_not_all_looked_up(
    verify: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []

    def find_slowly(text: str) -> None:
        looked_up.append(text)
        time.sleep(0.01)

    monkeypatch.setattr(tokens, "find_token", find_slowly)

    def guess(number: int) -> None:
        with pytest.raises(AccessError):
            verify.verify(f"mty_{number}", address=HERE)

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(guess, range(20)))
    assert len(looked_up) == 3


def test_an_attempt_that_was_none_is_given_back(clock: Clock) -> None:
    limiter = AttemptLimiter(burst=2, per_minute=1, clock=clock)
    for _ in range(5):
        assert limiter.begin("192.0.2.1")
        limiter.give_back("192.0.2.1")
    assert limiter.begin("192.0.2.1")
    assert limiter.begin("192.0.2.1")
    assert not limiter.begin("192.0.2.1")
    clock.now_s += 60
    assert limiter.begin("192.0.2.1")


def test_one_subscriber_has_one_bucket(clock: Clock) -> None:
    limiter = AttemptLimiter(burst=1, per_minute=1, clock=clock)
    limiter.count("2001:db8::1")
    assert limiter.is_blocked("2001:db8::ffff")
    assert not limiter.is_blocked("2001:db8:0:1::1")


def _command(*arguments: str) -> str:
    out = StringIO()
    call_command("tokens", *arguments, stdout=out, stderr=StringIO())
    return out.getvalue().strip()


@pytest.mark.django_db
def test_the_command_makes_lists_and_revokes(verify: TokenVerifier) -> None:
    made = json.loads(
        _command("create", "ci", "--scope=read", "--expires=90d", "--json")
    )
    assert (made["name"], made["scope"], made["state"]) == ("ci", "read", "usable")
    assert verify.verify(made["token"], address=HERE).scope is Scope.READ
    plain = _command("create", "another")
    listed = json.loads(_command("list", "--json"))["tokens"]
    assert [row["name"] for row in listed] == ["another", "ci"]
    shown = _command("list") + json.dumps(listed)
    assert plain.rsplit("_", 1)[1] not in shown
    assert json.loads(_command("revoke", made["id"], "--json"))["state"] == "revoked"
    assert "10 s" in _command("revoke", made["id"])


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("create", "x", "--expires=yesterday"), "'yesterday' is neither an age"),
        (("create", "x", "--expires=2001-01-01"), "is in the past"),
        (("create", "x", "--scope=all"), "invalid choice"),
        (("create", ""), "1 to 100"),
        (("revoke", "nobody"), "there is no token"),
    ],
)
@pytest.mark.django_db
def test_what_the_command_refuses(arguments: tuple[str, ...], problem: str) -> None:
    with pytest.raises(CommandError, match=problem):
        _command(*arguments)


@pytest.mark.django_db
def test_a_date_is_a_moment_too() -> None:
    made = json.loads(_command("create", "x", "--expires=2999-12-31", "--json"))
    assert made["expires_at"] == "2999-12-31T00:00:00+00:00"

"""Access restricted, with tokens in a table of each test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from backend.access import tokens
from backend.access.people import SIGN_IN_LIMITER
from backend.access.verifier import VERIFIER
from backend.domain.access import Scope

MakeToken = Callable[..., str]


@pytest.fixture(autouse=True)
def _restricted(settings: Any) -> Iterator[None]:
    settings.MATYAN_AUTH_REQUIRED = True
    VERIFIER.clear()
    SIGN_IN_LIMITER.clear()
    yield
    VERIFIER.clear()
    SIGN_IN_LIMITER.clear()


@pytest.fixture
def make_token(db: None) -> MakeToken:
    """Make a token and return its text."""

    def make(scope: str = "write", **options: Any) -> str:
        return tokens.create_token(
            name=f"a {scope} token", scope=Scope(scope), **options
        )[1]

    return make


@pytest.fixture
def read_token(make_token: MakeToken) -> str:
    """A token that may only look."""
    return make_token("read")


@pytest.fixture
def write_token(make_token: MakeToken) -> str:
    """A token that may log runs."""
    return make_token("write")

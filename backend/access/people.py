"""People: signing in with a password, and what a signed-in person may do.

Design note: docs/subsystems/access.md#people
"""

from __future__ import annotations

import logging
import threading
from typing import Any, Final, NoReturn

from asgiref.sync import sync_to_async
from django.contrib.auth.backends import ModelBackend
from django.core.exceptions import PermissionDenied
from django.db import Error as DatabaseError
from django.http import HttpRequest
from typing_extensions import override

from backend.access.attempts import AttemptLimiter
from backend.domain.access import Principal, Scope

logger = logging.getLogger(__name__)

SIGN_IN_LIMITER: Final = AttemptLimiter(burst=10, per_minute=4)

HASHES_AT_ONCE: Final = 2
"""Passwords hashed at once: each keeps a core busy for a good part of a second."""

WAIT_S: Final = 20.0
"""How long a password waits for its turn."""

_hashing: Final = threading.BoundedSemaphore(HASHES_AT_ONCE)


def principal_of(user: Any) -> Principal:
    """Return the principal of an authenticated user; staff are administrators."""
    scope = Scope.ADMIN if user.is_staff or user.is_superuser else Scope.WRITE
    return Principal("person", user.get_username(), scope)


class PasswordBackend(ModelBackend):
    """Passwords, a few wrong ones a minute and address; every login form uses it."""

    @override
    def authenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the user, None if name or password is wrong.

        Raises:
            PermissionDenied: If the address has failed too often lately, or too many
                passwords wait; `was_refused` tells that from a wrong password.
        """
        address = request.META.get("REMOTE_ADDR", "") if request else ""
        # Looked at before the queue too, so that nobody who is refused stands in it.
        if address and SIGN_IN_LIMITER.is_blocked(address):
            _refuse(request)
        if not _hashing.acquire(timeout=WAIT_S):
            _refuse(request)
        try:
            return self._check(request, username, password, address, **kwargs)
        finally:
            _hashing.release()

    def _check(
        self,
        request: HttpRequest | None,
        username: str | None,
        password: str | None,
        address: str,
        **kwargs: Any,
    ) -> Any:
        # Counted before the password is: those that come at once are not all looked at.
        if address and not SIGN_IN_LIMITER.begin(address):
            _refuse(request)
        try:
            user = super().authenticate(request, username, password, **kwargs)
        except DatabaseError:
            SIGN_IN_LIMITER.give_back(address)
            raise
        if user is not None:
            SIGN_IN_LIMITER.give_back(address)
        elif address:
            logger.warning("access.sign_in_failed", extra={"address": address})
        return user

    @override
    async def aauthenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Do the same without blocking."""
        return await sync_to_async(self.authenticate)(
            request, username, password, **kwargs
        )


def was_refused(request: HttpRequest) -> bool:
    """Return whether the request's password was not even looked at."""
    return getattr(request, "matyan_sign_in_refused", False)


def _refuse(request: HttpRequest | None) -> NoReturn:
    if request is not None:
        request.matyan_sign_in_refused = True  # type: ignore[attr-defined]  # ours alone
    raise PermissionDenied

"""People: signing in with a password, and what a signed-in person may do.

Design note: docs/subsystems/access.md#people
"""

from __future__ import annotations

import logging
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.contrib.auth.backends import ModelBackend
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from typing_extensions import override

from backend.access.attempts import AttemptLimiter
from backend.domain.access import Principal, Scope

logger = logging.getLogger(__name__)

SIGN_IN_LIMITER: Final = AttemptLimiter(burst=10, per_minute=4)


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
            PermissionDenied: If the address has failed too often lately.
        """
        address = request.META.get("REMOTE_ADDR", "") if request else ""
        if address and SIGN_IN_LIMITER.is_blocked(address):
            raise PermissionDenied
        user = super().authenticate(request, username, password, **kwargs)
        if user is None and address:
            SIGN_IN_LIMITER.count(address)
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

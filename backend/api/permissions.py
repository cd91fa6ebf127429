"""What DRF asks about access. The answers are `backend.api.access`'s.

Design note: docs/subsystems/access.md
"""

from __future__ import annotations

from typing import Any

from rest_framework import authentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from typing_extensions import override

from backend.api import access
from backend.domain.access import Principal


class TokenUser:
    """What stands in `request.user` for a token: no person, but not anonymous."""

    is_authenticated = True
    is_anonymous = False
    is_active = True
    is_staff = False
    is_superuser = False
    pk = None

    def __init__(self, principal: Principal) -> None:
        self.principal = principal

    def get_username(self) -> str:
        """Return the token's name."""
        return self.principal.name

    @override
    def __str__(self) -> str:
        return self.principal.name


class TokenAuthentication(authentication.BaseAuthentication):
    """A token in `Authorization`, as Bearer or as half of Basic credentials."""

    @override
    def authenticate(self, request: Request) -> tuple[Any, Any] | None:
        """Return the token's user, None if no token counts here.

        Raises:
            AccessError: If a token is presented and wrong.
        """
        principal = access.principal_of(request._request)  # noqa: SLF001 - DRF's way
        return (TokenUser(principal), None) if principal.kind == "token" else None

    @override
    def authenticate_header(self, request: Request) -> str:
        """Return what a 401 asks for; not Basic, at which browsers open a dialog."""
        return access.CHALLENGE


class SessionAuthentication(authentication.SessionAuthentication):
    """The session of a signed-in person, guarded by the origin instead of a token."""

    @override
    def enforce_csrf(self, request: Any) -> None:
        """Do nothing: `ScopeAccess` looks at the origin, whoever asks."""


class ScopeAccess(BasePermission):
    """The route's scope, as `backend.api.access_rules` tells it."""

    @override
    def has_permission(self, request: Request, view: Any) -> bool:
        """Return True.

        Raises:
            AccessError: If the request may not go on.
        """
        access.check(request._request, method=request.method or "")  # noqa: SLF001 - the request middleware saw
        return True

"""Who may call the API: the seam where authentication will be decided.

Views are exempt from Django's CSRF tokens, because the web UI sends none. In their
place every request that changes something and comes from a browser page (it carries
`Origin`) must come from this server's own page or from one in
`settings.CORS_ORIGINS`.

Design note: docs/subsystems/api.md#access
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from rest_framework import authentication, exceptions
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request
from typing_extensions import override


def is_trusted_origin(request: Request) -> bool:
    """Return whether the page a request comes from may change anything here.

    Only the host is compared for the own origin: behind a proxy that ends TLS the
    schemes differ. Requests without `Origin` come from no browser page of another
    site and are trusted.
    """
    origin = request.headers.get("Origin")
    if origin is None or origin in settings.CORS_ORIGINS:
        return True
    return bool(urlsplit(origin).netloc) and (
        urlsplit(origin).netloc.lower() == request.get_host().lower()
    )


class SessionAuthentication(authentication.SessionAuthentication):
    """The admin's session, guarded by the origin instead of a token."""

    @override
    def enforce_csrf(self, request: Any) -> None:
        """Refuse a change from a page of another site.

        Raises:
            PermissionDenied: If the origin is foreign.
        """
        if request.method not in SAFE_METHODS and not is_trusted_origin(request):
            raise exceptions.PermissionDenied(OpenAccess.message)


class OpenAccess(BasePermission):
    """Everybody may do everything, except pages of foreign origins."""

    message = "This origin may not change anything here"

    @override
    def has_permission(self, request: Request, view: Any) -> bool:
        """Return whether `request` may go on."""
        return request.method in SAFE_METHODS or is_trusted_origin(request)

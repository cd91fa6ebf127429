"""Lets requests in: who asks, whether the route is theirs, from which page.

`AccessMiddleware` stands before every view of every role, so that a view nobody
thought of is closed too. DRF's permission class asks the same question again.

Order of credentials: a token (when one is presented it decides, right or wrong), then
the session of a signed-in person. Cookies travel with any page's requests, so changes
that carry a foreign `Origin` are refused; that replaces CSRF tokens, which the web UI
does not send.

Design note: docs/subsystems/access.md
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast
from urllib.parse import quote, urlsplit

from django.conf import settings
from django.db import Error as AnyDatabaseError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse

from backend.access import people
from backend.access.addresses import is_loopback
from backend.access.credentials import token_in
from backend.access.tokens import PREFIX
from backend.access.verifier import VERIFIER
from backend.api import access_rules
from backend.api.access_rules import SAFE_METHODS
from backend.api.handlers import error_body
from backend.api.middleware import Middleware
from backend.domain.access import ANYBODY, NOBODY, Principal
from backend.errors import AccessError, AccessUnavailableError, ForbiddenError

CHALLENGE: Final = 'Bearer realm="matyan"'
FOREIGN_ORIGIN: Final = "This origin may not change anything here"
_RETRY_AFTER_S: Final = {429: 60, 503: 1}
_FORWARDED: Final = ("X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "Via")
_FOREIGN_SITES: Final = frozenset({"cross-site", "same-site"})


class AccessMiddleware(Middleware):
    """Refuses what may not reach its view; comes after the session's middleware."""

    def process_view(
        self,
        request: HttpRequest,
        view: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> HttpResponse | None:
        """Return None to go on, or the refusal."""
        try:
            check(request, method=request.method or "")
        except AccessError as error:
            return _sign_in_page(request, error) or refusal(error)
        return None


def check(request: HttpRequest, *, method: str) -> None:
    """Return if `request` may do `method` on its route.

    Raises:
        AccessError: If credentials are missing, wrong or not enough, if they cannot be
            checked, or if the page it comes from is another site's.
    """
    route = request.resolver_match.route if request.resolver_match else ""
    if route in access_rules.PUBLIC:
        return
    if method not in SAFE_METHODS and not is_trusted_origin(request):
        raise ForbiddenError(reason=FOREIGN_ORIGIN)
    principal = principal_of(request)
    needed = access_rules.needed_scope(method, route)
    if principal.may(needed) or (route in access_rules.LOCAL and is_local(request)):
        return
    if principal == NOBODY:
        raise AccessError
    raise ForbiddenError(needed=needed.value)


def principal_of(request: HttpRequest) -> Principal:
    """Return who asks; `NOBODY` when no credentials are presented.

    Raises:
        AccessError: If credentials are presented and wrong, or cannot be checked.
    """
    found = getattr(request, "matyan_principal", None)
    if found is None:
        found = _authenticate(request)
        request.matyan_principal = found  # type: ignore[attr-defined]  # ours alone
    return cast("Principal", found)


def _authenticate(request: HttpRequest) -> Principal:
    if not settings.MATYAN_AUTH_REQUIRED:
        return ANYBODY
    token = token_in(request.headers.get("Authorization"))
    if token is not None:
        return VERIFIER.verify(token, address=request.META.get("REMOTE_ADDR", ""))
    return people.principal_of(request.user) if is_signed_in(request) else NOBODY


def is_signed_in(request: HttpRequest) -> bool:
    """Return whether the request carries a person's session.

    Raises:
        AccessUnavailableError: If the database cannot be asked.
    """
    try:
        return request.user.is_authenticated
    except AnyDatabaseError as error:
        raise AccessUnavailableError from error


def is_trusted_origin(request: HttpRequest) -> bool:
    """Return whether the page a request comes from may change anything here.

    Only the host is compared for the own origin: behind a proxy that ends TLS the
    schemes differ. Requests that name no page come from programs.
    """
    origin = request.headers.get("Origin")
    if origin is None:
        return request.headers.get("Sec-Fetch-Site") not in _FOREIGN_SITES
    if origin in settings.CORS_ORIGINS:
        return True
    host = urlsplit(origin).netloc.lower()
    return bool(host) and host == request.get_host().lower()


def is_local(request: HttpRequest) -> bool:
    """Return whether a program on this machine asks by itself, not through a proxy."""
    address = request.META.get("REMOTE_ADDR", "")
    forwarded = any(name in request.headers for name in _FORWARDED)
    return not forwarded and is_loopback(address)


def refusal(error: AccessError) -> JsonResponse:
    """Return the answer that tells `error`, in the shape of every error."""
    message = str(error.fields.get("reason", "")) or error.message
    body = error_body(error.code, message, detail=str(error), fields=error.fields)
    response = JsonResponse(body, status=error.http_status)
    if error.http_status == 401:
        response.headers["WWW-Authenticate"] = CHALLENGE
    if seconds := _RETRY_AFTER_S.get(error.http_status):
        response.headers["Retry-After"] = str(seconds)
    return response


def _sign_in_page(request: HttpRequest, error: AccessError) -> HttpResponse | None:
    """Return where a browser's address bar goes instead of to the refusal."""
    is_page = (
        settings.MATYAN_ROLE != "frontier"
        and request.method in {"GET", "HEAD"}
        and "text/html" in request.headers.get("Accept", "")
    )
    # A path with a token that leads to no API must not live on in another address.
    holds_token = PREFIX in request.get_full_path()
    if error.http_status != 401 or not is_page or holds_token:
        return None
    base_path = request.META.get("SCRIPT_NAME", "").rstrip("/")
    place = quote(request.get_full_path(), safe="/")
    return HttpResponseRedirect(f"{base_path}/sign-in?next={place}")

"""The pages where people sign in and out, and what pages ask about a session.

Design note: docs/subsystems/access.md#people
"""

from __future__ import annotations

from typing import Any, Final

from django.conf import settings
from django.contrib.auth import logout
from django.contrib.auth.views import LoginView
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.utils.cache import add_never_cache_headers
from django.views.decorators.http import require_http_methods, require_safe
from typing_extensions import override

from backend.access.people import was_refused
from backend.api import handlers
from backend.api.access import is_signed_in, refusal
from backend.errors import AccessUnavailableError

POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
_WAIT: Final = "Too many wrong passwords came from your address. Wait a minute."
_UNAVAILABLE: Final = "Names and passwords cannot be checked now. Try again."


class SignInView(LoginView):
    """Asks for name and password; leads on to where the person wanted to go."""

    template_name = "access/sign_in.html"
    redirect_authenticated_user = True

    @override
    def dispatch(
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> HttpResponseBase:
        if not settings.MATYAN_AUTH_REQUIRED:
            return HttpResponseRedirect(self.get_default_redirect_url())
        try:
            is_signed_in(request)
        except AccessUnavailableError:
            return self._problem(_UNAVAILABLE, status=503)
        response = super().dispatch(request, *args, **kwargs)
        response.headers["Content-Security-Policy"] = POLICY
        return response

    @override
    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        response = super().post(request, *args, **kwargs)
        if was_refused(request):
            return self._problem(_WAIT, status=429)
        return response

    @override
    def get_default_redirect_url(self) -> str:
        return _base_path(self.request) + "/"

    def _problem(self, text: str, *, status: int) -> HttpResponse:
        response = render(
            self.request, self.template_name, {"problem": text}, status=status
        )
        response.headers["Content-Security-Policy"] = POLICY
        return response


@require_http_methods(["GET", "HEAD", "POST"])
def sign_out(request: HttpRequest) -> HttpResponseBase:
    """End the session, when asked by POST; otherwise show the button that does."""
    if request.method == "POST":
        logout(request)
        return HttpResponseRedirect(f"{_base_path(request)}/sign-in")
    response = render(request, "access/sign_out.html")
    response.headers["Content-Security-Policy"] = POLICY
    add_never_cache_headers(response)
    return response


@require_safe
def refresh(request: HttpRequest) -> JsonResponse:
    """Answer a page whose request was refused, and which asks for new credentials.

    Somebody signed in gets words that send the page on with its cookie; 401 sends it
    to `/sign-in`.
    """
    try:
        signed_in = settings.MATYAN_AUTH_REQUIRED and is_signed_in(request)
    except AccessUnavailableError as error:
        return refusal(error)
    body: dict[str, Any] = {"access_token": "cookie", "token_type": "Session"}
    if not signed_in:
        body = handlers.error_body("unauthorized", "Nobody is signed in")
    response = JsonResponse(
        body | {"refresh_token": ""}, status=200 if signed_in else 401
    )
    add_never_cache_headers(response)
    return response


def _base_path(request: HttpRequest) -> str:
    return str(request.META.get("SCRIPT_NAME", "")).rstrip("/")

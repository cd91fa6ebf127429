"""One shape for every error, wherever it is raised.

    {"message": text, "detail": text, "error": {"code": text, "message": text}}

`message` is what the web UI shows. `error.fields` names what is wrong, where there is
something to name. A query's syntax error alone has an object in `detail`.

Views catch nothing: `exception_handler` is DRF's hook, the `handler*` functions are
Django's, for what fails outside a view. All of them answer JSON.

Design note: docs/subsystems/api.md#errors
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, Final

from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.core.signals import got_request_exception
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.views.csrf import csrf_failure as django_csrf_failure
from django.views.decorators.csrf import csrf_exempt
from rest_framework import exceptions
from rest_framework.response import Response

from backend.errors import InvalidInputError, MatyanError, QuerySyntaxError

logger = logging.getLogger(__name__)

_CODES: Final = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    408: "request_timeout",
    409: "conflict",
    413: "payload_too_large",
    415: "unsupported_media_type",
    422: "validation_error",
    429: "too_many_requests",
    500: "internal_error",
    503: "unavailable",
}
_MESSAGES: Final = {404: "Not Found", 405: "Method Not Allowed"}


class PayloadTooLargeError(exceptions.APIException):
    """The request's body is over `settings.DATA_UPLOAD_MAX_MEMORY_SIZE`."""

    status_code = 413
    default_detail = "The request's body is too large"
    default_code = "payload_too_large"


def error_body(
    code: str,
    message: str,
    *,
    detail: Any = None,
    fields: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the body of an error response; `detail` defaults to `message`."""
    error: dict[str, Any] = {"code": code, "message": message}
    if fields:
        error["fields"] = fields
    return {
        "message": message,
        "detail": message if detail is None else detail,
        "error": error,
    }


def exception_handler(error: Exception, context: dict[str, Any]) -> Response:
    """Return the response for anything a view raised; DRF's hook."""
    if isinstance(error, MatyanError):
        return _matyan_response(error, context)
    if isinstance(error, Http404):
        error = exceptions.NotFound()
    elif isinstance(error, PermissionDenied):
        error = exceptions.PermissionDenied()
    elif isinstance(error, RequestDataTooBig):
        error = PayloadTooLargeError()
    if isinstance(error, exceptions.APIException):
        return _api_response(error)
    return _crash_response(error, context)


def _matyan_response(error: MatyanError, context: dict[str, Any]) -> Response:
    if isinstance(error, QuerySyntaxError):
        return Response(_syntax_body(error), status=400)
    if error.http_status >= 500:
        logger.error("api.refused", extra=_place(context), exc_info=error)
    body = error_body(
        error.code, _message(error), detail=str(error), fields=_plain(error.fields)
    )
    return Response(body, status=error.http_status)


def _message(error: MatyanError) -> str:
    """Return what a person should read first: of bad input, what is wrong with it."""
    reason = error.fields.get("reason")
    if not isinstance(error, InvalidInputError) or not reason:
        return error.message
    field = error.fields.get("field")
    return f"{field}: {reason}" if field else str(reason)


def _syntax_body(error: QuerySyntaxError) -> dict[str, Any]:
    offset = int(error.fields.get("offset") or 1)
    body = error_body(
        error.code,
        str(error.fields.get("reason") or error.message),
        detail={
            "statement": str(error.fields.get("statement", "")),
            "line": int(error.fields.get("line") or 1),
            "offset": offset,
            "end_offset": offset,
        },
    )
    body["message"] = "SyntaxError"  # the UI compares it with exactly this word
    return body


def _api_response(error: exceptions.APIException) -> Response:
    status, fields = error.status_code, None
    if isinstance(error, exceptions.ValidationError):
        status, fields = 422, {"errors": error.detail}
        message = "; ".join(_messages(error.detail)) or "Invalid input"
    else:
        message = _MESSAGES.get(status) or str(error.detail)
    code = _CODES.get(status, "error")
    headers = {}
    if wait := getattr(error, "wait", None):
        headers["Retry-After"] = str(int(wait))
    if challenge := getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = challenge
    return Response(
        error_body(code, message, fields=fields), status=status, headers=headers
    )


def _messages(detail: Any, path: str = "") -> Iterator[str]:
    """Yield each validation message with the path of what it is about."""
    if isinstance(detail, dict):
        for key, child in detail.items():
            step = "" if key == "non_field_errors" else str(key)
            yield from _messages(child, ".".join(filter(None, [path, step])))
    elif isinstance(detail, list):
        for index, child in enumerate(detail):
            at = path if isinstance(child, str) else f"{path}[{index}]"
            yield from _messages(child, at)
    else:
        yield f"{path}: {detail}" if path else str(detail)


def _crash_response(error: Exception, context: dict[str, Any]) -> Response:
    logger.error("api.crashed", extra=_place(context), exc_info=error)
    request = context.get("request")
    got_request_exception.send(sender=None, request=getattr(request, "_request", None))
    return Response(error_body("internal_error", "Internal error"), status=500)


def _place(context: dict[str, Any]) -> dict[str, Any]:
    request = context.get("request")
    meta = getattr(request, "META", {})
    return {
        "path": getattr(request, "path", ""),
        "method": getattr(request, "method", ""),
        "request_id": meta.get("MATYAN_REQUEST_ID", ""),
    }


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    scalars = (str, int, float, bool, type(None))
    return {
        name: value if isinstance(value, scalars) else str(value)
        for name, value in fields.items()
    }


def _json_error(status: int, message: str) -> JsonResponse:
    return JsonResponse(error_body(_CODES[status], message), status=status)


# Exempt as it stands behind a route, where Django asks for a CSRF token first.
@csrf_exempt
def not_found(request: HttpRequest, exception: Exception | None = None) -> JsonResponse:
    """Answer an address that is no route; also the API's own catch-all."""
    return _json_error(404, "Not Found")


def payload_too_large() -> JsonResponse:
    """Answer a request whose body is over its limit."""
    return _json_error(413, "The request's body is too large")


def request_timeout() -> JsonResponse:
    """Answer a request whose body comes too slowly."""
    return _json_error(408, "The request's body came too slowly")


def bad_request(
    request: HttpRequest | None, exception: Exception | None = None
) -> JsonResponse:
    """Answer a request Django itself refused, such as one with a forged Host."""
    if isinstance(exception, RequestDataTooBig):
        return payload_too_large()
    return _json_error(400, "Bad request")


def permission_denied(
    request: HttpRequest, exception: Exception | None = None
) -> JsonResponse:
    """Answer what middleware refused."""
    return _json_error(403, "Forbidden")


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Answer a form without its token: people see Django's page, programs JSON."""
    if request.path_info.startswith("/api/"):
        return _json_error(403, f"Forbidden: {reason}" if reason else "Forbidden")
    return django_csrf_failure(request, reason=reason)


def server_error(request: HttpRequest) -> JsonResponse:
    """Answer when something outside a view failed; Django has logged it."""
    return _json_error(500, "Internal error")

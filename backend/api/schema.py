"""What drf-spectacular cannot see by itself.

Importing this module registers the extensions; `backend.apps` does so at start.
"""

from __future__ import annotations

from typing import Any, Final

from django.conf import settings
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse
from typing_extensions import override

from backend.api.serializers.base import ErrorSerializer

_STREAM: Final = OpenApiResponse(
    OpenApiTypes.BINARY,
    description="A tree stream: `application/octet-stream`, see `matyan_wire`.",
)
STREAMED: Final = {(200, "application/octet-stream"): _STREAM}
"""Without the type it would be described as JSON."""

NOT_FOUND: Final = OpenApiResponse(ErrorSerializer, description="No such thing.")
BAD_REQUEST: Final = OpenApiResponse(
    ErrorSerializer, description="Syntax errors have an object in `detail`."
)
INVALID: Final = OpenApiResponse(ErrorSerializer, description="Invalid input.")
REFUSED: Final = {400: BAD_REQUEST, 422: INVALID}
"""What every operation answers that takes parameters, and a body besides."""

CONFLICT: Final = OpenApiResponse(ErrorSerializer, description="The name is taken.")

TIMEZONE: Final = OpenApiParameter(
    "X-Timezone-Offset",
    int,
    OpenApiParameter.HEADER,
    description="Minutes, positive west of UTC, as JavaScript counts them.",
)


def path_param(name: str, description: str) -> OpenApiParameter:
    """Return the declaration of a text parameter in the path."""
    return OpenApiParameter(name, str, OpenApiParameter.PATH, description=description)


RUN_ID: Final = path_param("run_id", "The run's hash.")


class SessionAuthenticationExtension(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # untyped metaclass
    """The session of somebody signed in at `/sign-in`."""

    target_class = "backend.api.permissions.SessionAuthentication"
    name = "session"

    @override
    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        """Return the OpenAPI description."""
        return {"type": "apiKey", "in": "cookie", "name": settings.SESSION_COOKIE_NAME}


class TokenAuthenticationExtension(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # untyped metaclass
    """API tokens, as Bearer or as half of Basic credentials."""

    target_class = "backend.api.permissions.TokenAuthentication"
    name = ["token", "tokenAsBasic"]  # noqa: RUF012 - the base class's declaration

    @override
    def get_security_definition(self, auto_schema: Any) -> list[dict[str, str]]:
        """Return the OpenAPI descriptions."""
        return [
            {
                "type": "http",
                "scheme": "bearer",
                "description": "A token: `mty_…`, made by `manage.py tokens create`.",
            },
            {
                "type": "http",
                "scheme": "basic",
                "description": "The token as user name or as password.",
            },
        ]

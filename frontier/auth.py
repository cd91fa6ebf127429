"""Who is connecting, and whether they may log runs.

Tokens only: a session's cookie would come along with connections that other sites'
pages open. A connection whose page is of a foreign origin is refused for the same
reason, also while access is open.

A token verified lately costs nothing; otherwise one thread asks the database, so that
thousands of clients that return at once ask it once.

Design note: docs/subsystems/access.md#gateway
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from urllib.parse import urlsplit

from channels.db import database_sync_to_async
from django.conf import settings

from backend.access.credentials import token_in
from backend.access.verifier import BELIEVED_S, VERIFIER
from backend.domain.access import ANYBODY, Principal, Scope
from backend.errors import AccessError, AccessUnavailableError, ForbiddenError

_DATABASE: Final = ThreadPoolExecutor(1, thread_name_prefix="matyan-access")


async def authenticate(scope: dict[str, Any]) -> Principal:
    """Return who opens the connection.

    Raises:
        AccessError: If credentials are missing or wrong.
        ForbiddenError: If they are not enough, or a foreign page connects.
        TooManyAttemptsError, AccessUnavailableError: If trying again may help.
    """
    _require_own_page(scope)
    if not settings.MATYAN_AUTH_REQUIRED:
        return ANYBODY
    text = token_in(_header(scope, b"authorization"))
    if text is None:
        raise AccessError
    address = (scope.get("client") or ("",))[0]
    principal = VERIFIER.find_known(text) or await _verify(text, address=address)
    if not principal.may(Scope.WRITE):
        raise ForbiddenError(needed=Scope.WRITE.value)
    return principal


class Admitted:
    """One open connection's credentials, looked at again while it sends.

    Args:
        scope: The connection's ASGI scope.
    """

    def __init__(self, scope: dict[str, Any]) -> None:
        self._scope = scope
        self._checked_s = time.monotonic()

    async def still(self) -> bool:
        """Return whether they are still good.

        Asks at most every `BELIEVED_S`. A database that cannot be asked changes
        nothing for a connection that was let in.
        """
        now_s = time.monotonic()
        if not settings.MATYAN_AUTH_REQUIRED or now_s - self._checked_s < BELIEVED_S:
            return True
        self._checked_s = now_s
        try:
            await authenticate(self._scope)
        except AccessUnavailableError:
            return True
        except AccessError:
            return False
        return True


_verify = database_sync_to_async(
    VERIFIER.verify, thread_sensitive=False, executor=_DATABASE
)


def _require_own_page(scope: dict[str, Any]) -> None:
    origin = _header(scope, b"origin")
    if origin is None or origin in settings.CORS_ORIGINS:
        return
    host = urlsplit(origin).netloc.lower()
    own = (_header(scope, b"host") or "").lower()
    # As everywhere, the scheme may differ: behind a proxy that ends TLS it does.
    if not host or host != own:
        raise ForbiddenError(reason="pages of this origin may not connect")


def _header(scope: dict[str, Any], name: bytes) -> str | None:
    headers: Iterable[tuple[bytes, bytes]] = scope.get("headers") or ()
    found = (value for key, value in headers if key.lower() == name)
    value = next(found, None)
    return None if value is None else value.decode("latin-1")

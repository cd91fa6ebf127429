"""The gateway's HTTP routes for blobs: allowing uploads, and receiving them.

As WebSocket paths, these may have repeated slashes (a base URL ending in one) and any
prefix (a base URL with a path, behind a proxy that does not remove it).

Design note: docs/subsystems/blobs.md#uploads
"""

from __future__ import annotations

import logging
import re
from typing import Final

from backend.errors import BlobStoreError, MatyanError
from frontier import metrics
from frontier.admission import Application, Receive, Scope, Send
from frontier.auth import authenticate
from frontier.http import (
    DisconnectedError,
    HttpError,
    read_json,
    send_error,
    send_json,
)
from frontier.presign import ROUTES, Request
from frontier.public_url import public_url
from frontier.uploads import take_upload

logger = logging.getLogger(__name__)

_SLASHES: Final = re.compile(r"/{2,}")
_PRESIGN_PATH: Final = re.compile(
    r"(?P<prefix>.*)/api/v1/rest/artifacts/(?P<route>presign|multipart/[a-z]+)/?\Z",
    re.DOTALL,
)
_UPLOAD_PATH: Final = re.compile(
    r".*/api/v1/blobs/upload/(?P<token>[A-Za-z0-9_\-]+)/?\Z", re.DOTALL
)


class BlobRoutes:
    """ASGI middleware: answers the routes above, hands on everything else."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        path = _SLASHES.sub("/", scope["path"])
        if match := _PRESIGN_PATH.match(path):
            answer = _presign(scope, receive, send, match)
        elif match := _UPLOAD_PATH.match(path):
            answer = _upload(scope, receive, send, token=match["token"])
        else:
            await self._application(scope, receive, send)
            return
        try:
            await answer
        except HttpError as error:
            await send_error(send, error)
        except Exception:
            # Both send once they have finished: nothing has been answered yet.
            logger.exception("blobs.crashed")
            await send_error(send, HttpError(500, "internal_error", "Internal error"))


async def _presign(
    scope: Scope, receive: Receive, send: Send, match: re.Match[str]
) -> None:
    route = ROUTES.get(match["route"])
    if route is None:
        raise HttpError(404, "not_found", "Not Found")
    _check_method(scope, "POST")
    try:
        await authenticate(scope)
        base_url = public_url(scope, prefix=match["prefix"])
        answer = await route(Request(await read_json(receive), base_url))
    except DisconnectedError:
        return
    except MatyanError as error:
        raise _told(error) from error
    await send_json(send, 200, answer, headers={"cache-control": "no-store"})


async def _upload(scope: Scope, receive: Receive, send: Send, *, token: str) -> None:
    _check_method(scope, "PUT")
    try:
        await take_upload(scope, receive, send, token=token)
    except DisconnectedError:
        metrics.UPLOADS_FAILED.labels("disconnected").inc()
    except MatyanError as error:
        metrics.UPLOADS_FAILED.labels(error.code).inc()
        raise _told(error) from error
    except HttpError as error:
        metrics.UPLOADS_FAILED.labels(error.code).inc()
        raise


def _check_method(scope: Scope, method: str) -> None:
    if scope["method"] != method:
        raise HttpError(405, "method_not_allowed", "Method Not Allowed")


def _told(error: MatyanError) -> HttpError:
    if isinstance(error, BlobStoreError) and error.http_status >= 500:
        logger.warning("blobs.store_failing", extra={"reason": str(error)})
    return HttpError.of(error)

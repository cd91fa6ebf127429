"""Plain ASGI for the gateway's few HTTP routes of its own.

They stand before Django, which would put a whole upload aside before a view sees it,
and hand requests to threads in no certain order.

Errors have the shape of the REST API's:
`{"message": text, "detail": text or list, "error": {"code", "message"}}`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any, Final

from backend.errors import InvalidInputError, MatyanError
from frontier.admission import Receive, Scope, Send


class HttpError(Exception):
    """A request is answered with an error.

    Attributes:
        status: The HTTP status.
        code: Machine name.
        message: For people.
        detail: More, `message` if there is none.
        retry_after_s: When to try again, None to say nothing of it.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        detail: Any = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.detail = message if detail is None else detail
        self.retry_after_s = retry_after_s

    @classmethod
    def of(cls, error: MatyanError) -> HttpError:
        """Return how `error` is answered."""
        reason = error.fields.get("reason")
        told = isinstance(error, InvalidInputError) and reason
        message = f"{error.message}: {reason}" if told else error.message
        return cls(error.http_status, error.code, message, detail=str(error))


class DisconnectedError(Exception):
    """The client is gone."""


_MAX_BODY_BYTES: Final = 64 * 1024


def header(scope: Scope, name: str) -> str:
    """Return a request header, "" if it is not there."""
    wanted = name.lower().encode()
    for key, value in scope["headers"]:
        if key == wanted:
            return str(value.decode("latin-1"))
    return ""


async def read_json(receive: Receive) -> Any:
    """Return the value in a small JSON body.

    Raises:
        HttpError: If it is too large, or not JSON.
        DisconnectedError: If it does not come to its end.
    """
    body = bytearray()
    more = True
    while more:
        chunk, more = await next_chunk(receive)
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise HttpError(413, "payload_too_large", "The request's body is too large")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        place = {"type": "json_invalid", "loc": ["body"], "input": {}}
        detail = [{**place, "msg": f"JSON decode error: {error}"}]
        raise HttpError(
            422, "validation_error", "The body is not JSON", detail=detail
        ) from error


async def next_chunk(receive: Receive) -> tuple[bytes, bool]:
    """Return the next piece of a body, and whether more follows.

    Raises:
        DisconnectedError: If the client is gone.
    """
    message = await receive()
    if message["type"] == "http.disconnect":
        raise DisconnectedError
    return message.get("body", b""), message.get("more_body", False)


async def send_json(
    send: Send, status: int, value: Any, *, headers: Mapping[str, str] | None = None
) -> None:
    """Answer with a JSON value."""
    body = json.dumps(value).encode()
    fields = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "x-request-id": uuid.uuid4().hex,
        **(headers or {}),
    }
    encoded = [(key.encode(), text.encode("latin-1")) for key, text in fields.items()]
    start = {"type": "http.response.start", "status": status, "headers": encoded}
    await send(start)
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: HttpError) -> None:
    """Answer with an error."""
    short = {"code": error.code, "message": error.message}
    body = {"message": error.message, "detail": error.detail, "error": short}
    headers = {}
    if error.status == 401:
        headers["www-authenticate"] = 'Bearer realm="matyan"'
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    await send_json(send, error.status, body, headers=headers)

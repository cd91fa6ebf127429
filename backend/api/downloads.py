"""Headers of files sent to people: names that cannot inject, ranges, harmless types.

Whatever a client called a file, and says it is, a browser saves it under a plain name
and never shows it as a page of this server.

Design note: docs/subsystems/blobs.md#downloads
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import quote

from rest_framework import exceptions

from backend.blobs.base import DEFAULT_CONTENT_TYPE

_CONTENT_TYPE: Final = re.compile(
    r"[A-Za-z0-9!#$&^_.+\-]{1,64}/[A-Za-z0-9!#$&^_.+\-]{1,64}"
    r"(; ?charset=[A-Za-z0-9._\-]{1,32})?\Z"
)
_ACTIVE: Final = re.compile(
    r"script|html|xml|svg|css|wasm|flash|java|^multipart/", re.IGNORECASE
)
"""What browsers run, or show as a page: the types of scripts all have the word in them;
`postscript` is a victim."""

_UNSAFE: Final = re.compile(r"[^ !#-\[\]-~]")
"""What has no place between the quotes of `filename`."""

_RANGE: Final = re.compile(r"bytes=(\d{0,19})-(\d{0,19})\Z")


class RangeNotSatisfiableError(exceptions.APIException):
    """The range begins after the end."""

    status_code = 416
    default_detail = "The range is outside the file"
    default_code = "range_not_satisfiable"


def attachment_headers(file_name: str) -> dict[str, str]:
    """Return the headers that make a browser save a file under its name.

    `filename` is for old readers, `filename*` (RFC 6266) has the name as it is.
    """
    plain = _UNSAFE.sub("_", file_name) or "file"
    named = f'attachment; filename="{plain}"'
    if plain != file_name:
        encoded = quote(file_name, safe="", errors="replace")
        named += f"; filename*=UTF-8''{encoded}"
    return {
        "Content-Disposition": named,
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
    }


def safe_content_type(content_type: str) -> str:
    """Return `content_type` if it is one and harmless, the general one if not.

    A page of this server may load scripts from it, and a browser then asks for nothing
    but their type: no file somebody uploaded may have it.
    """
    known = _CONTENT_TYPE.match(content_type)
    is_active = _ACTIVE.search(content_type)
    return content_type if known and not is_active else DEFAULT_CONTENT_TYPE


def read_range(headers: Any, *, size: int, etag: str) -> tuple[int, int] | None:
    """Return the bytes (start, stop) that a request wants; None: all of them.

    Several ranges at once, and ranges of another version (`If-Range`), are answered
    with the whole file, as HTTP allows.

    Raises:
        RangeNotSatisfiableError: If the range begins after the end.
    """
    match = _RANGE.match(headers.get("Range", "").strip())
    if match is None or headers.get("If-Range", etag) != etag:
        return None
    first, last = match.groups()
    if first:
        start = int(first)
        stop = min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    elif last:
        start, stop = max(size - int(last), 0), size
    else:
        return None
    if start >= size or start >= stop:
        raise RangeNotSatisfiableError
    return start, stop

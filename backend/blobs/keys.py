"""Which texts may be keys of blobs.

A key never leaves its store, whatever a client sent: no component is empty, "." or
"..", none has control characters, and the whole is bounded.

Design note: docs/subsystems/blobs.md#keys
"""

from __future__ import annotations

import unicodedata
from typing import Final

from backend.errors import BlobKeyError

MAX_KEY_BYTES: Final = 1024


def check_key(key: str) -> tuple[str, ...]:
    """Return the components of `key`.

    Raises:
        BlobKeyError: If it cannot be a key; tells why.
    """
    reason = _problem(key)
    if reason:
        raise BlobKeyError(key=ascii(key[:200]), reason=reason)
    return tuple(key.split("/"))


def check_prefix(prefix: str) -> tuple[str, ...]:
    """Return the components of `prefix`, which is "" or a key and a "/".

    Raises:
        BlobKeyError: If it is not.
    """
    if not prefix:
        return ()
    if not prefix.endswith("/"):
        raise BlobKeyError(key=ascii(prefix[:200]), reason="a prefix ends in '/'")
    return check_key(prefix[:-1])


def _problem(key: str) -> str:
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if not 1 <= size <= MAX_KEY_BYTES:
        return f"must be 1 to {MAX_KEY_BYTES} bytes"
    if any(unicodedata.category(character) == "Cc" for character in key):
        return "must not have control characters"
    if any(part in {"", ".", ".."} for part in key.split("/")):
        return "must be relative, without empty, '.' or '..' components"
    return ""

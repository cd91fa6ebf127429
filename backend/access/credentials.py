"""Where a request or a handshake carries its token.

Three places, for three kinds of clients: `Authorization: Bearer`, Basic credentials
(what `http://user:token@host` becomes; the token may be either half), and the path
`/t/<token>/api/…` (`backend.access.gate` turns it into the first).

Design note: docs/subsystems/access.md#clients
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

from backend.access.tokens import PREFIX

UNUSABLE: Final = ""
"""Credentials were presented, and no token is among them."""


def token_in(authorization: str | None) -> str | None:
    """Return the token an `Authorization` header presents.

    Args:
        authorization: The header's value, None when there is none.

    Returns:
        The token as given; `UNUSABLE` when the header holds something else; None when
        nothing is presented.
    """
    if not authorization:
        return None
    scheme, _, value = authorization.strip().partition(" ")
    match scheme.lower():
        case "bearer":
            return value.strip()
        case "basic":
            return _token_in_pair(value.strip())
        case "session":  # what `/api/auth/refresh` tells pages: the cookie counts
            return None
        case _:
            return UNUSABLE


def _token_in_pair(encoded: str) -> str:
    try:
        pair = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return UNUSABLE
    name, _, password = pair.partition(":")
    halves = (half for half in (password, name) if half.startswith(PREFIX))
    return next(halves, UNUSABLE)

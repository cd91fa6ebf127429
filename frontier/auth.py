"""Who is connecting. Everybody is anonymous, until access is restricted here.

An unmodified JSON client can only present Basic credentials (from `http://user:token@`
URLs) or a path prefix; both reach this module in the ASGI scope.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a connection acts for.

    Attributes:
        name: Shown in logs.
    """

    name: str


ANONYMOUS = Principal("anonymous")


async def authenticate(scope: dict[str, Any]) -> Principal | None:
    """Return who opens the connection, None to refuse it with 401."""
    return ANONYMOUS

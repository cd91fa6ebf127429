"""Who asks, and what they may do.

Scopes are levels: each includes the ones before it.

Design note: docs/subsystems/access.md
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Scope(StrEnum):
    """How much may be done.

    `READ` looks, `WRITE` logs runs and changes what is kept, `ADMIN` also destroys
    what cannot be made again.
    """

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"

    def includes(self, needed: Scope) -> bool:
        """Return whether this level is enough for `needed`."""
        return _LEVELS.index(self) >= _LEVELS.index(needed)


_LEVELS: Final = (Scope.READ, Scope.WRITE, Scope.ADMIN)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request or connection acts for.

    Attributes:
        kind: "anonymous", "token" or "person".
        name: Shown in logs; never a secret.
        scope: What may be done, None for nothing.
        project_id: The project it is confined to; 0 is the only one there is.
    """

    kind: str
    name: str
    scope: Scope | None
    project_id: int = 0

    def may(self, needed: Scope) -> bool:
        """Return whether `needed` is within what may be done."""
        return self.scope is not None and self.scope.includes(needed)


NOBODY: Final = Principal("anonymous", "anonymous", None)
ANYBODY: Final = Principal("anonymous", "anonymous", Scope.ADMIN)
"""Everybody, while access is open."""

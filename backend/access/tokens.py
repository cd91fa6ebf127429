"""API tokens: what they look like, and making, finding and revoking them.

A token is `mty_<id>_<secret>`. The id is public: it is how the row is found, and what
logs and lists show. The secret is random, 238 bits, shown once; the row keeps a BLAKE2b
hash keyed by the id. A fast hash is right for it: there is nothing to guess. Letters
and digits only, so that a token can stand in any part of a URL as it is.

Design note: docs/subsystems/access.md#tokens
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import string
from datetime import datetime
from typing import Any, Final

from django.utils import timezone

from backend.domain.access import Scope
from backend.models import ApiToken

logger = logging.getLogger(__name__)

PREFIX: Final = "mty_"
_ALPHABET: Final = string.ascii_letters + string.digits
_ID_LENGTH: Final = 12
_SECRET_LENGTH: Final = 40
_FORMAT: Final = re.compile(
    rf"mty_(?P<id>[A-Za-z0-9]{{{_ID_LENGTH}}})_(?P<secret>[A-Za-z0-9]{{{_SECRET_LENGTH}}})\Z"
)


def create_token(
    *,
    name: str,
    scope: Scope,
    expires_at: datetime | None = None,
    created_by: Any = None,
) -> tuple[ApiToken, str]:
    """Make a token; return its row and its text, which is kept nowhere.

    Args:
        name: What it is for.
        scope: What it lets do.
        expires_at: From when on it is refused, None for never.
        created_by: The user who asked for it, None for the command line.

    Raises:
        ValueError: If the name is empty or longer than 100 characters.
    """
    if not 1 <= len(name.strip()) <= 100:
        msg = "a token's name has 1 to 100 characters"
        raise ValueError(msg)
    token_id, secret = _random(_ID_LENGTH), _random(_SECRET_LENGTH)
    row = ApiToken.objects.create(
        token_id=token_id,
        name=name.strip(),
        digest=_digest(token_id, secret),
        scope=scope.value,
        expires_at=expires_at,
        created_by=created_by,
    )
    logger.info("access.token_created", extra=_shown(row))
    return row, f"{PREFIX}{token_id}_{secret}"


def revoke_token(row: ApiToken) -> bool:
    """Refuse a token from now on; return whether it was not revoked before."""
    revoked = ApiToken.objects.filter(pk=row.pk, revoked_at=None).update(
        revoked_at=timezone.now()
    )
    if revoked:
        logger.info("access.token_revoked", extra=_shown(row))
    return bool(revoked)


def find_token(text: str) -> ApiToken | None:
    """Return the row of a token, usable or not; None when there is no such token.

    Raises:
        django.db.Error: If the table cannot be read.
    """
    parts = _FORMAT.match(text)
    if parts is None:
        return None
    row = ApiToken.objects.filter(token_id=parts["id"]).first()
    digest = _digest(parts["id"], parts["secret"])
    if row is None or not hmac.compare_digest(digest, bytes(row.digest)):
        return None
    return row


def public_id(text: str) -> str:
    """Return what of a token may be shown; "" if it has not the form of one."""
    parts = _FORMAT.match(text)
    return parts["id"] if parts else ""


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _digest(token_id: str, secret: str) -> bytes:
    key = token_id.encode()
    return hashlib.blake2b(
        secret.encode(), key=key, digest_size=32, person=b"matyan-token"
    ).digest()


def _shown(row: ApiToken) -> dict[str, str]:
    return {"token_id": row.token_id, "token_name": row.name, "scope": row.scope}

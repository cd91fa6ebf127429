"""Turns a presented token into a principal, seldom asking the database.

A token found good is believed for `ttl_s`: so long a revocation may take to be noticed,
and no connection or request within it touches the database. Wrong tokens are not
remembered; they are counted by address. A token that was good before may always be
looked up again, so that one job's wrong token does not shut out its neighbours behind
the same address.

Design note: docs/subsystems/access.md#verification
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.db import DatabaseError
from django.db import Error as AnyDatabaseError
from django.utils import timezone

from backend.access import tokens
from backend.access.attempts import AttemptLimiter
from backend.domain.access import Principal, Scope
from backend.errors import AccessError, AccessUnavailableError, TooManyAttemptsError
from backend.models import ApiToken

logger = logging.getLogger(__name__)

BELIEVED_S: Final = 10.0
USE_NOTED_EVERY: Final = timedelta(minutes=1)
LOOKUPS_AT_ONCE: Final = 2


@dataclass(frozen=True, slots=True)
class _Known:
    principal: Principal
    expires_at: datetime | None
    checked_s: float


class TokenVerifier:
    """Verifies tokens for one process. Thread-safe.

    Args:
        limiter: Counts failures by address.
        ttl_s: How long a good token is believed without asking again.
        capacity: How many good tokens are remembered.
        clock: Seconds that only ever grow.
    """

    def __init__(
        self,
        *,
        limiter: AttemptLimiter,
        ttl_s: float = BELIEVED_S,
        capacity: int = 4096,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limiter = limiter
        self._ttl_s = ttl_s
        self._capacity = capacity
        self._clock = clock
        self._lock = threading.Lock()
        self._lookups = threading.BoundedSemaphore(LOOKUPS_AT_ONCE)
        self._known: OrderedDict[bytes, _Known] = OrderedDict()

    def find_known(self, text: str) -> Principal | None:
        """Return the principal of a token verified lately; asks nobody."""
        known = self._known.get(_key(text))
        if known is None or self._clock() - known.checked_s > self._ttl_s:
            return None
        if known.expires_at is not None and known.expires_at <= timezone.now():
            return None
        return known.principal

    def verify(self, text: str, *, address: str) -> Principal:
        """Return the principal of a token; may wait for the database.

        Args:
            text: The token as presented.
            address: Where it comes from.

        Raises:
            AccessError: If it is no token, or one that is expired or revoked.
            TooManyAttemptsError: If the address has sent too many of these.
            AccessUnavailableError: If the database cannot be asked.
        """
        known = self.find_known(text)
        if known is not None:
            return known
        # A few at a time, so that few have begun when one more comes: those with a good
        # token that come at once behind one address must not shut each other out.
        with self._lookups:
            return self.find_known(text) or self._look_up(text, address)

    def _look_up(self, text: str, address: str) -> Principal:
        key = _key(text)
        was_known = key in self._known
        if not was_known and not self.limiter.begin(address):
            raise TooManyAttemptsError
        try:
            row = tokens.find_token(text)
        except AnyDatabaseError as error:
            if not was_known:
                self.limiter.give_back(address)
            logger.exception("access.database_failed")
            raise AccessUnavailableError from error
        now = timezone.now()
        if row is None or not row.is_usable(now):
            if was_known:
                self.limiter.count(address)
            self._note_failure(text, row, address)
            raise AccessError
        if not was_known:
            self.limiter.give_back(address)
        _note_use(row, now)
        return self._remember(key, row)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._known.clear()
        self.limiter.clear()

    def _remember(self, key: bytes, row: ApiToken) -> Principal:
        principal = Principal("token", row.name, Scope(row.scope), row.project_id)
        with self._lock:
            self._known[key] = _Known(principal, row.expires_at, self._clock())
            self._known.move_to_end(key)
            if len(self._known) > self._capacity:
                self._known.popitem(last=False)
        return principal

    def _note_failure(self, text: str, row: ApiToken | None, address: str) -> None:
        with self._lock:
            self._known.pop(_key(text), None)
        logger.warning(
            "access.refused",
            extra={
                "address": address,
                "token_id": tokens.public_id(text) if row else "",
                "reason": row.state if row else "unknown",
            },
        )


def _note_use(row: ApiToken, now: datetime) -> None:
    if row.last_used_at is not None and now - row.last_used_at < USE_NOTED_EVERY:
        return
    try:
        ApiToken.objects.filter(pk=row.pk).update(last_used_at=now)
    except DatabaseError:
        # Reading worked: whoever comes is let in, the note is made another time.
        logger.warning("access.use_not_noted", extra={"token_id": row.token_id})


def _key(text: str) -> bytes:
    # Tokens themselves are not kept in memory longer than a request.
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=32).digest()


VERIFIER: Final = TokenVerifier(limiter=AttemptLimiter(burst=30, per_minute=30))
"""The process's own."""

"""Blobs of a run: which upload a path, or an object at a step, means.

A client names a blob by run and path. It may upload one path several times: an artifact
logged again, a step tracked again by a resumed process, and, because the public client
leaves the context out of the paths of images and audio, objects of different series at
the same step. So every upload is kept apart under an id of its own:

- a *grant* notes that an upload of a path was allowed: in the order of the requests;
- a *claim* notes that an object that refers to the path was stored: in the order of
  tracking.

Within one *session* (the time from one opening of the run to the next) the first claim
belongs to the first grant, the second to the second, and so on. That is used only where
several series refer to one path at one step; everywhere else the newest upload is
meant.

Design note: docs/subsystems/blobs.md#versions
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass, replace
from typing import Final

MAX_ENTRIES: Final = 1_000
"""Grants, and claims, kept of one path; the oldest are forgotten first."""

BLOB_ID_PATTERN: Final = re.compile(r"[0-9a-f]{32}\Z")
_TIME_DIGITS: Final = 14


def new_blob_id(*, now_us: int) -> str:
    """Return an id for an upload: ids sort by time, and cannot be guessed."""
    return f"{now_us:0{_TIME_DIGITS}x}{secrets.token_hex(9)}"


def blob_time_us(blob_id: str) -> int:
    """Return when the upload was granted, microseconds since the epoch."""
    return int(blob_id[:_TIME_DIGITS], 16)


def path_digest(path: str) -> bytes:
    """Return the 16 bytes that stand for a path in keys."""
    return hashlib.blake2b(path.encode(), digest_size=16).digest()


def blob_key(run_id: str, path: str, blob_id: str) -> str:
    """Return the key of an upload in the blob store: three plain components."""
    return f"{run_id}/{path_digest(path).hex()}/{blob_id}"


def split_blob_key(key: str) -> tuple[str, bytes, str] | None:
    """Return run id, path digest and blob id in a key of `blob_key`; None if none."""
    run_id, _, rest = key.partition("/")
    digest, _, blob_id = rest.partition("/")
    if not (BLOB_ID_PATTERN.match(digest) and BLOB_ID_PATTERN.match(blob_id)):
        return None
    return run_id, bytes.fromhex(digest), blob_id


@dataclass(frozen=True, slots=True)
class Grant:
    """An upload that was allowed; whether it took place only the blob store knows.

    Attributes:
        session: When the run was opened; 0 before it ever was.
        ordinal: The upload's place among those of its session, from 0.
        blob_id: The upload.
    """

    session: int
    ordinal: int
    blob_id: str


@dataclass(frozen=True, slots=True)
class Claim:
    """An object that refers to the path.

    Attributes:
        session: When the run was opened; 0 before it ever was.
        ordinal: The claim's place among those of its session, from 0.
        series_number: The object's series.
        step: The object's step.
    """

    session: int
    ordinal: int
    series_number: int
    step: int


@dataclass(frozen=True, slots=True)
class BlobHistory:
    """The grants and claims of one path of a run, oldest first."""

    path: str
    grants: tuple[Grant, ...] = ()
    claims: tuple[Claim, ...] = ()

    def with_grant(self, blob_id: str, *, session: int) -> BlobHistory:
        """Return the history with an upload added, unless it is known."""
        if any(grant.blob_id == blob_id for grant in self.grants):
            return self
        known = self._in_session(session)
        ordinal = _next_ordinal(known.grants, session)
        grant = Grant(session, ordinal, blob_id)
        return replace(known, grants=(*known.grants, grant)[-MAX_ENTRIES:])

    def with_claim(
        self, series_number: int, step: int, *, session: int, is_repeated: bool = False
    ) -> BlobHistory:
        """Return the history with a claim added.

        Args:
            series_number: The object's series.
            step: The object's step.
            session: When the run was opened, 0 before it ever was.
            is_repeated: The object may have been seen before: then a claim that it has
                in this session stays as it is.
        """
        known = self._in_session(session)
        if is_repeated and any(
            (claim.session, claim.series_number, claim.step)
            == (session, series_number, step)
            for claim in known.claims
        ):
            return known
        ordinal = _next_ordinal(known.claims, session)
        claim = Claim(session, ordinal, series_number, step)
        return replace(known, claims=(*known.claims, claim)[-MAX_ENTRIES:])

    def _in_session(self, session: int) -> BlobHistory:
        """Return the history as the first opening of the run sees it.

        What arrived before the opening belongs to it: a request for an upload can
        overtake the message that opens the run.
        """
        if session == 0:
            return self
        return replace(
            self,
            grants=tuple(
                replace(grant, session=grant.session or session)
                for grant in self.grants
            ),
            claims=tuple(
                replace(claim, session=claim.session or session)
                for claim in self.claims
            ),
        )

    def without(self, blob_ids: frozenset[str]) -> BlobHistory:
        """Return the history without some uploads; the others keep their places."""
        kept = tuple(g for g in self.grants if g.blob_id not in blob_ids)
        return replace(self, grants=kept)

    def uploads(self) -> list[Grant]:
        """Return every upload of the path, newest first."""
        return list(reversed(self.grants))

    def is_shared(self, step: int) -> bool:
        """Return whether objects of several series refer to the path at this step."""
        return len({c.series_number for c in self.claims if c.step == step}) > 1

    def uploads_of(self, series_number: int, step: int) -> list[Grant]:
        """Return the uploads an object may show, the one to try first first.

        Of several, the first that exists is the object's. Where series share the path
        it is one at most: another's picture is worse than none.
        """
        if not self.is_shared(step):
            return self.uploads()
        own = [
            claim
            for claim in self.claims
            if (claim.series_number, claim.step) == (series_number, step)
        ]
        return [
            grant
            for claim in own[-1:]
            for grant in self.grants
            if (grant.session, grant.ordinal) == (claim.session, claim.ordinal)
        ]


def _next_ordinal(entries: tuple[Grant, ...] | tuple[Claim, ...], session: int) -> int:
    ordinals = [entry.ordinal for entry in entries if entry.session == session]
    return ordinals[-1] + 1 if ordinals else 0

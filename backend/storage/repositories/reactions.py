"""Reaction repository: control events that wait to be acted on, or acted on again.

Keys:   REACTION (hash16(event id)) -> record
Limits: an event has at most `MAX_EVENT_BYTES`.

Design note: docs/subsystems/control.md
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from backend.domain.reactions import Reaction
from backend.errors import LimitExceededError
from backend.storage.codecs.reactions import decode_reaction, encode_reaction
from backend.storage.engine.base import ReadTransaction, Transaction
from backend.storage.keyspace import Subspace, hash16, pack_reaction, subspace_range

MAX_EVENT_BYTES: Final = 64_000


def reaction_key(event_id: str) -> bytes:
    """Return the key of the reaction to an event."""
    return pack_reaction(hash16(event_id))


class ReactionRepository:
    """Reactions, by the event's id."""

    def find(self, tr: ReadTransaction, event_id: str) -> Reaction | None:
        """Return the reaction to an event, None if it is done or was never noted."""
        key = reaction_key(event_id)
        value = tr.get(key)
        return None if value is None else decode_reaction(value, key=key)

    def find_many(
        self, tr: ReadTransaction, event_ids: Sequence[str]
    ) -> list[Reaction | None]:
        """Return `find` of each id, in one round trip."""
        keys = [reaction_key(event_id) for event_id in event_ids]
        return [
            None if value is None else decode_reaction(value, key=key)
            for key, value in zip(keys, tr.get_many(keys), strict=True)
        ]

    def page(
        self, tr: ReadTransaction, *, after: bytes = b"", limit: int
    ) -> list[tuple[bytes, Reaction]]:
        """Return at most `limit` reactions with their keys, after a key, any order."""
        begin, end = subspace_range(Subspace.REACTION)
        rows = tr.get_range(
            after + b"\x00" if after else begin, end, limit=limit, snapshot=True
        )
        return [(key, decode_reaction(value, key=key)) for key, value in rows]

    def put(self, tr: Transaction, reaction: Reaction) -> None:
        """Store a reaction, new or changed.

        Raises:
            LimitExceededError: If its event is too long.
        """
        size = len(reaction.event)
        if size > MAX_EVENT_BYTES:
            raise LimitExceededError(
                what="control event", size=size, limit=MAX_EVENT_BYTES
            )
        tr.set(reaction_key(reaction.event_id), encode_reaction(reaction))

    def delete(self, tr: Transaction, event_id: str) -> None:
        """Note that an event has been acted on. May be repeated."""
        tr.clear(reaction_key(event_id))

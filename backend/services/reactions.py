"""Reactions to control events: noted before they are sent, forgotten when done.

A control event taken from the event log is noted in the store before its offset is
committed, and the note goes only when the event has been acted on, or is a dead letter.
So neither a lost task, nor a task queue that forgets, nor a killed worker loses one:
what is due is sent again (`take_due`). Acting on an event twice must do no harm.

Design note: docs/subsystems/control.md
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from backend.domain.reactions import Reaction
from backend.storage.engine.base import ReadTransaction, Transaction

if TYPE_CHECKING:
    from backend.storage.factory import Store

SECOND_US: Final = 1_000_000
ANSWER_WITHIN_S: Final = 120
"""A task that has said nothing for so long is sent again; doubles each time."""

LONGEST_WAIT_S: Final = 3_600
FIRST_RETRY_S: Final = 5
MAX_ATTEMPTS: Final = 12
"""About 3 hours of trying, with waits from 5 s to an hour."""

PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class ReactionCounts:
    """How reactions stand.

    Attributes:
        waiting: Not done yet; at most what was asked for.
        failing: Of these, tried in vain so far.
        oldest_us: When the oldest was taken from the log, 0 if none.
    """

    waiting: int
    failing: int
    oldest_us: int


def note_reactions(
    store: Store, reactions: Sequence[Reaction], *, now_us: int
) -> list[str]:
    """Note events to be acted on; return the ids of those to send a task for.

    Called again with the same events it changes nothing but when they are due. Bound
    the batch: all are stored in one transaction.

    Raises:
        LimitExceededError: If an event is too long.
    """

    def note(tr: Transaction) -> list[str]:
        known = store.reactions.find_many(tr, [r.event_id for r in reactions])
        for fresh, old in zip(reactions, known, strict=True):
            store.reactions.put(tr, _sent(old or fresh, now_us=now_us))
        return [reaction.event_id for reaction in reactions]

    return store.engine.transact(note)


def find_reaction(store: Store, event_id: str) -> Reaction | None:
    """Return the reaction to an event, None if there is nothing to do (any more)."""
    return store.engine.read(lambda tr: store.reactions.find(tr, event_id))


def end_reaction(store: Store, event_id: str) -> None:
    """Note that an event has been acted on, or set aside."""
    store.engine.transact(lambda tr: store.reactions.delete(tr, event_id))


def note_failure(
    store: Store, event_id: str, *, reason: str, now_us: int
) -> Reaction | None:
    """Note that acting on an event failed; return the reaction, None if it is gone.

    It is due again after a wait that doubles with each failure. With `MAX_ATTEMPTS` of
    them the caller sets it aside.
    """

    def note(tr: Transaction) -> Reaction | None:
        old = store.reactions.find(tr, event_id)
        if old is None:
            return None
        wait_s = min(LONGEST_WAIT_S, FIRST_RETRY_S << min(old.attempts, 30))
        failed = replace(
            old,
            attempts=old.attempts + 1,
            reason=reason,
            due_us=now_us + _spread(wait_s, event_id),
        )
        store.reactions.put(tr, failed)
        return failed

    return store.engine.transact(note)


class DueReactions:
    """Finds reactions that are due, a page at a time, all in turn. One thread's."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._after = b""

    def take(self, *, now_us: int) -> list[str]:
        """Return ids of reactions that are due, and note that they are sent now.

        Looks at the next `PAGE` reactions; call it from time to time.
        """
        reactions = self._store.reactions
        page = self._store.engine.read(
            lambda tr: reactions.page(tr, after=self._after, limit=PAGE)
        )
        self._after = page[-1][0] if len(page) == PAGE else b""
        due = [r for _, r in page if r.due_us <= now_us]
        if not due:
            return []

        def note(tr: Transaction) -> list[str]:
            ids = [reaction.event_id for reaction in due]
            found = reactions.find_many(tr, ids)
            still = [r for r in found if r is not None and r.due_us <= now_us]
            for reaction in still:
                reactions.put(tr, _sent(reaction, now_us=now_us))
            return [reaction.event_id for reaction in still]

        return self._store.engine.transact(note)


def count_reactions(store: Store, *, limit: int = 1_000) -> ReactionCounts:
    """Return how many events wait to be acted on, looking at most at `limit`."""

    def read(tr: ReadTransaction) -> list[Reaction]:
        return [r for _, r in store.reactions.page(tr, limit=limit)]

    found = store.engine.read(read)
    return ReactionCounts(
        waiting=len(found),
        failing=sum(1 for r in found if r.attempts),
        oldest_us=min((r.noted_us for r in found), default=0),
    )


def list_reactions(store: Store, *, limit: int) -> list[Reaction]:
    """Return reactions that wait, at most `limit`, oldest first."""
    page = store.engine.read(lambda tr: store.reactions.page(tr, limit=limit))
    return sorted((r for _, r in page), key=lambda r: r.noted_us)


def _sent(reaction: Reaction, *, now_us: int) -> Reaction:
    wait_s = min(LONGEST_WAIT_S, ANSWER_WITHIN_S << min(reaction.sent, 30))
    return replace(reaction, sent=reaction.sent + 1, due_us=now_us + wait_s * SECOND_US)


def _spread(wait_s: int, event_id: str) -> int:
    """Return a wait of half to the whole of `wait_s`, in µs, the same for an event.

    Not random: the function of a transaction may run again.
    """
    part = hashlib.blake2b(event_id.encode(), digest_size=1).digest()[0] / 255
    return round(wait_s * SECOND_US * (0.5 + part / 2))

"""Control events: what the backend has decided and others may have to act on.

The handler acts on nothing itself. It notes in the store which events are to be acted
on, sends tasks for them, and only then are the offsets committed: without the broker
the worker waits, and a task that is lost is sent again (`resend_due`).

A type without a reaction is logged and passed over: nothing has to be done, or a newer
backend sends it before this worker is upgraded.

Design note: docs/subsystems/control.md
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from backend.bus.base import Record
from backend.domain.reactions import Reaction
from backend.errors import LimitExceededError, MatyanError
from backend.services.reactions import DueReactions, note_reactions
from backend.storage.repositories.reactions import MAX_EVENT_BYTES
from workers.control_events import ControlEvent, decode_event
from workers.handlers.base import Outcome

if TYPE_CHECKING:
    from backend.storage.factory import Store

logger = logging.getLogger(__name__)

EVENTS_PER_TASK: Final = 50

Send = Callable[[Sequence[str]], None]
"""Sends a task for the events of these ids; raises `TaskQueueUnavailableError`."""


@dataclass(frozen=True, slots=True)
class ControlHandler:
    """See `workers.handlers.base.Handler`.

    Attributes:
        store: Where it is noted what is to be done.
        send: Sends a task for some events.
        types: Types of events that have a reaction.
        now_us: Wall clock, microseconds since the epoch.
    """

    store: Store
    send: Send
    types: Collection[str]
    now_us: Callable[[], int]

    def __call__(self, records: Sequence[Record]) -> Outcome:
        """Note the events and send tasks for them.

        Raises:
            StoreError: If the store fails.
            TaskQueueUnavailableError: If the broker took no task.
        """
        outcome = Outcome()
        wanted: dict[str, Reaction] = {}
        for record in records:
            try:
                event = _checked(record)
            except MatyanError as error:
                outcome.poison.append((record, error))
                continue
            if event.type in self.types:
                wanted[event.id] = _reaction(event, record, now_us=self.now_us())
                outcome.add(Outcome(applied=1, counts={event.type: 1}))
            else:
                extra = {"event_type": event.type, "event_id": event.id}
                logger.info("control.event_without_reaction", extra=extra)
                outcome.skipped += 1
        if wanted:
            reactions = list(wanted.values())
            ids = note_reactions(self.store, reactions, now_us=self.now_us())
            send_all(self.send, ids)
        return outcome


def resend_due(due: DueReactions, send: Send, *, now_us: int) -> int:
    """Send tasks again for events that nobody has acted on in time; return how many.

    Raises:
        StoreError: If the store fails.
        TaskQueueUnavailableError: If the broker took no task; they are due again later.
    """
    ids = due.take(now_us=now_us)
    if ids:
        logger.info("control.sent_again", extra={"events": len(ids)})
        send_all(send, ids)
    return len(ids)


def send_all(send: Send, ids: Sequence[str]) -> None:
    """Send tasks for events, `EVENTS_PER_TASK` each."""
    for start in range(0, len(ids), EVENTS_PER_TASK):
        send(ids[start : start + EVENTS_PER_TASK])


def _checked(record: Record) -> ControlEvent:
    if len(record.value) > MAX_EVENT_BYTES:
        raise LimitExceededError(
            what="control event", size=len(record.value), limit=MAX_EVENT_BYTES
        )
    return decode_event(record.value)


def _reaction(event: ControlEvent, record: Record, *, now_us: int) -> Reaction:
    place = record.position
    return Reaction(
        event_id=event.id,
        event=record.value,
        key=record.key,
        log_id=place.log_id,
        topic=place.topic,
        partition=place.partition,
        offset=place.offset,
        noted_us=now_us,
        due_us=now_us,
    )

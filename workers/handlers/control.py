"""Control events: what the backend has decided and others may have to act on.

A value is JSON `{"id", "type", "time_us", "payload"}`. Each type has a row in
`REACTIONS`; a type without one is logged and passed over, because a newer backend may
send it before this worker is upgraded.

Design note: docs/subsystems/workers.md#control
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from backend.bus.base import Record
from backend.errors import InvalidInputError
from workers.handlers.base import Outcome

logger = logging.getLogger(__name__)


class ControlEvent(msgspec.Struct, frozen=True):
    """One control event.

    Attributes:
        id: Unique; a repeated event has the same.
        type: What happened.
        time_us: When, microseconds since the epoch.
        payload: What it happened to.
    """

    id: str
    type: str
    time_us: int
    payload: dict[str, Any] = {}


Reaction = Callable[[ControlEvent], None]
"""Reacts to an event; called again with the same event after a failure."""

REACTIONS: Final[Mapping[str, Reaction]] = {}

_decoder = msgspec.json.Decoder(ControlEvent)


def handle(
    records: Sequence[Record], *, reactions: Mapping[str, Reaction] = REACTIONS
) -> Outcome:
    """React to control events; see `workers.handlers.base.Handler`."""
    outcome = Outcome()
    for record in records:
        outcome.add(_handle_one(record, reactions))
    return outcome


def _handle_one(record: Record, reactions: Mapping[str, Reaction]) -> Outcome:
    try:
        event = _decoder.decode(record.value)
    except msgspec.DecodeError as error:
        reason = InvalidInputError(field="value", reason=str(error))
        return Outcome(poison=[(record, reason)])
    reaction = reactions.get(event.type)
    if reaction is None:
        extra = {"event_type": event.type, "event_id": event.id}
        logger.info("control.event_without_reaction", extra=extra)
        return Outcome(skipped=1)
    reaction(event)
    return Outcome(applied=1, counts={event.type: 1})

"""The task that acts on control events.

Design note: docs/subsystems/control.md
"""

from __future__ import annotations

import logging
import time
from typing import Any

from celery import shared_task

from backend import runtime
from backend.bus.base import Record, RecordPosition
from backend.domain.reactions import Reaction
from backend.errors import InvalidInputError
from backend.services.reactions import (
    MAX_ATTEMPTS,
    end_reaction,
    find_reaction,
    note_failure,
)
from backend.task_queue import REACT
from workers import stopping
from workers.control_events import decode_event
from workers.dlq import error_code, publish_dead_letters
from workers.reactions import react

logger = logging.getLogger(__name__)


@shared_task(name=REACT)  # type: ignore[untyped-decorator] # Celery has no types
def react_to_events(*, event_ids: list[str], **_later: Any) -> None:
    """Act on control events that are noted and not done yet, one after the other.

    What fails is noted with its reason and due again later; after `MAX_ATTEMPTS` it
    becomes a dead letter, which can be replayed.

    Args:
        event_ids: Ids of the events.

    Raises:
        StoreError: If the store fails; the events are due again later.
        EventLogError: The same, of a dead letter that could not be stored.
    """
    for event_id in event_ids:
        reaction = find_reaction(runtime.get_store(), event_id)
        if reaction is None:
            continue
        try:
            stopping.check()
            _act(reaction)
        except stopping.StoppedError:
            return


def _act(reaction: Reaction) -> None:
    try:
        react(decode_event(reaction.event), on_progress=lambda _done: stopping.check())
    except stopping.StoppedError:
        raise
    except Exception as error:  # noqa: BLE001 - of whatever kind, it is tried again
        _fail(reaction, error)
    else:
        end_reaction(runtime.get_store(), reaction.event_id)
        logger.info("control.done", extra={"event_id": reaction.event_id})


def _fail(reaction: Reaction, error: Exception) -> None:
    store = runtime.get_store()
    reason = str(error) or repr(error)
    failed = note_failure(
        store, reaction.event_id, reason=reason, now_us=time.time_ns() // 1000
    )
    extra = {
        "event_id": reaction.event_id,
        "code": error_code(error),
        "reason": reason,
        "attempts": failed.attempts if failed else 0,
    }
    logger.warning("control.failed", extra=extra)
    if failed is None:
        return
    if failed.attempts >= MAX_ATTEMPTS or isinstance(error, InvalidInputError):
        _set_aside(failed, error)


def _set_aside(reaction: Reaction, error: Exception) -> None:
    """Make the event a dead letter, and only then forget it."""
    place = RecordPosition(
        reaction.log_id, reaction.topic, reaction.partition, reaction.offset
    )
    record = Record(place, reaction.key, reaction.event, reaction.noted_us)
    publish_dead_letters(
        runtime.get_producer(), [(record, error)], now_us=time.time_ns() // 1000
    )
    end_reaction(runtime.get_store(), reaction.event_id)
    extra = {"event_id": reaction.event_id, "code": error_code(error)}
    logger.error("control.dead_letter", extra=extra)

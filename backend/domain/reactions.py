"""Reactions: control events that somebody still has to act on.

Design note: docs/subsystems/control.md
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reaction:
    """A control event that has been taken from the event log and is not done with.

    Attributes:
        event_id: The event's id; also what names the reaction.
        event: The event as it was published, JSON.
        key: The record's key.
        log_id: Of the record it came in, as are the next three.
        topic: See `log_id`.
        partition: See `log_id`.
        offset: See `log_id`.
        noted_us: When it was taken from the log, microseconds since the epoch.
        due_us: When it is to be tried (again), or asked for again if nobody answered.
        sent: How often a task was sent for it.
        attempts: How often acting on it failed.
        reason: Why it failed last, "" before.
    """

    event_id: str
    event: bytes
    key: bytes
    log_id: str
    topic: str
    partition: int
    offset: int
    noted_us: int
    due_us: int
    sent: int = 0
    attempts: int = 0
    reason: str = ""

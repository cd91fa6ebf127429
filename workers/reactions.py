"""What is done about which control event.

Design note: docs/subsystems/control.md#what-is-done
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from backend import runtime
from backend.services import outbox
from backend.services.blob_cleanup import delete_replaced_blobs, delete_run_blobs
from workers import notifications
from workers.control_events import ControlEvent, number_of, text_of

Act = Callable[[ControlEvent, Callable[[int], None]], None]
"""Acts on an event; may be repeated. The second argument is told of progress, and may
raise to stop the work."""


def _delete_run_blobs(event: ControlEvent, on_progress: Callable[[int], None]) -> None:
    delete_run_blobs(
        runtime.get_store(),
        runtime.get_blobs(),
        run_id=text_of(event, "run_id"),
        deleted_us=event.time_us,
        on_progress=on_progress,
    )


def _delete_replaced(event: ControlEvent, _on_progress: Callable[[int], None]) -> None:
    delete_replaced_blobs(
        runtime.get_store(),
        runtime.get_blobs(),
        run_number=number_of(event, "run_number"),
        run_id=text_of(event, "run_id"),
        path=text_of(event, "path"),
    )


ACTS: Final[Mapping[str, Act]] = {
    outbox.RUN_DELETED: _delete_run_blobs,
    outbox.ARTIFACT_REPLACED: _delete_replaced,
}

TOLD: Final = frozenset(
    {
        outbox.RUN_DELETED,
        outbox.RUN_ARCHIVED,
        outbox.RUN_UNARCHIVED,
        outbox.EXPERIMENT_DELETED,
        outbox.TAG_DELETED,
    }
)
"""Events that notifiers are told of."""


def types_with_reaction() -> frozenset[str]:
    """Return the types of events about which something is done."""
    return frozenset(ACTS) | (TOLD if notifications.are_configured() else frozenset())


def react(
    event: ControlEvent, *, on_progress: Callable[[int], None] = lambda _done: None
) -> None:
    """Do what there is to be done about an event. May be repeated.

    Raises:
        InvalidInputError: If the event can never be acted on.
        Exception: If it could not be acted on now.
    """
    act = ACTS.get(event.type)
    if act is not None:
        act(event, on_progress)
    if event.type in TOLD:
        notifications.notify(event)

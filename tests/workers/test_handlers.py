"""The control handler: what it makes of records, good and bad."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from backend.bus.base import Record, RecordPosition
from backend.errors import (
    InvalidInputError,
    LimitExceededError,
    TaskQueueUnavailableError,
)
from backend.services.reactions import (
    ANSWER_WITHIN_S,
    SECOND_US,
    DueReactions,
    end_reaction,
    find_reaction,
    list_reactions,
)
from backend.storage.factory import Store
from workers.handlers.control import EVENTS_PER_TASK, ControlHandler, resend_due

NOW = 1_700_000_000_000_000


def event(**changes: object) -> Record:
    body = {"id": "e1", "type": "run_deleted", "time_us": 7, "payload": {"run": "r"}}
    value = json.dumps({**body, **changes}).encode()
    return Record(RecordPosition("log", "control-events", 0, 3), b"r", value, 0)


@dataclass
class Queue:
    """Takes tasks, unless it is away."""

    away: bool = False
    sent: list[list[str]] = field(default_factory=list)

    def __call__(self, event_ids: Sequence[str]) -> None:
        if self.away:
            raise TaskQueueUnavailableError(reason="away")
        self.sent.append(list(event_ids))


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
def handle(store: Store, queue: Queue) -> ControlHandler:
    return ControlHandler(store, queue, {"run_deleted"}, lambda: NOW)


def test_an_event_is_noted_and_a_task_sent(
    handle: ControlHandler, store: Store, queue: Queue
):
    outcome = handle([event()])
    assert (outcome.applied, outcome.counts) == (1, {"run_deleted": 1})
    assert queue.sent == [["e1"]]
    reaction = find_reaction(store, "e1")
    assert reaction is not None
    assert reaction.event == event().value
    assert (reaction.log_id, reaction.topic, reaction.offset) == (
        "log",
        "control-events",
        3,
    )


def test_without_the_broker_it_fails_and_forgets_nothing(
    handle: ControlHandler, store: Store, queue: Queue
):
    queue.away = True
    with pytest.raises(TaskQueueUnavailableError, match="away"):
        handle([event()])
    assert find_reaction(store, "e1") is not None
    queue.away = False
    assert handle([event()]).applied == 1
    assert queue.sent == [["e1"]]


def test_many_events_make_tasks_of_bounded_size(handle: ControlHandler, queue: Queue):
    handle([event(id=f"e{n}") for n in range(2 * EVENTS_PER_TASK + 1)])
    assert [len(ids) for ids in queue.sent] == [EVENTS_PER_TASK, EVENTS_PER_TASK, 1]


def test_a_repeated_event_is_sent_once_a_batch(handle: ControlHandler, queue: Queue):
    assert handle([event(), event()]).applied == 2
    assert queue.sent == [["e1"]]


def test_a_task_that_was_lost_is_sent_again(
    handle: ControlHandler, store: Store, queue: Queue
):
    handle([event(id="done"), event(id="lost")])
    end_reaction(store, "done")
    due = DueReactions(store)
    assert resend_due(due, queue, now_us=NOW + 1) == 0
    late = NOW + ANSWER_WITHIN_S * SECOND_US
    assert resend_due(due, queue, now_us=late) == 1
    assert queue.sent[-1] == ["lost"]
    # Twice as patient the second time.
    assert resend_due(due, queue, now_us=late + ANSWER_WITHIN_S * SECOND_US) == 0
    assert resend_due(due, queue, now_us=late + 2 * ANSWER_WITHIN_S * SECOND_US) == 1


def test_an_unknown_event_is_logged_and_passed_over(
    handle: ControlHandler, store: Store, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    outcome = handle([event(type="from_the_future")])
    assert (outcome.applied, outcome.skipped, outcome.poison) == (0, 1, [])
    assert "control.event_without_reaction" in caplog.messages
    assert list_reactions(store, limit=10) == []


def test_fields_of_a_newer_version_are_ignored(handle: ControlHandler):
    assert handle([event(colour="red")]).applied == 1


@pytest.mark.parametrize("changes", [{"id": 5}, {"time_us": "x"}, {"payload": []}])
def test_what_is_not_an_event_is_poison(
    handle: ControlHandler, changes: dict[str, object]
):
    outcome = handle([event(**changes), event()])
    ((record, error),) = outcome.poison
    assert record == event(**changes)
    assert isinstance(error, InvalidInputError)
    assert outcome.applied == 1


def test_an_event_too_large_to_note_is_poison(handle: ControlHandler):
    ((_, error),) = handle([event(payload={"text": "x" * 100_000})]).poison
    assert isinstance(error, LimitExceededError)

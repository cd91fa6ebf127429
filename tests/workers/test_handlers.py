"""Handlers: what they make of records, good and bad."""

from __future__ import annotations

import json
import logging

import pytest

from backend.bus.base import Record, RecordPosition
from backend.errors import InvalidInputError
from workers.handlers import control


def event(**changes: object) -> Record:
    body = {"id": "e1", "type": "run_deleted", "time_us": 7, "payload": {"run": "r"}}
    value = json.dumps({**body, **changes}).encode()
    return Record(RecordPosition("log", "control-events", 0, 3), b"r", value, 0)


def test_an_event_gets_its_reaction():
    seen: list[control.ControlEvent] = []
    outcome = control.handle([event()], reactions={"run_deleted": seen.append})
    assert seen == [control.ControlEvent("e1", "run_deleted", 7, {"run": "r"})]
    assert (outcome.applied, outcome.counts) == (1, {"run_deleted": 1})


def test_an_unknown_event_is_logged_and_passed_over(
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level(logging.INFO)
    outcome = control.handle([event(type="from_the_future")])
    assert (outcome.applied, outcome.skipped, outcome.poison) == (0, 1, [])
    assert "control.event_without_reaction" in caplog.messages


def test_fields_of_a_newer_version_are_ignored():
    outcome = control.handle(
        [event(colour="red")], reactions={"run_deleted": lambda _event: None}
    )
    assert outcome.applied == 1


@pytest.mark.parametrize("changes", [{"id": 5}, {"time_us": "x"}, {"payload": []}])
def test_what_is_not_an_event_is_poison(changes: dict[str, object]):
    outcome = control.handle([event(**changes), event()], reactions={})
    ((record, error),) = outcome.poison
    assert record == event(**changes)
    assert isinstance(error, InvalidInputError)
    assert outcome.skipped == 1

"""Control events: stored with the change, published at least once, then removed."""

from __future__ import annotations

import json
from concurrent.futures import Future
from typing import Any

import pytest
from typing_extensions import override

from backend.bus.base import EventLog, Producer, RecordPosition
from backend.bus.topics import CONTROL
from backend.errors import EventLogError, EventLogUnavailableError
from backend.services import outbox
from backend.storage.factory import Store

NOW = 1_700_000_000_000_000


def append(store: Store, entity_id: str, *, now_us: int = NOW) -> None:
    store.engine.transact(
        lambda tr: outbox.append_event(
            tr, kind="run_deleted", entity_id=entity_id, payload={"n": 1}, now_us=now_us
        )
    )


def published(event_log: EventLog) -> list[dict[str, Any]]:
    records = event_log.read(CONTROL, partition=0, offset=0, max_records=100)
    return [json.loads(record.value) for record in records]


def test_events_are_published_in_order_and_removed(
    store: Store, event_log: EventLog
) -> None:
    for entity_id in ("b", "a"):
        append(store, entity_id)
    producer = event_log.producer()
    assert outbox.drain_outbox(store, producer, max_events=1) == 1
    assert outbox.drain_outbox(store, producer) == 1
    assert outbox.drain_outbox(store, producer) == 0
    assert published(event_log) == [
        {
            "id": f"run_deleted/{entity_id}/{NOW}",
            "type": "run_deleted",
            "time_us": NOW,
            "payload": {"n": 1},
        }
        for entity_id in ("b", "a")
    ]


def test_repeated_append_is_one_event(store: Store) -> None:
    append(store, "a")
    append(store, "a")
    append(store, "b")
    append(store, "a", now_us=NOW + 1)
    assert outbox.count_pending(store) == 3


class BrokenProducer(Producer):
    """Confirms the first event and fails the others, one way or another."""

    def __init__(self, failure: Exception | None) -> None:
        self.failure = failure
        self.calls = 0

    @override
    def publish(self, topic: str, **record: Any) -> Future[RecordPosition]:
        self.calls += 1
        future: Future[RecordPosition] = Future()
        if self.calls == 1:
            future.set_result(RecordPosition("log", topic, 0, 0))
        elif self.failure is not None:
            raise self.failure
        return future

    @override
    def flush(self, *, timeout_s: float) -> bool:
        return True

    @override
    def close(self, *, timeout_s: float = 10.0) -> None:
        return


@pytest.mark.parametrize("failure", [EventLogUnavailableError(reason="down"), None])
def test_unconfirmed_events_stay(store: Store, failure: Exception | None) -> None:
    # A17: the original swallowed the failure, and the run was never deleted.
    for entity_id in ("a", "b", "c"):
        append(store, entity_id)
    with pytest.raises(EventLogError):
        outbox.drain_outbox(store, BrokenProducer(failure), timeout_s=0.01)
    assert outbox.count_pending(store) == 2

"""Control events: stored with the change, published at least once, then removed."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import msgspec
import pytest
from typing_extensions import override

from backend.bus.base import EventLog, Producer, RecordPosition
from backend.bus.topics import CONTROL
from backend.errors import EventLogError, EventLogUnavailableError
from backend.services import outbox
from backend.storage import tuples
from backend.storage.engine.base import Engine, Transaction
from backend.storage.factory import Store
from backend.storage.keyspace import Subspace, hash16, pack_outbox, subspace_range
from tests.backend.storage.engines import EngineAround

T = TypeVar("T")

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
    for at_us, entity_id in enumerate(("b", "a"), NOW):
        append(store, entity_id, now_us=at_us)
    producer = event_log.producer()
    assert outbox.drain_outbox(store, producer, max_events=1) == 1
    assert outbox.drain_outbox(store, producer) == 1
    assert outbox.drain_outbox(store, producer) == 0
    assert published(event_log) == [
        {
            "id": f"run_deleted/{entity_id}/{at_us}",
            "type": "run_deleted",
            "time_us": at_us,
            "payload": {"n": 1},
        }
        for at_us, entity_id in enumerate(("b", "a"), NOW)
    ]


def test_repeated_append_is_one_event(store: Store) -> None:
    append(store, "a")
    append(store, "a")
    append(store, "b")
    append(store, "a", now_us=NOW + 1)
    assert outbox.count_pending(store) == 3


def test_events_of_one_moment_stand_under_keys_of_their_own(store: Store) -> None:
    begin, end = subspace_range(Subspace.OUTBOX)
    for entity_id in map(str, range(50)):
        append(store, entity_id)
        rows = store.engine.read(lambda tr: tr.get_range(begin, end))
        # A key that is free again must not be given to another event.
        store.engine.transact(lambda tr: tr.clear_range(begin, end))
        assert len(rows) == 1
        assert rows[0][0] == pack_outbox(NOW, hash16(f"run_deleted/{entity_id}/{NOW}"))


class MeanwhileEngine(EngineAround):
    """Does something else just before each transaction, once."""

    def __init__(self, inner: Engine, meanwhile: Callable[[], None]) -> None:
        super().__init__(inner)
        self._meanwhile = [meanwhile]

    @override
    def transact(self, fn: Callable[[Transaction], T], *, timeout_s: float = 30.0) -> T:
        while self._meanwhile:
            self._meanwhile.pop()()
        return super().transact(fn, timeout_s=timeout_s)


def drain_all(store: Store, producer: Producer) -> None:
    while outbox.drain_outbox(store, producer):
        pass


def test_two_drains_at_once_lose_no_event_written_between(
    store: Store, event_log: EventLog
) -> None:
    producer = event_log.producer()
    first, then = [str(i) for i in range(20)], [str(i) for i in range(20, 40)]
    for entity_id in first:
        append(store, entity_id)

    def meanwhile() -> None:
        drain_all(store, producer)
        for entity_id in then:
            append(store, entity_id)

    outbox.drain_outbox(Store(MeanwhileEngine(store.engine, meanwhile)), producer)
    drain_all(store, producer)
    ids = {event["id"].split("/")[1] for event in published(event_log)}
    assert ids == {*first, *then}


def test_rows_of_stores_of_before_are_published_and_only_what_was_is_removed(
    store: Store, event_log: EventLog
) -> None:
    """They stand under counters, which another event could be given again."""
    producer = event_log.producer()
    key = tuples.pack((0, 20, NOW))

    def old_row(name: str) -> bytes:
        event = json.dumps({"id": name}).encode()
        return msgspec.msgpack.encode([1, "a", event])

    def put(name: str) -> None:
        store.engine.transact(lambda tr: tr.set(key, old_row(name)))

    def meanwhile() -> None:
        drain_all(store, producer)
        put("second")

    put("first")
    append(store, "new")
    outbox.drain_outbox(Store(MeanwhileEngine(store.engine, meanwhile)), producer)
    assert outbox.count_pending(store) == 1
    drain_all(store, producer)
    assert outbox.count_pending(store) == 0
    ids = {event["id"] for event in published(event_log)}
    assert ids == {"first", "second", f"run_deleted/new/{NOW}"}


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

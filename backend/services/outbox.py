"""Control events: written with the change they tell of, published afterwards.

An event is stored in the transaction that makes the change, so neither is ever without
the other; a drain publishes what is stored and removes what the log has confirmed.
Publishing is at least once: consumers go by the event's id, which is the same however
often it is written or published.

Keys:   OUTBOX (time in microseconds, hash16(event id)); OUTBOX (counter) in stores of
        before. A row of an event stands under a key of its own, which no other event
        gets after it: what is removed is what was published.
Event: {"id", "type", "time_us", "payload"}; the record's key is the entity's id.

Design note: docs/subsystems/metadata.md#outbox
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any, Final

import msgspec

from backend.bus.base import Producer, RecordPosition
from backend.bus.topics import CONTROL
from backend.errors import EventLogError, EventLogUnavailableError
from backend.storage.engine.base import KeyValue, ReadTransaction, Transaction
from backend.storage.keyspace import Subspace, hash16, pack_outbox, subspace_range

if TYPE_CHECKING:
    from backend.storage.factory import Store

RUN_DELETED: Final = "run_deleted"
RUN_ARCHIVED: Final = "run_archived"
RUN_UNARCHIVED: Final = "run_unarchived"
EXPERIMENT_DELETED: Final = "experiment_deleted"
TAG_DELETED: Final = "tag_deleted"
ARTIFACT_REPLACED: Final = "artifact_replaced"


class _Row(msgspec.Struct, array_like=True):
    version: int
    key: str
    event: bytes


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Row)


def append_event(
    tr: Transaction, *, kind: str, entity_id: str, payload: dict[str, Any], now_us: int
) -> None:
    """Store an event in the caller's transaction; a repeated call changes nothing.

    Args:
        tr: The transaction that makes the change.
        kind: One of the constants here.
        entity_id: What it happened to; also the record's key.
        payload: JSON values.
        now_us: When; part of the event's id, so that each deletion of a run that was
            created again is an event of its own.
    """
    event = {
        "id": f"{kind}/{entity_id}/{now_us}",
        "type": kind,
        "time_us": now_us,
        "payload": payload,
    }
    value = _encoder.encode(_Row(1, entity_id, json.dumps(event).encode()))
    tr.set(pack_outbox(now_us, hash16(str(event["id"]))), value)


def count_pending(store: Store, *, limit: int = 1_000) -> int:
    """Return how many events wait to be published, at most `limit`."""
    begin, end = subspace_range(Subspace.OUTBOX)
    return store.engine.read(lambda tr: len(tr.get_range(begin, end, limit=limit)))


def drain_outbox(
    store: Store, producer: Producer, *, max_events: int = 256, timeout_s: float = 10.0
) -> int:
    """Publish waiting events, oldest first, and remove those the log confirmed.

    Args:
        store: Where the events wait.
        producer: Where they go.
        max_events: Upper bound of one call; call again while it returns that many.
        timeout_s: How long to wait for each confirmation.

    Returns:
        How many were published.

    Raises:
        EventLogError: If the log refused one; it and those after it stay.
    """
    begin, end = subspace_range(Subspace.OUTBOX)

    def pending(tr: ReadTransaction) -> list[KeyValue]:
        return tr.get_range(begin, end, limit=max_events)

    rows = store.engine.read(pending)
    futures = [_publish(producer, value) for _, value in rows]
    confirmed: list[KeyValue] = []
    try:
        for row, future in zip(rows, futures, strict=True):
            _wait(future, timeout_s=timeout_s)
            confirmed.append(row)
    finally:
        if confirmed:
            store.engine.transact(lambda tr: _remove(tr, confirmed))
    return len(confirmed)


def _remove(tr: Transaction, published: Sequence[KeyValue]) -> None:
    """Clear the rows that still are what was published.

    Another drain may have cleared a row since, and its key been given to another event:
    keys of stores of before are used again.
    """
    stored = tr.get_many([key for key, _ in published])
    for (key, value), found in zip(published, stored, strict=True):
        if found == value:
            tr.clear(key)


def _publish(producer: Producer, value: bytes) -> Future[RecordPosition]:
    row = _decoder.decode(value)
    try:
        return producer.publish(CONTROL, key=row.key.encode(), value=row.event)
    except EventLogError as error:
        failed: Future[RecordPosition] = Future()
        failed.set_exception(error)
        return failed


def _wait(future: Future[RecordPosition], *, timeout_s: float) -> None:
    try:
        future.result(timeout=timeout_s)
    except FutureTimeoutError as error:
        raise EventLogUnavailableError(reason="no confirmation in time") from error

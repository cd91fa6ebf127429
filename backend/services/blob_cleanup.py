"""Removing blobs that a control event says are no longer wanted.

Everything here may be repeated, and goes on where it was stopped.

Design note: docs/subsystems/control.md#what-is-done
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from backend.blobs.base import DELETE_BATCH, BlobStore
from backend.domain.blobs import (
    BlobHistory,
    blob_key,
    blob_time_us,
    split_blob_key,
)
from backend.errors import BlobKeyError
from backend.storage.engine.base import ReadTransaction, Transaction

if TYPE_CHECKING:
    from backend.storage.factory import Store

BATCH: Final = DELETE_BATCH
"""Blobs removed between two looks at the observer: for S3, one page of a listing and
one request."""

Observer = Callable[[int], None]
"""Told how many blobs are gone so far; what it raises ends the work."""


def delete_run_blobs(
    store: Store,
    blobs: BlobStore,
    *,
    run_id: str,
    deleted_us: int,
    on_progress: Observer = lambda _done: None,
) -> int:
    """Remove every blob of a deleted run, uploads in parts too; return how many blobs.

    If the id is in use again, because its tombstone was cleared, what was uploaded
    after the deletion stays.

    Args:
        store: Asked whether the id is in use again.
        blobs: Where they are.
        run_id: The run's id.
        deleted_us: When the run was deleted.
        on_progress: Told after each batch.

    Raises:
        BlobStoreError: If the blob store fails; what is gone stays gone.
    """
    is_back = store.engine.read(lambda tr: store.runs.find(tr, run_id)) is not None

    def condemned(key: str) -> bool:
        if not is_back:
            return True
        parts = split_blob_key(key)
        return parts is not None and blob_time_us(parts[2]) <= deleted_us

    done, prefix = 0, f"{run_id}/"
    try:
        blobs.abort_uploads(prefix, condemned=condemned)
    except BlobKeyError:
        return done  # an id that no blob can have
    while True:
        removed = blobs.delete_prefix(prefix, max_blobs=BATCH, condemned=condemned)
        done += removed
        on_progress(done)
        if removed < BATCH:
            return done


def delete_replaced_blobs(
    store: Store, blobs: BlobStore, *, run_number: int, run_id: str, path: str
) -> int:
    """Remove the uploads of an artifact that a later one has replaced.

    The newest upload that exists stays, and so do later ones, which may be on their
    way. Uploads that objects refer to are never replaced.

    Raises:
        BlobStoreError: If the blob store fails.
    """

    def read(tr: ReadTransaction) -> BlobHistory | None:
        if store.runs.find_by_number(tr, run_number) is None:
            return None  # deleted since: all its blobs go
        return store.blobs.find(tr, run_number, path)

    history = store.engine.read(read)
    if history is None or history.claims:
        return 0
    older = _replaced(blobs, run_id, history)
    blobs.delete_many(blob_key(run_id, path, blob_id) for blob_id in older)

    def forget(tr: Transaction) -> None:
        now = read(tr)
        if now is not None and older:
            store.blobs.put(tr, run_number, now.without(frozenset(older)))

    store.engine.transact(forget)
    return len(older)


def _replaced(blobs: BlobStore, run_id: str, history: BlobHistory) -> list[str]:
    ids = [grant.blob_id for grant in history.grants]
    for index in range(len(ids) - 1, 0, -1):
        if blobs.stat(blob_key(run_id, history.path, ids[index])) is not None:
            return ids[:index]
    return []

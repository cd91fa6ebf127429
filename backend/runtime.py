"""The process-wide store, event log, producer and blob store, opened on first use.

Thread-safe. Whatever was opened is closed and forgotten when its setting changes, which
is how tests give each case its own. The gateway does not use this module (it must not
reach the store); it opens its log in `frontier.producer`.
"""

from __future__ import annotations

import threading
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed
from django.dispatch import receiver

from backend.blobs.base import BlobStore
from backend.blobs.factory import open_blob_store
from backend.blobs.uris import BlobUris
from backend.bus.base import EventLog, Producer
from backend.bus.factory import open_event_log
from backend.storage.factory import Store, open_store

_lock = threading.RLock()
_store: Store | None = None
_event_log: EventLog | None = None
_producer: Producer | None = None
_blobs: BlobStore | None = None


def get_store() -> Store:
    """Return the store of `settings.MATYAN_STORE`.

    Raises:
        StoreError: If it cannot be opened; the next call tries again.
    """
    global _store  # noqa: PLW0603 - one per process is the point
    with _lock:
        if _store is None:
            config = settings.MATYAN_STORE
            _store = open_store(
                engine=config["ENGINE"], options=config.get("OPTIONS", {})
            )
        return _store


def get_event_log() -> EventLog:
    """Return the event log of `settings.MATYAN_BUS`.

    Raises:
        EventLogError: If it cannot be opened; the next call tries again.
    """
    global _event_log  # noqa: PLW0603 - one per process is the point
    with _lock:
        if _event_log is None:
            config = settings.MATYAN_BUS
            _event_log = open_event_log(
                engine=config["ENGINE"], options=config.get("OPTIONS", {})
            )
        return _event_log


def get_producer() -> Producer:
    """Return this process's producer to the event log."""
    global _producer  # noqa: PLW0603 - one per process is the point
    with _lock:
        if _producer is None:
            _producer = get_event_log().producer()
        return _producer


def get_blobs() -> BlobStore:
    """Return the blob store of `settings.MATYAN_BLOBS`.

    Raises:
        BlobStoreError: If it cannot be opened; the next call tries again.
    """
    global _blobs  # noqa: PLW0603 - one per process is the point
    with _lock:
        if _blobs is None:
            config = settings.MATYAN_BLOBS
            _blobs = open_blob_store(
                engine=config["ENGINE"], options=config.get("OPTIONS", {})
            )
        return _blobs


def get_blob_uris() -> BlobUris:
    """Return what makes and reads blob URIs, with this installation's secret."""
    return BlobUris(settings.MATYAN_BLOB_SECRET)


def close() -> None:
    """Close whatever is open; the next use opens it again."""
    global _store, _event_log, _producer, _blobs  # noqa: PLW0603 - one per process
    with _lock:
        if _blobs is not None:
            _blobs.close()
        if _producer is not None:
            _producer.close()
        if _event_log is not None:
            _event_log.close()
        if _store is not None:
            _store.close()
        _store = _event_log = _producer = _blobs = None


@receiver(setting_changed)
def _forget(*, setting: str, **_later: Any) -> None:
    if setting in {"MATYAN_STORE", "MATYAN_BUS", "MATYAN_BLOBS"}:
        close()

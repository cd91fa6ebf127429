"""The gateway's blob store, opened from settings on first use.

Thread-safe. It is closed and forgotten when `MATYAN_BLOBS` changes. The gateway has its
own copy of this (and not the backend's `runtime`) because it must not reach the store.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Final

from django.conf import settings
from django.core.signals import setting_changed
from django.dispatch import receiver

from backend.blobs.base import BlobStore
from backend.blobs.factory import open_blob_store
from backend.errors import BlobStoreError

CHECK_INTERVAL_S: Final = 10.0
CHECK_WAIT_S: Final = 1.0

logger = logging.getLogger(__name__)

_lock = threading.Lock()
_blobs: BlobStore | None = None


def get_blobs() -> BlobStore:
    """Return this process's blob store. May block the first time.

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


async def open_blobs() -> BlobStore:
    """Return this process's blob store without blocking the event loop.

    Nothing is waited for once it is open.

    Raises:
        BlobStoreError: If it cannot be opened; the next call tries again.
    """
    return await asyncio.to_thread(get_blobs) if _blobs is None else _blobs


class BlobHealth:
    """Whether the blob store answers, looked at once in `CHECK_INTERVAL_S`."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="blob-check")
        self._lock = threading.Lock()
        self._begun_s = float("-inf")
        self._check: Future[str] | None = None

    def verdict(self) -> str:
        """Return "ok", or what is wrong. Waits at most `CHECK_WAIT_S`."""
        with self._lock:
            now_s = time.monotonic()
            idle = self._check is None or self._check.done()
            if self._check is None or (
                idle and now_s - self._begun_s >= CHECK_INTERVAL_S
            ):
                self._check, self._begun_s = self._pool.submit(_look), now_s
            check = self._check
        try:
            return check.result(timeout=CHECK_WAIT_S)
        except FutureTimeoutError:
            return "the blob store does not answer"

    def forget(self) -> None:
        """Look again at the next question."""
        with self._lock:
            self._check = None


def _look() -> str:
    try:
        get_blobs().check()
    except BlobStoreError as error:
        # Anybody may ask: what has a path or an address in it goes to the log.
        logger.warning("health.not_ready", extra={"reason": str(error)})
        return error.message
    return "ok"


health: Final = BlobHealth()


@receiver(setting_changed)
def _forget(*, setting: str, **_later: Any) -> None:
    global _blobs
    if setting == "MATYAN_BLOBS":
        with _lock:
            closing, _blobs = _blobs, None
        health.forget()
        if closing is not None:
            closing.close()

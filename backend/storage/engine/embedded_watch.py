"""What outlives a transaction of the embedded engine: its watches and its stamp."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from typing_extensions import override

from backend.errors import StoreError
from backend.storage.engine.base import Versionstamp, Watch

_POLL_S: Final = 0.02
"""How late a change by another process may be seen; one look costs about 1 µs."""


class EmbeddedVersionstamp(Versionstamp):
    """The stamp of one attempt of a transaction."""

    def __init__(self) -> None:
        self._stamp: bytes | None = None

    def resolve(self, stamp: bytes | None) -> None:
        """Take the stamp of the commit, None when nothing had to be committed."""
        self._stamp = stamp

    @override
    def wait(self) -> bytes:
        if self._stamp is None:
            raise StoreError(reason="no commit gave this versionstamp")
        return self._stamp


class EmbeddedWatch(Watch):
    """Looks whether anything was committed, and only then at its key.

    Costs nothing while nobody waits. A commit of this process wakes it at once, one of
    another process within `_POLL_S`.
    """

    def __init__(
        self,
        *,
        changed: threading.Condition,
        last_commit: Callable[[], int],
        read: Callable[[bytes], tuple[int, bytes | None]],
        key: bytes,
        value: bytes | None,
    ) -> None:
        """Watch `key`, which has `value`.

        Args:
            changed: Notified after each commit of this process.
            last_commit: Returns the number of the last commit of any process, maybe a
                moment before it can be read.
            read: Returns the number of the last commit it sees and, as of that, the
                value of a key.
            key: The key.
            value: What it must differ from.
        """
        self._changed = changed
        self._last_commit = last_commit
        self._read = read
        self._key = key
        self._value = value
        self._active = False
        self._cancelled = threading.Event()
        self._seen = -1

    def activate(self) -> None:
        """Start: the transaction has committed."""
        self._active = True

    @override
    def wait(self, *, timeout_s: float) -> bool:
        """Block until the key changed (True), or the time is over (False).

        A cancelled watch answers False at once.

        Raises:
            StoreClosedError: If the engine is closed.
            StoreError: If the transaction did not commit.
        """
        if not self._active:
            raise StoreError(reason="the transaction of this watch did not commit")
        deadline_s = time.monotonic() + timeout_s
        while not self._cancelled.is_set():
            if self._has_changed():
                return True
            rest_s = deadline_s - time.monotonic()
            if rest_s <= 0:
                return False
            with self._changed:
                self._changed.wait(min(rest_s, _POLL_S))
        return False

    @override
    def cancel(self) -> None:
        self._cancelled.set()
        with self._changed:
            self._changed.notify_all()

    def _has_changed(self) -> bool:
        if self._last_commit() == self._seen:
            return False
        self._seen, value = self._read(self._key)
        return value != self._value

"""What outlives a transaction of the FoundationDB engine: its watches and its stamp."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from typing_extensions import override

from backend.errors import StoreError
from backend.storage.engine.base import Versionstamp, Watch


class FdbVersionstamp(Versionstamp):
    """The stamp of one attempt of a transaction."""

    def __init__(self) -> None:
        self._stamp: bytes | None = None

    def resolve(self, stamp: bytes | None) -> None:
        """Take the stamp of the commit."""
        self._stamp = stamp

    @override
    def wait(self) -> bytes:
        if self._stamp is None:
            raise StoreError(reason="no commit gave this versionstamp")
        return self._stamp


class FdbWatch(Watch):
    """A watch kept by the cluster; changes of every process arrive by themselves.

    The cluster may end a watch early (a node is replaced, the connection is lost). That
    counts as a change, as the contract allows.
    """

    def __init__(self, future: Any, require_open: Callable[[], None]) -> None:
        """Wrap the binding's future of a watch.

        Args:
            future: Ready when the key has changed.
            require_open: Raises `StoreClosedError` once the engine is closed.
        """
        self._future = future
        self._require_open = require_open
        self._ready = threading.Event()
        self._active = False
        self._cancelled = False
        ready = self._ready
        # The callback must not hold the watch, or a forgotten one would never end.
        future.on_ready(lambda _: ready.set())

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
        self._require_open()
        if not self._active:
            raise StoreError(reason="the transaction of this watch did not commit")
        changed = self._ready.wait(max(timeout_s, 0))
        self._require_open()
        return changed and not self._cancelled

    @override
    def cancel(self) -> None:
        self._cancelled = True
        self._future.cancel()

    def __del__(self) -> None:
        self._future.cancel()

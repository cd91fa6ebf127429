"""Locks of the embedded engine: between threads, and between processes."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from backend.errors import StoreUnavailableError

_FIRST_POLL_S: Final = 0.000_05
_LAST_POLL_S: Final = 0.002
_TURNSTILE: Final = 0
_WRITER: Final = 1


class Gate:
    """Lets transactions run together, and a change of the memory map run alone.

    Re-entrant for the thread that is inside: a read within a transaction never waits
    for whoever waits for that transaction.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._inside = 0
        self._exclusive = False
        self._held = 0
        self._local = threading.local()

    @property
    def _shut(self) -> bool:
        return self._exclusive or self._held > 0

    @property
    def _depth(self) -> int:
        depth: int = getattr(self._local, "depth", 0)
        return depth

    def enter(self, *, timeout_s: float) -> None:
        """Wait until no one is alone inside, then enter.

        Raises:
            StoreUnavailableError: If that took longer than `timeout_s`.
        """
        depth = self._depth
        with self._changed:
            if self._shut and not depth:
                self._wait_to_enter(timeout_s)
            self._inside += 1
        self._local.depth = depth + 1

    def _wait_to_enter(self, timeout_s: float) -> None:
        if not self._changed.wait_for(lambda: not self._shut, timeout=timeout_s):
            raise StoreUnavailableError(reason="the memory map is being changed")

    def leave(self) -> None:
        """Leave; once for every `enter`."""
        self._local.depth -= 1
        with self._changed:
            self._inside -= 1
            if self._exclusive:
                self._changed.notify_all()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let nobody else enter; those inside go on. Waits for nothing."""
        with self._changed:
            self._held += 1
        try:
            yield
        finally:
            with self._changed:
                self._held -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self, *, patience_s: float) -> Iterator[bool]:
        """Hold the gate alone, once the others have left or `patience_s` has passed.

        Yields whether they have left. Whoever is still inside is older than a
        transaction may be.
        """
        with self._changed:
            while self._exclusive:
                self._changed.wait()
            self._exclusive = True
            own = self._depth
            left = self._changed.wait_for(
                lambda: self._inside <= own, timeout=patience_s
            )
        try:
            yield left
        finally:
            with self._changed:
                self._exclusive = False
                self._changed.notify_all()


class WriterLock:
    """The right to commit, among processes: fair, and given up on at a deadline.

    LMDB's own writer mutex can neither be waited for with a bound nor is it fair; this
    one is taken first. Two POSIX record locks make it fair: who waits for the writer
    holds the turnstile, so the process that has just written queues behind it. The
    kernel releases both when a process dies.

    One thread at a time: the caller holds a lock among its threads.
    """

    def __init__(self, path: Path) -> None:
        """Open the lock file, made when missing, readable by its owner only.

        Record locks are lost when *any* descriptor of the file is closed by the
        process, so nothing else may open `path`.
        """
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def acquire(self, *, deadline_s: float) -> None:
        """Take the lock.

        Raises:
            StoreUnavailableError: If `deadline_s`, on the monotonic clock, has passed.
        """
        self._wait_for(_TURNSTILE, deadline_s)
        try:
            self._wait_for(_WRITER, deadline_s)
        finally:
            self._unlock(_TURNSTILE)

    def release(self) -> None:
        """Give the lock to the next."""
        self._unlock(_WRITER)

    def close(self) -> None:
        """Close the file; an acquired lock is released."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _wait_for(self, offset: int, deadline_s: float) -> None:
        pause_s = _FIRST_POLL_S
        while not self._try_lock(offset):
            if time.monotonic() >= deadline_s:
                reason = "another process has held the right to commit for too long"
                raise StoreUnavailableError(reason=reason)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LAST_POLL_S)

    def _try_lock(self, offset: int) -> bool:
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
        except BlockingIOError:
            return False
        return True

    def _unlock(self, offset: int) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, offset)

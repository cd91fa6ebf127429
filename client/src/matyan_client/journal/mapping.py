"""Preallocated, memory-mapped files.

A store into mapped memory needs no system call and outlives the process: the pages
belong to the kernel. The blocks are reserved first, so a full disk is an `OSError`
here and never a SIGBUS in the middle of a store.

Files hold native integers; only little-endian machines are supported.
"""

from __future__ import annotations

import errno
import mmap
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

Lock = AbstractContextManager[Any]
"""A re-entrant lock: signal handlers and finalizers may track too. They run between any
two steps of the thread that holds it, so the logs put aside what comes in the middle of
a store and store it behind that."""

MAX_NESTED: Final = 1000
"""Of each log, how much is put aside in the middle of one store."""


class NestedOverflowError(OSError):
    """A signal handler or finalizer stores more than is put aside."""

    def __init__(self) -> None:
        super().__init__(errno.EAGAIN, "too much at once from a signal handler")


class Budget:
    """How many bytes a journal may take on disk. Not thread-safe: hold its lock.

    A signal handler that allocates in the middle of `reserve` may go uncounted: a
    segment too much, no more.
    """

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def reserve(self, size: int) -> None:
        """Take `size` bytes.

        Raises:
            OSError: EDQUOT when they do not fit.
        """
        if self.used + size > self.limit:
            raise OSError(errno.EDQUOT, "MATYAN_JOURNAL_MAX_BYTES is reached")
        self.used += size

    def release(self, size: int) -> None:
        """Give `size` bytes back."""
        self.used = max(0, self.used - size)


def create(path: Path, size: int) -> mmap.mmap:
    """Create the file `path` of `size` zero bytes, all reserved, and map it.

    Raises:
        OSError: If the file exists or the blocks cannot be reserved; nothing is left.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _reserve(descriptor, size)
        return mmap.mmap(descriptor, size)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def open_existing(path: Path) -> mmap.mmap:
    """Map an existing file for reading and writing.

    Raises:
        OSError: If it cannot be opened.
        ValueError: If it is empty.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return mmap.mmap(descriptor, 0)
    finally:
        os.close(descriptor)


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    zeros = bytes(64 * 1024)  # macOS has no posix_fallocate: writing reserves
    for start in range(0, size, len(zeros)):
        os.pwrite(descriptor, zeros[: size - start], start)

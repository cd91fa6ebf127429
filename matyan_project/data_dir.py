"""The data directory: one running `up` at a time owns it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType


class DataDirInUseError(Exception):
    """Another process has the directory's lock; the text says which."""


class DataDirLock:
    """An exclusive lock on a data directory, held while the object is open.

    The kernel drops the lock when the process ends, however it ends, so no stale lock
    can remain.

    Raises:
        DataDirInUseError: If another process holds it.
        OSError: If the directory cannot be made or written.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = directory / "up.lock"
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(self._descriptor, 32).decode(errors="replace").strip()
            os.close(self._descriptor)
            msg = (
                f"{directory} is in use by another `manage.py up`"
                f"{f' (process {owner})' if owner else ''}. "
                "Stop that one, or choose another directory with --data-dir."
            )
            raise DataDirInUseError(msg) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def __enter__(self) -> DataDirLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

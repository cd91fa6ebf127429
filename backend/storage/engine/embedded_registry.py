"""The directories this process has open, each once.

LMDB forbids to open a directory twice in a process (the first to close would take the
locks of the other), so all engines of a process on one directory share one environment
and one committer, counted.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from backend.errors import StoreError
from backend.storage.engine.embedded_commit import Committer
from backend.storage.engine.embedded_env import (
    Environment,
    EnvironmentOptions,
    make_directory,
)


@dataclass(slots=True)
class OpenDirectory:
    """What the engines on one directory share."""

    environment: Environment
    committer: Committer
    references: int = 0


class _Registry:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[tuple[int, int], OpenDirectory] = {}

    def acquire(self, path: Path, options: EnvironmentOptions) -> OpenDirectory:
        make_directory(path, options)
        with self._lock:
            status = path.stat()
            identity = (status.st_dev, status.st_ino)
            found = self._open.get(identity)
            if found is None:
                environment = Environment(path.resolve(), options)
                found = OpenDirectory(environment, Committer(environment))
                self._open[identity] = found
            elif found.environment.options.durable != options.durable:
                reason = "already open in this process with another `durable`"
                raise StoreError(path=str(path), reason=reason)
            found.references += 1
            return found

    def release(self, directory: OpenDirectory) -> None:
        with self._lock:
            directory.references -= 1
            if directory.references:
                return
            for identity, known in list(self._open.items()):
                if known is directory:
                    del self._open[identity]
            directory.environment.close()

    def forget_after_fork(self) -> None:
        # The lock may have been held by a thread that does not exist here.
        self._lock = threading.Lock()
        self._open = {}


_registry = _Registry()
os.register_at_fork(after_in_child=_registry.forget_after_fork)


def acquire_directory(path: Path, options: EnvironmentOptions) -> OpenDirectory:
    """Return what this process shares on `path`, opened when it is the first.

    The options of the first opening hold until all have released it.

    Raises:
        NetworkFilesystemError: If the directory is on a network file system.
        StoreFullError: If there is no room to create it.
        StoreUnavailableError: If the directory cannot be used.
        StoreError: If it is open in this process with another `durable`.
    """
    return _registry.acquire(path, options)


def release_directory(directory: OpenDirectory) -> None:
    """Give back what `acquire_directory` returned; the last one closes it."""
    _registry.release(directory)

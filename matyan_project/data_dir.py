"""The data directory: one running `up` owns it, and only its user reads it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from matyan_project import env

_CONTENTS: Final = (
    "secret_key",
    "django.sqlite3*",
    "blobs",
    "health",
    "log",
    "log/**/*.mdb",
    "maintenance",
    "store",
    "store/*.mdb",
    "tasks",
)
"""What processes put there; anything else in it is somebody else's."""


def keep_private(directory: Path) -> None:
    """Let nobody else read what is in a data directory, or is made by this process.

    The directory itself stays as it is: whoever made it may share it on purpose. SQLite
    and LMDB make their files with whatever the umask leaves, so it is the umask that is
    set. Files that another user owns are left alone.
    """
    os.umask(os.umask(0o077) | 0o077)
    for pattern in _CONTENTS:
        for path in directory.glob(pattern):
            _close_to_others(path)


def _close_to_others(path: Path) -> None:
    with contextlib.suppress(OSError):
        mode = path.lstat().st_mode
        if stat.S_IMODE(mode) & 0o077 and not stat.S_ISLNK(mode):
            path.chmod(stat.S_IMODE(mode) & ~0o077)


def missing_store(argv: Sequence[str]) -> str | None:
    """Return why a command cannot look at the configured store; None if it may.

    Asked before there are settings: reading those makes the directory and its secret
    key, which a mistyped directory must not get.
    """
    asks = list(argv[1:3]) == ["store", "verify"]
    if not asks or any(word.startswith("--store") for word in argv):
        return None
    values = env.read()
    if values["MATYAN_STORE_ENGINE"] != "embedded":
        return None
    path = Path(values["MATYAN_DATA_DIR"]).expanduser().absolute() / "store"
    if path.exists():
        return None
    return (
        f"There is no store in {path}: check MATYAN_DATA_DIR, or name one by --store."
    )


class DataDirInUseError(Exception):
    """Another process has the directory's lock; the text says which."""


class DataDirLock:
    """An exclusive lock on a data directory, held while the object is open.

    The kernel drops the lock when the process ends, however it ends, and every child
    that was given `descriptor`: after a kill -9 of the owner, what it had started may
    need some seconds to finish and keeps the lock so long.

    Args:
        directory: The data directory, made if it is missing.
        patience_s: How long to wait for the children of an owner that is gone.
        say: Told, once, that it waits.

    Raises:
        DataDirInUseError: If another process holds it.
        OSError: If the directory cannot be made or written.
    """

    def __init__(
        self,
        directory: Path,
        *,
        patience_s: float = 0.0,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.descriptor = os.open(directory / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._wait(directory, time.monotonic() + patience_s, say)
        except BaseException:
            os.close(self.descriptor)
            raise
        # Only a hint for people: a full disk does not matter.
        with contextlib.suppress(OSError):
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, f"{os.getpid()}\n".encode(), 0)

    def _wait(
        self, directory: Path, deadline_s: float, say: Callable[[str], None]
    ) -> None:
        told = False
        while not _try_lock(self.descriptor):
            owner = os.pread(self.descriptor, 32, 0).decode(errors="replace").strip()
            if _is_alive(owner) or time.monotonic() >= deadline_s:
                msg = (
                    f"{directory} is in use by another `manage.py up`"
                    f"{f' (process {owner})' if owner else ''}. "
                    "Stop that one, or choose another directory with --data-dir."
                )
                raise DataDirInUseError(msg)
            if not told:
                told = True
                say(f"waiting for the processes that `up` (process {owner}) left")
            time.sleep(0.1)

    def __enter__(self) -> DataDirLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self.descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_alive(owner: str) -> bool:
    # Unknown counts as alive: nothing is waited for then.
    try:
        os.kill(int(owner), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError):
        return True
    return True

"""Files below one directory, reached without following symbolic links.

A place is a tuple of names below the directory. Each directory on the way is opened by
itself, so nothing outside can be reached, whatever someone puts into it.

Design note: docs/subsystems/blobs.md#files
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from backend.blobs.base import CHUNK_BYTES
from backend.errors import (
    BlobNotFoundError,
    BlobStoreError,
    BlobStoreFullError,
    BlobStoreUnavailableError,
)

DATA: Final = ".data"
META: Final = ".meta"

READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.\-]{1,128}\Z")
_MAX_META_BYTES: Final = 1 << 16

Names = tuple[str, ...]


class AbsentError(Exception):
    """What was looked for is not there, or is no plain file or directory."""


class FileTree:
    """The directory.

    Args:
        path: Where it is.
        durable: Whether what is written is synced.
    """

    def __init__(self, path: Path, *, durable: bool) -> None:
        self.path = path
        self.durable = durable

    @contextlib.contextmanager
    def directory(self, names: Names, *, make: bool = False) -> Iterator[int]:
        """Give a descriptor of a directory, made on the way with `make`.

        Raises:
            AbsentError: If it is not there, or something on the way is no directory.
        """
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in names:
                if make:
                    self._make_directory(name, fd)
                inner = open_at(fd, name, _DIRECTORY)
                os.close(fd)
                fd = inner
            yield fd
        finally:
            os.close(fd)

    def _make_directory(self, name: str, parent: int) -> None:
        try:
            os.mkdir(name, dir_fd=parent)
        except FileExistsError:
            return
        except FileNotFoundError as error:
            raise AbsentError(name) from error
        if self.durable:
            os.fsync(parent)

    def entries(self, names: Names) -> list[tuple[str, bool]]:
        """Return a directory's entries, and which are directories; links left out."""
        with (
            contextlib.suppress(AbsentError),
            self.directory(names) as fd,
            os.scandir(fd) as entries,
        ):
            return [
                (entry.name, entry.is_dir(follow_symlinks=False))
                for entry in entries
                if not entry.is_symlink()
            ]
        return []

    def remove_empty(self, names: Names, *, keep: int) -> None:
        """Remove directories that have become empty, the innermost first.

        Args:
            names: The innermost.
            keep: How many of the outermost stay.
        """
        for depth in range(len(names), keep, -1):
            with self.directory(names[: depth - 1]) as fd:
                try:
                    os.rmdir(names[depth - 1], dir_fd=fd)
                except OSError:
                    return

    def write_small(self, directory: int, name: str, value: dict[str, Any]) -> None:
        """Write a small JSON file, in place of any other, whole or not at all."""
        draft = f".{secrets.token_hex(8)}"
        fd = os.open(draft, NEW, 0o600, dir_fd=directory)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(json.dumps(value).encode())
                file.flush()
                if self.durable:
                    os.fsync(file.fileno())
            os.replace(draft, name, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(draft, dir_fd=directory)
            raise


def open_at(directory: int, name: str, flags: int = READ) -> int:
    """Return a descriptor of an existing file or directory.

    Raises:
        AbsentError: If it is not there, or is a link.
    """
    try:
        return os.open(name, flags, dir_fd=directory)
    except OSError as error:
        if error.errno in _ABSENT:
            raise AbsentError(name) from error
        raise


def read_small(directory: int, name: str) -> dict[str, Any]:
    """Return the object in a small JSON file, {} if there is none or it is none."""
    try:
        with os.fdopen(open_at(directory, name), "rb") as file:
            found = json.loads(file.read(_MAX_META_BYTES))
    except (AbsentError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def iter_file(file: Any, *, count: int) -> Iterator[bytes]:
    """Yield the next `count` bytes of an unbuffered file.

    Raises:
        BlobStoreError: If there are fewer.
    """
    while count > 0:
        with translated():
            chunk = file.read(min(CHUNK_BYTES, count))
        if not chunk:
            raise BlobStoreError(reason="the file has become shorter")
        count -= len(chunk)
        yield chunk


def is_plain(component: str) -> bool:
    """Return whether every file system takes this component, and none confuses it."""
    return bool(_PLAIN.match(component)) and not component.endswith((DATA, META))


def stored_names(components: Names) -> Names:
    """Return what the components of a key are called in the directory."""
    return tuple(
        component if is_plain(component) else _hashed(component)
        for component in components
    )


def joined(known: str | None, stored_name: str, end: str) -> str | None:
    """Return the key so far with a stored name added, None once a hash hides it."""
    if known is None or stored_name.startswith("~"):
        return None
    return known + stored_name + end


def _hashed(component: str) -> str:
    return "~" + hashlib.sha256(component.encode()).hexdigest()


@contextlib.contextmanager
def translated(**fields: Any) -> Iterator[None]:
    """Turn what the operating system says into this layer's errors.

    With `fields`, what is absent is a `BlobNotFoundError` of them.
    """
    try:
        yield
    except AbsentError as error:
        if fields:
            raise BlobNotFoundError(**fields) from error
        reason = "the directory has been removed"
        raise BlobStoreUnavailableError(path=str(error), reason=reason) from error
    except OSError as error:
        reason = error.strerror or str(error)
        path = str(error.filename or "")
        if error.errno in _FULL:
            raise BlobStoreFullError(path=path, reason=reason) from error
        raise BlobStoreUnavailableError(path=path, reason=reason) from error

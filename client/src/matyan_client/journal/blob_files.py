"""The bytes an upload will need, kept until it is done.

Bytes are written to a file of the journal. Of a user's file the journal keeps what is
possible first:

- a copy that shares the file's blocks (where the file system can): costs nothing;
- a copy, up to `MATYAN_UPLOAD_COPY_MAX_BYTES`;
- a second name of the file (hard link): outlives its deletion and its replacement under
  the old name, but not a change in place;
- nothing: the file is uploaded from where it is.

In the last two cases size, time and inode tell whether it was changed meanwhile.

Design note: docs/subsystems/sdk.md#uploads
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

DIRECTORY: Final = "blobs"
CHUNK_BYTES: Final = 1024 * 1024

_FICLONE: Final = 0x40049409


class FileState(NamedTuple):
    """What changes when a file's content does, short of somebody hiding it."""

    size: int
    mtime_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, descriptor: int) -> FileState:
        """Return the state of an open file.

        Raises:
            OSError: If it cannot be asked.
        """
        found = os.fstat(descriptor)
        return cls(found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev)


class Kept(NamedTuple):
    """What the journal holds of a file.

    Attributes:
        name: Its name in the journal's `blobs` directory, "" if nothing is held.
        state: Of the file the bytes will be read from.
        digest: SHA-256 of a copy, hexadecimal; "" if it was not read.
        reserved: Bytes it takes of the journal's budget.
    """

    name: str
    state: FileState
    digest: str
    reserved: int


def blob_path(journal: Path, name: str) -> Path:
    """Return where the journal holds the bytes called `name`."""
    return journal / DIRECTORY / name


def keep_bytes(journal: Path, name: str, data: bytes) -> Kept:
    """Write `data` into the journal.

    Raises:
        OSError: If there is no room; nothing is left then.
    """
    path = _made(journal, name)
    with _created(path) as target:
        target.write(data)
        target.flush()
        state = FileState.of(target.fileno())
    return Kept(name, state, sha256(data).hexdigest(), len(data))


def keep_file(
    journal: Path,
    name: str,
    source: Path,
    *,
    copy_max_bytes: int,
    reserve: Callable[[int], bool],
) -> Kept:
    """Keep what the journal can of a user's file.

    Args:
        journal: The journal.
        name: Of the copy.
        source: The file.
        copy_max_bytes: Largest file that is copied byte by byte.
        reserve: Takes bytes of the budget; False if they are not there.

    Raises:
        OSError: If the file cannot be read.
    """
    with source.open("rb") as file:
        state = FileState.of(file.fileno())
        if not reserve(state.size):
            return Kept("", state, "", 0)
        path = _made(journal, name)
        if _clone(file.fileno(), path):
            return Kept(name, _state_of(path), "", state.size)
        if state.size <= copy_max_bytes:
            copied = _copy(file.fileno(), path, state)
            if copied is not None:
                return Kept(name, *copied, state.size)
        try:
            os.link(source.resolve(), path)
        except OSError:  # another file system, or not ours to link
            return Kept("", state, "", state.size)
        return Kept(name, state, "", state.size)


def _made(journal: Path, name: str) -> Path:
    path = blob_path(journal, name)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    return path


@contextmanager
def _created(path: Path) -> Generator[BinaryIO, None, None]:
    """A new file, removed again if writing it fails."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _clone(descriptor: int, path: Path) -> bool:
    try:
        with _created(path) as target:
            fcntl.ioctl(target.fileno(), _FICLONE, descriptor)
    except OSError:
        return False
    return True


def _copy(
    descriptor: int, path: Path, state: FileState
) -> tuple[FileState, str] | None:
    """Copy a file and return state and digest of the copy; None if that fails.

    It fails too when the file changes meanwhile: a copy of two halves is no file.
    """
    digest = sha256()
    try:
        with _created(path) as target:
            at = 0
            while chunk := os.pread(descriptor, CHUNK_BYTES, at):
                target.write(chunk)
                digest.update(chunk)
                at += len(chunk)
            target.flush()
            copied = FileState.of(target.fileno())
    except OSError:
        return None
    if FileState.of(descriptor) != state:
        path.unlink(missing_ok=True)
        return None
    return copied, digest.hexdigest()


def _state_of(path: Path) -> FileState:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return FileState.of(descriptor)
    finally:
        os.close(descriptor)

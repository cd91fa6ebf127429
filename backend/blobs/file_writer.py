"""One file being written: aside first, then moved where it belongs.

Design note: docs/subsystems/blobs.md#files
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from dataclasses import dataclass
from typing import Any, Final

from typing_extensions import override

from backend.blobs.base import DEFAULT_CONTENT_TYPE, BlobStat, BlobWriter
from backend.blobs.file_tree import (
    DATA,
    META,
    NEW,
    AbsentError,
    FileTree,
    Names,
    translated,
)
from backend.errors import BlobLengthError, BlobTooLargeError

INCOMING: Final = ("incoming",)

_ATTEMPTS: Final = 10
"""A directory may be removed, being empty, while another process is about to use it."""


@dataclass(frozen=True, slots=True)
class Destination:
    """What a file is to become.

    Attributes:
        names: Its place, without suffix.
        key: The blob's key.
        content_type: Kept with it.
        max_bytes: Most bytes it may have, None for no bound.
        exact: Whether it must have exactly that many.
        make_directories: Whether its directory is made; else it must be there.
    """

    names: Names
    key: str
    content_type: str = DEFAULT_CONTENT_TYPE
    max_bytes: int | None = None
    exact: bool = False
    make_directories: bool = True


class FileWriter(BlobWriter):
    """Writes one file.

    Raises:
        BlobStoreError: On making one, if the directory cannot be written.
    """

    def __init__(self, tree: FileTree, destination: Destination) -> None:
        self._tree = tree
        self._destination = destination
        self._hash = hashlib.sha256()
        self._size = 0
        self._draft = secrets.token_hex(16)
        with translated(), tree.directory(INCOMING) as fd:
            self._fd = os.open(self._draft, NEW, 0o600, dir_fd=fd)

    @override
    def expect(self, size: int) -> None:
        limit = self._destination.max_bytes
        if limit is not None and size > limit:
            raise BlobTooLargeError(limit=limit)
        if self._destination.exact and size != limit:
            raise BlobLengthError(size=size, expected=limit)

    @override
    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        self._size += len(chunk)
        limit = self._destination.max_bytes
        if limit is not None and self._size > limit:
            raise BlobTooLargeError(limit=limit)
        self._hash.update(chunk)
        rest = memoryview(chunk)
        with translated():
            while rest:
                rest = rest[os.write(self._fd, rest) :]

    @override
    def commit(self) -> BlobStat:
        wanted = self._destination
        if wanted.exact and self._size != wanted.max_bytes:
            raise BlobLengthError(size=self._size, expected=wanted.max_bytes)
        checksum = f"sha256:{self._hash.hexdigest()}"
        with translated(key=wanted.key):
            if self._tree.durable:
                os.fsync(self._fd)
            mtime_ns = os.fstat(self._fd).st_mtime_ns
            os.close(self._fd)
            self._fd = -1
            self._place(
                {
                    "key": wanted.key,
                    "size": self._size,
                    "checksum": checksum,
                    "content_type": wanted.content_type,
                    "mtime_ns": mtime_ns,
                }
            )
        return BlobStat(self._size, checksum, wanted.content_type)

    def _place(self, meta: dict[str, Any]) -> None:
        attempts = _ATTEMPTS if self._destination.make_directories else 1
        for attempt in range(1, attempts + 1):
            try:
                self._move(meta)
            except (AbsentError, FileNotFoundError) as error:
                if attempt == attempts:
                    raise AbsentError(self._destination.key) from error
            else:
                return

    def _move(self, meta: dict[str, Any]) -> None:
        *parents, name = self._destination.names
        make = self._destination.make_directories
        with (
            self._tree.directory(INCOMING) as source,
            self._tree.directory(tuple(parents), make=make) as target,
        ):
            # First the description: it says which data it is about, so an old file
            # beside a new description is not taken for what it describes.
            self._tree.write_small(target, name + META, meta)
            os.replace(self._draft, name + DATA, src_dir_fd=source, dst_dir_fd=target)
            if self._tree.durable:
                os.fsync(target)

    @override
    def abort(self) -> None:
        with contextlib.suppress(OSError, AbsentError):
            if self._fd >= 0:
                fd, self._fd = self._fd, -1
                os.close(fd)
            with self._tree.directory(INCOMING) as directory:
                os.unlink(self._draft, dir_fd=directory)

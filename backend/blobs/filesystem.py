"""Blobs as plain files of one directory, uploaded to this server.

    <path>/runs/<component>/…/<component>.data     the bytes, as they came
                            …/<component>.meta     JSON: key, size, checksum, type
    <path>/incoming/<random>                       being written
    <path>/multipart/<upload id>/<number>.data     parts that have arrived

Components that a file system might not take or not tell apart (long, not ASCII, odd
characters) are replaced by "~" and their SHA-256; the .meta file has the key.

A blob is written to `incoming`, synced and renamed, so it is there completely or not at
all.

Design note: docs/subsystems/blobs.md#files
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat as stat_module
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from typing_extensions import override

from backend.blobs.base import (
    DEFAULT_CONTENT_TYPE,
    DELETE_BATCH,
    MAX_PARTS,
    UPLOAD_PATH,
    BlobEntry,
    BlobStat,
    BlobStore,
    BlobWriter,
    OpenBlob,
    Part,
    ReceivesUploads,
    UploadTicket,
    check_parts,
)
from backend.blobs.file_tree import (
    DATA,
    META,
    NEW,
    AbsentError,
    FileTree,
    Names,
    is_plain,
    iter_file,
    joined,
    open_at,
    read_small,
    stored_names,
    translated,
)
from backend.blobs.file_writer import INCOMING, Destination, FileWriter
from backend.blobs.keys import check_key, check_prefix
from backend.blobs.signing import UploadGrant, UploadTokens
from backend.errors import (
    BlobKeyError,
    BlobNotFoundError,
    BlobStoreFullError,
    MultipartNotFoundError,
)

MIN_FREE_BYTES: Final = 64 << 20
"""With less room than this the store says it is full, in `check`."""

RUNS: Final = "runs"
MULTIPART: Final = "multipart"
_HEAD: Final = "upload.json"
_UPLOAD_ID: Final = re.compile(r"[0-9a-f]{32}\Z")


def _now_us() -> int:
    return time.time_ns() // 1000


class FilesystemBlobStore(BlobStore, ReceivesUploads):
    """Blobs in a directory of a local file system; see the module.

    Processes may share the directory.

    Args:
        path: The directory; made if missing.
        secret: Signs upload addresses; the same in every process.
        durable: False leaves out fsync, for tests.
        now_us: The clock, microseconds since the epoch.

    Raises:
        BlobStoreUnavailableError: If the directory cannot be made.
    """

    def __init__(
        self,
        *,
        path: str,
        secret: str,
        durable: bool = True,
        now_us: Callable[[], int] = _now_us,
    ) -> None:
        self._tree = FileTree(Path(path), durable=durable)
        self._tokens = UploadTokens(secret)
        self._now_us = now_us
        with translated():
            for name in (RUNS, *INCOMING, MULTIPART):
                (self._tree.path / name).mkdir(parents=True, exist_ok=True)

    # --- uploads by clients ----------------------------------------------------------

    @override
    def presign_upload(
        self,
        key: str,
        *,
        max_bytes: int,
        content_type: str,
        expires_s: int,
        exact: bool = False,
    ) -> UploadTicket:
        check_key(key)
        return self._ticket(
            UploadGrant(key, max_bytes, self._end_us(expires_s), content_type, exact)
        )

    @override
    def presign_part(
        self, key: str, upload_id: str, number: int, *, size: int, expires_s: int
    ) -> UploadTicket:
        check_key(key)
        if not 1 <= number <= MAX_PARTS:
            raise BlobKeyError(key=str(number), reason=f"parts are 1 to {MAX_PARTS}")
        return self._ticket(
            UploadGrant(
                key,
                size,
                self._end_us(expires_s),
                exact=True,
                upload_id=upload_id,
                part=number,
            )
        )

    @override
    def place_of(self, token: str) -> str:
        grant = self._tokens.decode(token, now_us=self._now_us())
        return f"{grant.key} {grant.upload_id} {grant.part}"

    @override
    def receive(self, token: str) -> BlobWriter:
        grant = self._tokens.decode(token, now_us=self._now_us())
        if not grant.upload_id:
            destination = Destination(
                _place_of(grant.key),
                grant.key,
                grant.content_type or DEFAULT_CONTENT_TYPE,
                grant.max_bytes,
                grant.exact,
            )
            return FileWriter(self._tree, destination)
        self._check_upload(grant.key, grant.upload_id)
        destination = Destination(
            _place_of_part(grant.upload_id, grant.part),
            grant.key,
            max_bytes=grant.max_bytes,
            exact=True,
            make_directories=False,
        )
        return FileWriter(self._tree, destination)

    @override
    def start_multipart(self, key: str, *, content_type: str) -> str:
        check_key(key)
        upload_id = secrets.token_hex(16)
        with (
            translated(),
            self._tree.directory((MULTIPART, upload_id), make=True) as fd,
        ):
            head = {"key": key, "content_type": content_type}
            self._tree.write_small(fd, _HEAD, head)
        return upload_id

    @override
    def list_parts(self, key: str, upload_id: str) -> list[Part]:
        self._check_upload(key, upload_id)
        place = (MULTIPART, upload_id)
        with translated(key=key):
            names = [name for name, _ in self._tree.entries(place)]
            with self._tree.directory(place) as fd:
                parts = [
                    Part(
                        int(name.removesuffix(DATA)),
                        os.stat(name, dir_fd=fd, follow_symlinks=False).st_size,
                    )
                    for name in names
                    if name.endswith(DATA)
                ]
        return sorted(parts, key=lambda part: part.number)

    @override
    def complete_multipart(self, key: str, upload_id: str, *, size: int) -> BlobStat:
        try:
            head = self._check_upload(key, upload_id)
        except MultipartNotFoundError:
            known = self.stat(key)
            if known is None or known.size != size:
                raise
            return known
        parts = self.list_parts(key, upload_id)
        check_parts(parts, size=size)
        chunks = self._iter_parts(upload_id, parts)
        stored = self.put(key, chunks, content_type=str(head.get("content_type", "")))
        self.abort_multipart(key, upload_id)
        return stored

    @override
    def abort_multipart(self, key: str, upload_id: str) -> None:
        with contextlib.suppress(MultipartNotFoundError):
            self._check_upload(key, upload_id)
            self._remove_upload(upload_id)

    # --- this server -----------------------------------------------------------------

    @override
    def put(
        self,
        key: str,
        chunks: Iterable[bytes],
        *,
        content_type: str = DEFAULT_CONTENT_TYPE,
        max_bytes: int | None = None,
    ) -> BlobStat:
        destination = Destination(_place_of(key), key, content_type, max_bytes)
        writer = FileWriter(self._tree, destination)
        try:
            for chunk in chunks:
                writer.write(chunk)
            return writer.commit()
        finally:
            writer.abort()

    @override
    def stat(self, key: str) -> BlobStat | None:
        try:
            with self._opened(key) as (_, stat):
                return stat
        except BlobNotFoundError:
            return None

    @override
    def open(self, key: str, *, start: int = 0, stop: int | None = None) -> OpenBlob:
        with self._opened(key) as (fd, stat):
            file = os.fdopen(os.dup(fd), "rb", buffering=0)
        end = stat.size if stop is None else min(max(stop, 0), stat.size)
        begin = min(max(start, 0), end)
        file.seek(begin)
        chunks = iter_file(file, count=end - begin)
        return OpenBlob(stat, chunks, start=begin, stop=end, close=file.close)

    @override
    def delete(self, key: str) -> None:
        *parents, name = _place_of(key)
        with translated(), contextlib.suppress(AbsentError):
            with self._tree.directory(tuple(parents)) as fd:
                for suffix in (DATA, META):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(name + suffix, dir_fd=fd)
            self._tree.remove_empty(tuple(parents), keep=1)

    @override
    def iter_entries(self, prefix: str = "") -> Iterator[BlobEntry]:
        components = check_prefix(prefix)
        known = prefix if all(map(is_plain, components)) else None
        pending = [((RUNS, *stored_names(components)), known)]
        while pending:
            place, known = pending.pop()
            with translated():
                entries = self._tree.entries(place)
            for name, is_directory in entries:
                if is_directory:
                    pending.append(((*place, name), joined(known, name, "/")))
                elif name.endswith(DATA):
                    entry = self._entry(place, name.removesuffix(DATA), known)
                    if entry is not None and entry.key.startswith(prefix):
                        yield entry

    @override
    def delete_prefix(
        self,
        prefix: str,
        *,
        max_blobs: int = DELETE_BATCH,
        condemned: Callable[[str], bool] = lambda _key: True,
    ) -> int:
        removed = super().delete_prefix(
            prefix, max_blobs=max_blobs, condemned=condemned
        )
        if removed < max_blobs:
            # What was killed between a file and its directory has left that.
            self._prune((RUNS, *stored_names(check_prefix(prefix))))
        return removed

    @override
    def abort_uploads(
        self, prefix: str, *, condemned: Callable[[str], bool] = lambda _key: True
    ) -> int:
        check_prefix(prefix)
        removed = 0
        with translated():
            uploads = [name for name, _ in self._tree.entries((MULTIPART,))]
        for upload_id in uploads:
            key = self._head(upload_id).get("key")
            if isinstance(key, str) and key.startswith(prefix) and condemned(key):
                self._remove_upload(upload_id)
                removed += 1
        return removed

    @override
    def abort_stale(self, *, older_than_s: float) -> int:
        limit_ns = self._now_us() * 1000 - int(older_than_s * 1e9)
        removed = 0
        with translated():
            for draft in (self._tree.path / INCOMING[0]).iterdir():
                if draft.lstat().st_mtime_ns < limit_ns:
                    draft.unlink(missing_ok=True)
                    removed += 1
            for upload in (self._tree.path / MULTIPART).iterdir():
                # A part that arrives changes its directory's time.
                if upload.lstat().st_mtime_ns < limit_ns:
                    self._remove_upload(upload.name)
                    removed += 1
        return removed

    @override
    def check(self) -> None:
        with translated(), self._tree.directory(INCOMING) as fd:
            name = f".check-{secrets.token_hex(8)}"
            os.close(os.open(name, NEW, 0o600, dir_fd=fd))
            os.unlink(name, dir_fd=fd)
            free = os.fstatvfs(fd)
        if free.f_bavail * free.f_frsize < MIN_FREE_BYTES:
            path = str(self._tree.path)
            raise BlobStoreFullError(path=path, reason="less than 64 MiB left")

    @override
    def display_uri(self, key: str) -> str:
        *parents, name = _place_of(key)
        return self._tree.path.absolute().joinpath(*parents, name + DATA).as_uri()

    @override
    def close(self) -> None:
        """Nothing is kept open."""

    # --- inside ----------------------------------------------------------------------

    def _end_us(self, expires_s: int) -> int:
        return self._now_us() + expires_s * 1_000_000

    def _ticket(self, grant: UploadGrant) -> UploadTicket:
        return UploadTicket(UPLOAD_PATH + self._tokens.encode(grant))

    @contextlib.contextmanager
    def _opened(self, key: str) -> Iterator[tuple[int, BlobStat]]:
        """Give a descriptor of a blob's file, and what is known of it.

        Raises:
            BlobNotFoundError: If there is none.
        """
        *parents, name = _place_of(key)
        with translated(key=key), self._tree.directory(tuple(parents)) as directory:
            fd = open_at(directory, name + DATA)
            try:
                yield fd, _stat(fd, read_small(directory, name + META))
            finally:
                os.close(fd)

    def _entry(self, place: Names, name: str, known: str | None) -> BlobEntry | None:
        with (
            translated(),
            contextlib.suppress(AbsentError, FileNotFoundError),
            self._tree.directory(place) as fd,
        ):
            stat = os.stat(name + DATA, dir_fd=fd, follow_symlinks=False)
            key = joined(known, name, "") or read_small(fd, name + META).get("key")
            if isinstance(key, str):
                return BlobEntry(key, stat.st_size, stat.st_mtime_ns // 1000)
        return None

    def _check_upload(self, key: str, upload_id: str) -> dict[str, Any]:
        """Return the head of an upload in parts.

        Raises:
            MultipartNotFoundError: If there is none of this key.
        """
        check_key(key)
        head = self._head(upload_id)
        if head.get("key") != key:
            raise MultipartNotFoundError(upload_id=upload_id[:64])
        return head

    def _head(self, upload_id: str) -> dict[str, Any]:
        """Return what is known of an upload in parts, {} if there is none."""
        if _UPLOAD_ID.match(upload_id):
            with (
                translated(),
                contextlib.suppress(AbsentError),
                self._tree.directory((MULTIPART, upload_id)) as fd,
            ):
                return read_small(fd, _HEAD)
        return {}

    def _prune(self, place: Names) -> None:
        """Remove the directories at and below a place that are empty."""
        pending, found = [place], []
        with translated(), contextlib.suppress(AbsentError):
            while pending:
                found.append(pending.pop())
                for name, is_directory in self._tree.entries(found[-1]):
                    if is_directory:
                        pending.append((*found[-1], name))
        # The innermost first, and never the root.
        for names in reversed(found):
            if len(names) == 1:
                break
            with translated(), contextlib.suppress(AbsentError):
                self._tree.remove_empty(names, keep=len(names) - 1)

    def _iter_parts(self, upload_id: str, parts: list[Part]) -> Iterator[bytes]:
        for part in parts:
            *parents, name = _place_of_part(upload_id, part.number)
            with translated(), self._tree.directory(tuple(parents)) as directory:
                file = os.fdopen(open_at(directory, name + DATA), "rb", buffering=0)
            with file:
                yield from iter_file(file, count=part.size)

    def _remove_upload(self, upload_id: str) -> None:
        with translated(), contextlib.suppress(AbsentError):
            names = [name for name, _ in self._tree.entries((MULTIPART, upload_id))]
            with self._tree.directory((MULTIPART, upload_id)) as fd:
                # The head last: until it is gone the upload can still be aborted.
                for name in sorted(names):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=fd)
            self._tree.remove_empty((MULTIPART, upload_id), keep=1)


def _place_of(key: str) -> Names:
    return (RUNS, *stored_names(check_key(key)))


def _place_of_part(upload_id: str, number: int) -> Names:
    return (MULTIPART, upload_id, f"{number:05d}")


def _stat(fd: int, meta: dict[str, Any]) -> BlobStat:
    found = os.fstat(fd)
    if not stat_module.S_ISREG(found.st_mode):
        raise AbsentError
    described = meta.get("size"), meta.get("mtime_ns")
    fits = described == (found.st_size, found.st_mtime_ns)
    return BlobStat(
        found.st_size,
        str(meta.get("checksum", "")) if fits else "",
        str(meta.get("content_type", DEFAULT_CONTENT_TYPE)),
    )

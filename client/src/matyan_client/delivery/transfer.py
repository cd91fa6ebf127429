"""One upload, from the file to the store, in one try.

A file of more than `MULTIPART_BYTES` goes in parts where the server takes them; which
have arrived is asked of the server, so that a try goes on where the last one ended,
even another process's. What is sent is hashed on the way, and compared with what the
store says it holds; a file that is not as it was registered is not uploaded.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from matyan_client.delivery.blob_gateway import (
    Arrived,
    BlobGateway,
    Parts,
    Stored,
    UploadFailedError,
    UploadRejectedError,
)
from matyan_client.journal import blob_files
from matyan_client.journal.blob_files import FileState
from matyan_client.journal.uploads import Entry, Upload

MULTIPART_BYTES: Final = 64 * 1024 * 1024
CHUNK_BYTES: Final = 256 * 1024
PART_TRIES: Final = 3

FILE_CHANGED: Final = "file_changed"
FILE_VANISHED: Final = "file_vanished"


class LostSourceError(Exception):
    """The bytes are not there any more.

    Attributes:
        reason: Under which this is counted.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class StoppedError(Exception):
    """The upload was interrupted by its owner."""


@dataclass(frozen=True)
class Transfer:
    """What an upload works with.

    Attributes:
        run_id: The run.
        directory: The journal.
        gateway: Where to ask.
        on_sent: Called with how many bytes of the upload have been sent so far.
        stopping: Whether to interrupt it.
    """

    run_id: str
    directory: Path
    gateway: BlobGateway
    on_sent: Callable[[int], None]
    stopping: Callable[[], bool]

    def run(self, entry: Entry) -> None:
        """Upload one entry.

        Raises:
            UploadFailedError, UploadRejectedError, UploadRefusedError: As their names
                say.
            LostSourceError: If the file was changed or is gone.
            StoppedError: If it was interrupted.
        """
        upload = entry.upload
        descriptor = self._open(upload)
        try:
            token = self._read_token(entry)
            if token is None or not self._resume(entry, descriptor, token):
                self._begin(entry, descriptor)
        finally:
            os.close(descriptor)
        self._token_path(entry).unlink(missing_ok=True)

    # One PUT.

    def _begin(self, entry: Entry, descriptor: int) -> None:
        upload = entry.upload
        permit = self.gateway.presign(
            self.run_id,
            upload.path,
            content_type=upload.content_type,
            size=upload.size,
            in_parts=upload.size > MULTIPART_BYTES,
        )
        if permit.multipart is not None:
            self._write_token(entry, permit.multipart.upload)
            self._send_parts(entry, descriptor, permit.multipart, arrived=())
            return
        digest = sha256()
        stored = self.gateway.put(
            permit.upload_url or "",
            permit.headers,
            self._iter_chunks(descriptor, upload, 0, upload.size, digest.update),
            size=upload.size,
            content_type=upload.content_type,
        )
        self._check(descriptor, upload, stored, digest.hexdigest())

    # Parts.

    def _resume(self, entry: Entry, descriptor: int, token: str) -> bool:
        """Go on with an upload in parts; False when the server does not know it."""
        try:
            found: Arrived = self.gateway.arrived(token)
            parts = Parts(token, found.part_bytes, found.count)
            self._send_parts(entry, descriptor, parts, arrived=found.parts)
        except UploadRejectedError:
            self._token_path(entry).unlink(missing_ok=True)
            return False
        return True

    def _send_parts(
        self,
        entry: Entry,
        descriptor: int,
        parts: Parts,
        *,
        arrived: tuple[int, ...] | list[int],
    ) -> None:
        upload = entry.upload
        digest = sha256()
        known = frozenset(arrived)
        for number in range(1, parts.count + 1):
            start = (number - 1) * parts.part_bytes
            stop = min(upload.size, start + parts.part_bytes)
            # Read even when it has arrived: the whole is compared at the end.
            before = digest.copy()
            if number in known:
                for _ in self._iter_chunks(
                    descriptor, upload, start, stop, digest.update
                ):
                    pass
                continue
            for tries_left in reversed(range(PART_TRIES)):
                digest = before.copy()
                try:
                    ticket = self.gateway.sign_part(parts.upload, number)
                    self.gateway.put(
                        ticket.upload_url,
                        ticket.headers,
                        self._iter_chunks(
                            descriptor, upload, start, stop, digest.update
                        ),
                        size=stop - start,
                        content_type=upload.content_type,
                    )
                    break
                except UploadFailedError:
                    if not tries_left:
                        raise
        stored = self.gateway.complete(parts.upload)
        self._check(descriptor, upload, stored, digest.hexdigest())

    def _token_path(self, entry: Entry) -> Path:
        return blob_files.blob_path(self.directory, f"{entry.index}.parts")

    def _read_token(self, entry: Entry) -> str | None:
        try:
            return self._token_path(entry).read_text(encoding="ascii") or None
        except (OSError, ValueError):
            return None

    def _write_token(self, entry: Entry, token: str) -> None:
        # Without it another process begins anew: no reason to fail.
        path = self._token_path(entry)
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.with_suffix(".partial").write_text(token, encoding="ascii")
            path.with_suffix(".partial").replace(path)

    # The file.

    def _open(self, upload: Upload) -> int:
        path = (
            blob_files.blob_path(self.directory, upload.kept)
            if upload.kept
            else Path(upload.source)
        )
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            msg = f"{_name(upload)} is gone"
            raise LostSourceError(FILE_VANISHED, msg) from error
        except OSError as error:
            msg = f"{_name(upload)} cannot be read: {error}"
            raise LostSourceError(FILE_VANISHED, msg) from error
        try:
            _check_state(descriptor, upload)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _iter_chunks(
        self,
        descriptor: int,
        upload: Upload,
        start: int,
        stop: int,
        hashed: Callable[[bytes], None],
    ) -> Iterator[bytes]:
        at = start
        while at < stop:
            if self.stopping():
                raise StoppedError
            chunk = os.pread(descriptor, min(CHUNK_BYTES, stop - at), at)
            if not chunk:
                raise _changed(upload)
            hashed(chunk)
            yield chunk
            at += len(chunk)
            self.on_sent(at)

    def _check(
        self, descriptor: int, upload: Upload, stored: Stored, digest: str
    ) -> None:
        """Compare what was read with what was registered and with what is stored."""
        _check_state(descriptor, upload)
        if upload.sha256 and upload.sha256 != digest:
            raise _changed(upload)
        kind, _, told = stored.checksum.partition(":")
        if kind == "sha256" and told != digest:
            msg = f"{upload.path} arrived with other content than it was sent with"
            raise UploadRejectedError(msg)
        if stored.size is not None and stored.size != upload.size:
            msg = f"{upload.path} arrived with {stored.size} of {upload.size} bytes"
            raise UploadRejectedError(msg)


def _check_state(descriptor: int, upload: Upload) -> None:
    if FileState.of(descriptor) != upload.state:
        raise _changed(upload)


def _changed(upload: Upload) -> LostSourceError:
    msg = f"{_name(upload)} was changed after it was logged"
    return LostSourceError(FILE_CHANGED, msg)


def _name(upload: Upload) -> str:
    return upload.source or f"the content of {upload.path} in the local log"

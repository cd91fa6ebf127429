"""The uploads of a journal: what is to be uploaded, and what has been.

Two logs of checksummed records: `uploads` in the order they were asked for, and
`uploaded` with what became of each. An upload is finished in this order: its `BlobRef`
goes to the events, its outcome to `uploaded`, the bytes kept for it are deleted. A
process killed in between uploads it again, which is harmless.

Design note: docs/subsystems/sdk.md#uploads
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from matyan_client.journal import blob_files, mapping
from matyan_client.journal.blob_files import FileState, Kept
from matyan_client.journal.records import RecordReader, RecordWriter, find_end
from matyan_wire.batch import BlobRef

UPLOADS: Final = "uploads"
UPLOADED: Final = "uploaded"
SEGMENT_BYTES: Final = 64 * 1024


class Upload(msgspec.Struct, array_like=True, frozen=True):
    """Bytes that are to be uploaded.

    Attributes:
        path: The run's path of the blob.
        size: Bytes.
        content_type: Stored with the blob.
        kept: Name of the journal's own file or link, "" if there is none.
        source: The user's file, "" for bytes from memory.
        mtime_ns, inode, device: Of the file that will be read, when it was registered.
        sha256: Of the content, hexadecimal; "" if it was not read yet.
        reserved: Bytes it takes of the journal's budget.
    """

    path: str
    size: int
    content_type: str
    kept: str
    source: str
    mtime_ns: int
    inode: int
    device: int
    sha256: str = ""
    reserved: int = 0

    @property
    def state(self) -> FileState:
        """The state the file must have."""
        return FileState(self.size, self.mtime_ns, self.inode, self.device)


class Outcome(msgspec.Struct, array_like=True, frozen=True):
    """What became of an upload.

    Attributes:
        index: Which one, its index in the log `uploads`.
        problem: "" if it is uploaded, else why it never will be.
    """

    index: int
    problem: str = ""


@dataclass(frozen=True)
class Entry:
    """An upload and its index."""

    index: int
    upload: Upload


_upload_decoder: Final = msgspec.msgpack.Decoder(Upload)
_outcome_decoder: Final = msgspec.msgpack.Decoder(Outcome)
_encoder: Final = msgspec.msgpack.Encoder()


class UploadWriter:
    """Registers uploads. Thread-safe.

    Args:
        directory: The journal, or None when there is none: everything is refused.
        budget: Shared with the journal's logs; guarded by `lock`.
        lock: The journal's lock; not held while bytes are written.
        on_refused: As `RecordWriter` takes it.
    """

    def __init__(
        self,
        directory: Path | None,
        *,
        budget: mapping.Budget,
        lock: mapping.Lock,
        on_refused: Callable[[OSError], None],
    ) -> None:
        self._directory = directory
        self._budget = budget
        self._lock = lock
        self._files = itertools.count(1)
        self._log = RecordWriter(
            directory,
            UPLOADS,
            budget=budget,
            lock=lock,
            segment_bytes=SEGMENT_BYTES,
            on_refused=on_refused,
        )

    @property
    def end(self) -> int:
        """Index after the last upload."""
        with self._lock:
            return self._log.end

    def add_bytes(self, path: str, data: bytes, *, content_type: str) -> int:
        """Register bytes; they are in the journal when this returns its index.

        Raises:
            OSError: If there is no room.
        """
        directory, name = self._open()
        with self._lock:
            self._budget.reserve(len(data))
        try:
            kept = blob_files.keep_bytes(directory, name, data)
        except BaseException:
            self.release(len(data))
            raise
        return self._add(path, kept, content_type=content_type, source="")

    def add_file(
        self, path: str, source: Path, *, content_type: str, copy_max_bytes: int
    ) -> int:
        """Register a file, return its index; see `blob_files` for what is kept.

        Raises:
            OSError: If it cannot be read, or there is no room for the record.
        """
        directory, name = self._open()
        kept = blob_files.keep_file(
            directory,
            name,
            source,
            copy_max_bytes=copy_max_bytes,
            reserve=self._try_reserve,
        )
        if not kept.name and kept.reserved:
            self.release(kept.reserved)
            kept = kept._replace(reserved=0)
        return self._add(path, kept, content_type=content_type, source=str(source))

    def _open(self) -> tuple[Path, str]:
        if self._directory is None:
            msg = "there is no journal"
            raise FileNotFoundError(msg)
        return self._directory, f"{next(self._files):012d}"

    def _add(self, path: str, kept: Kept, *, content_type: str, source: str) -> int:
        upload = Upload(
            path=path,
            size=kept.state.size,
            content_type=content_type,
            kept=kept.name,
            source=source,
            mtime_ns=kept.state.mtime_ns,
            inode=kept.state.inode,
            device=kept.state.device,
            sha256=kept.digest,
            reserved=kept.reserved,
        )
        try:
            return self._log.append(_encoder.encode(upload))
        except BaseException:
            self._drop(kept)
            raise

    def _drop(self, kept: Kept) -> None:
        if kept.name and self._directory is not None:
            blob_files.blob_path(self._directory, kept.name).unlink(missing_ok=True)
        self.release(kept.reserved)

    def _try_reserve(self, size: int) -> bool:
        try:
            with self._lock:
                self._budget.reserve(size)
        except OSError:
            return False
        return True

    def release(self, size: int) -> None:
        """Give bytes of the budget back."""
        with self._lock:
            self._budget.release(size)

    def forget_before(self, index: int) -> None:
        """Delete the records before `index`: they are finished."""
        self._log.forget_before(index)

    def close(self) -> None:
        """Unmap; further uploads are refused."""
        with self._lock:
            self._log.close()
            self._directory = None


class UploadQueue:
    """The uploads of a journal that are not finished. Used under its user's lock.

    Args:
        directory: The journal.
        append_event: Stores an event in the journal; raises OSError if it cannot.
        outcomes: The log `uploaded`.
        limit: End of the log `uploads` when this process writes it, else None.
        done: Indices that are finished already.
        on_finished: Called with each finished upload, after its record.
    """

    def __init__(  # noqa: PLR0913 - the parts of a journal it works on
        self,
        directory: Path,
        *,
        append_event: Callable[[BlobRef], object],
        outcomes: RecordWriter,
        limit: Callable[[], int] | None = None,
        done: frozenset[int] = frozenset(),
        on_finished: Callable[[Upload, int], None] = lambda _upload, _before: None,
    ) -> None:
        self.directory = directory
        self._append_event = append_event
        self._outcomes = outcomes
        self._log = RecordReader(directory, UPLOADS, limit=limit)
        self._done = set(done)
        self._on_finished = on_finished
        self._before = 0
        self._referred: set[int] = set()

    @property
    def damaged(self) -> int:
        """Registered uploads that could not be read back."""
        return self._log.lost

    @property
    def position(self) -> int:
        """Index after the last upload taken or found to be finished."""
        return self._log.position

    def take(self) -> Entry | None:
        """Return the next upload to be done, in order; None when there is none yet."""
        while (record := self._log.take()) is not None:
            if record.index not in self._done:
                return Entry(record.index, _upload_decoder.decode(record.payload))
        return None

    def has_more(self) -> bool:
        """Return whether `take` would find one."""
        while (record := self._log.peek()) is not None:
            if record.index not in self._done:
                return True
            self._log.take()
        return False

    def finish(self, entry: Entry, *, run_id: str, problem: str = "") -> None:
        """Store what became of an upload. May be called again after it failed.

        Raises:
            OSError: If the journal has no room for it.
        """
        upload = entry.upload
        if not problem and entry.index not in self._referred:
            key = f"{run_id}/{upload.path}"
            self._append_event(BlobRef(upload.path, key, upload.content_type))
            self._referred.add(entry.index)
        self._outcomes.append(_encoder.encode(Outcome(entry.index, problem)))
        self._referred.discard(entry.index)
        self._done.add(entry.index)
        while self._before in self._done:
            self._done.discard(self._before)
            self._before += 1
        if upload.kept:
            with contextlib.suppress(OSError):
                blob_files.blob_path(self.directory, upload.kept).unlink()
        self._on_finished(upload, self._before)

    def close(self) -> None:
        """Unmap."""
        self._outcomes.close()


def find_done(directory: Path) -> tuple[frozenset[int], int]:
    """Return the indices of finished uploads, and the end of the log `uploaded`."""
    reader = RecordReader(directory, UPLOADED)
    done: set[int] = set()
    while (record := reader.take()) is not None:
        done.add(_outcome_decoder.decode(record.payload).index)
    return frozenset(done), reader.position


def has_uploads(directory: Path) -> bool:
    """Return whether a journal ever had an upload."""
    return find_end(directory, UPLOADS) > 0

"""The owner's side of a journal: everything a run says goes through here.

Thread-safe. Nothing here raises because of the disk: what cannot be stored is counted
with its reason, and said once on stderr.
"""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from matyan_client import console
from matyan_client.journal import directory as directories
from matyan_client.journal import mapping
from matyan_client.journal.ledger import Ledger
from matyan_client.journal.points import CAPACITY, PointWriter, SeriesState
from matyan_client.journal.records import RecordWriter
from matyan_client.journal.uploads import UPLOADED, Upload, UploadQueue, UploadWriter
from matyan_wire.batch import (
    AddTag,
    BlobRef,
    CreateRun,
    DeleteAttributes,
    FinishRun,
    RemoveTag,
    SeriesRef,
    SetAttributes,
    SetProperties,
)

EVENTS: Final = "events"
SERIES: Final = "series"
NESTED_FULL: Final = "nested_full"


class ObjectPoint(msgspec.Struct, array_like=True, tag="object"):
    """A point whose value is an object, as the journal holds it.

    `series` is the journal's number of the series; `payload` is MessagePack.
    """

    series: int
    step: int
    time_us: int
    payload: bytes
    epoch: float


JournalEvent = (
    ObjectPoint
    | CreateRun
    | FinishRun
    | SetAttributes
    | DeleteAttributes
    | SetProperties
    | AddTag
    | RemoveTag
    | BlobRef
)

_encoder = msgspec.msgpack.Encoder()


class JournalWriter:
    """One writer's journal.

    Args:
        path: An existing directory of its own, or None to refuse everything.
        max_bytes: Disk it may take.
        capacity: Points per segment.

    Attributes:
        path: The directory, or None.
        lock: Held while something is stored; see `mapping.Lock`.
        points: The metric points.
        uploads: Where uploads are registered.
    """

    def __init__(
        self, path: Path | None, *, max_bytes: int, capacity: int = CAPACITY
    ) -> None:
        self.path = path
        self.lock = threading.RLock()
        budget = mapping.Budget(max_bytes)
        self.points = PointWriter(
            path, budget=budget, lock=self.lock, capacity=capacity
        )
        self._series = RecordWriter(
            path, SERIES, budget=budget, lock=self.lock, on_refused=self._refuse
        )
        self._events = RecordWriter(
            path, EVENTS, budget=budget, lock=self.lock, on_refused=self._refuse
        )
        self.uploads = UploadWriter(
            path, budget=budget, lock=self.lock, on_refused=self._refuse
        )
        self._outcomes = RecordWriter(
            path, UPLOADED, budget=budget, lock=self.lock, segment_bytes=16 * 1024
        )
        self._held: directories.JournalLock | None = None
        self._refused: dict[str, list[int]] = {}
        self._object_points = 0
        self._first_segment = 0

    @classmethod
    def create(
        cls,
        state_dir: Path,
        meta: directories.Meta,
        *,
        max_bytes: int,
        capacity: int = CAPACITY,
    ) -> JournalWriter:
        """Return a new journal, one that refuses everything if the disk does."""
        path: Path | None = None
        try:
            path = directories.make_directory(
                state_dir, run_id=meta.run_id, writer=meta.writer
            )
            held = directories.JournalLock.acquire(path)
            Ledger(path).close()
            directories.write_meta(path, meta)
        except OSError as error:
            console.warn(
                f"no journal can be kept under {state_dir} ({error.strerror or error}):"
                f" run {meta.run_id} is NOT recorded. Free space, or set MATYAN_DIR to "
                "a directory that can be written."
            )
            if path is not None:
                directories.remove(path)
            return cls(None, max_bytes=0)
        journal = cls(path, max_bytes=max_bytes, capacity=capacity)
        journal._held = held
        return journal

    @property
    def events_end(self) -> int:
        """Index after the last event."""
        with self.lock:
            return self._events.end

    @property
    def series_end(self) -> int:
        """Index after the last series definition."""
        with self.lock:
            return self._series.end

    @property
    def uploads_end(self) -> int:
        """Index after the last upload."""
        return self.uploads.end

    @property
    def accepted(self) -> int:
        """Points stored: metric values and objects."""
        with self.lock:
            return self.points.end + self._object_points

    def refused(self) -> dict[str, int]:
        """Return how many points and events were refused, by reason."""
        with self.lock:
            refused = {reason: tally[0] for reason, tally in self._refused.items()}
            for reason, count in (
                (refusal_reason(self.points.refusal), self.points.refused),
                (NESTED_FULL, self.points.overflowed),
            ):
                if count:
                    refused[reason] = refused.get(reason, 0) + count
            return refused

    def define_series(self, ref: SeriesRef, *, counts: bool) -> SeriesState | None:
        """Store a series definition; None when there is no room for it."""
        with self.lock:
            try:
                number = self._series.append(_encoder.encode(ref)) + 1
            except OSError as error:
                self._refuse(error)
                return None
            return SeriesState(number, counts=counts)

    def append_event(self, event: JournalEvent) -> bool:
        """Store an event; return whether there was room for it."""
        with self.lock:
            try:
                self._events.append(_encoder.encode(event))
            except OSError as error:
                self._refuse(error)
                return False
            return True

    def append_object(
        self, series: SeriesState, step: int | None, epoch: float, value: Any
    ) -> bool:
        """Store an object point; return whether there was room for it.

        Args:
            series: Its series.
            step: Its place; None for the series' next.
            epoch: The training epoch, NaN for none.
            value: Encoded already, or plain data.

        Raises:
            ValueError: If `step` does not fit 64 bits.
        """
        if step is not None and not -(2**63) <= step < 2**63:
            msg = f"step {step} does not fit 64 bits"
            raise ValueError(msg)
        payload = value if isinstance(value, bytes) else _encoder.encode(value)
        time_us = time.time_ns() // 1000

        def place() -> int:
            return series.next_step if step is None else step

        def encode() -> bytes:
            point = ObjectPoint(series.number, place(), time_us, payload, epoch)
            return _encoder.encode(point)

        def on_stored() -> None:
            self._object_points += 1
            if series.counts and place() >= series.next_step:
                series.next_step = place() + 1

        with self.lock:
            try:
                self._events.append_encoded(encode, on_stored)
            except OSError as error:
                self._refuse(error)
                return False
            return True

    def append_upload(
        self, path: str, content: bytes | Path, *, content_type: str, copy_max: int
    ) -> int | None:
        """Register an upload of bytes or of a file; return its index.

        None when there is no room for it.

        Raises:
            OSError: If the file cannot be read.
        """
        if isinstance(content, Path):
            content.open("rb").close()  # what is the file's fault is the caller's
        try:
            if isinstance(content, Path):
                return self.uploads.add_file(
                    path, content, content_type=content_type, copy_max_bytes=copy_max
                )
            return self.uploads.add_bytes(path, content, content_type=content_type)
        except OSError as error:
            with self.lock:
                self._refuse(error)
            return None

    def upload_queue(self) -> UploadQueue | None:
        """Return what takes the uploads from here, None when there is no journal."""
        if self.path is None:
            return None
        return UploadQueue(
            self.path,
            append_event=self._append_reference,
            outcomes=self._outcomes,
            limit=lambda: self.uploads.end,
            on_finished=self._finished_upload,
        )

    def _append_reference(self, reference: BlobRef) -> None:
        with self.lock:
            self._events.append(_encoder.encode(reference))

    def _finished_upload(self, upload: Upload, before: int) -> None:
        self.uploads.release(upload.reserved)
        self.uploads.forget_before(before)

    def _refuse(self, error: OSError) -> None:
        # No call between reading and writing the count: nothing comes in between.
        self._refused.setdefault(refusal_reason(error), [0])[0] += 1

    def forget(self, *, points: int, events: int) -> None:
        """Delete what lies before those indexes: it is acknowledged."""
        self._first_segment = self.points.forget_before(
            points, first=self._first_segment
        )
        self._events.forget_before(events)

    def close(self, *, remove: bool = False) -> None:
        """Unmap everything and give up the lock; further points are refused."""
        self.points.close()
        self._series.close()
        self._events.close()
        self.uploads.close()
        self._outcomes.close()
        if remove and self.path is not None:
            directories.remove(self.path)
        if self._held is not None:
            self._held.abandon()

    def abandon(self) -> None:
        """Let go of a parent's journal in a forked child, touching nothing of it."""
        if self._held is not None:
            self._held.abandon()


def refusal_reason(error: OSError | None) -> str:
    """Return the short name under which a refusal is counted."""
    if error is None:
        return "unknown"
    if isinstance(error, mapping.NestedOverflowError):
        return NESTED_FULL
    if error.errno == errno.EDQUOT:
        return "journal_full"
    if error.errno in (errno.ENOSPC, errno.EFBIG):
        return "disk_full"
    return "no_journal" if isinstance(error, FileNotFoundError) else "disk_error"

"""The uploads of a journal whose owner is gone, and the logs they go on in.

The caller holds the journal's lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from matyan_client.journal import records
from matyan_client.journal.records import RecordWriter
from matyan_client.journal.uploads import UPLOADED, UploadQueue, find_done, has_uploads
from matyan_client.journal.writer import EVENTS
from matyan_wire.batch import BlobRef

_encoder = msgspec.msgpack.Encoder()


class AdoptedUploads:
    """What is left of a dead process's uploads.

    Args:
        directory: The journal.
        events_start: Index at which the next event may stand at the earliest: the end
            of the last frame whose bounds are fixed.

    Attributes:
        queue: The uploads that are not finished.
        events_end: Gives the end of the events from now on; None when none can come.
    """

    def __init__(self, directory: Path, *, events_start: int) -> None:
        lock = threading.RLock()
        done, outcomes_end = find_done(directory)
        outcomes = records.adopt(directory, UPLOADED, end=outcomes_end, lock=lock)
        self.events_end: Callable[[], int] | None = None
        self._events: RecordWriter | None = None
        if has_uploads(directory):
            found = records.find_end(directory, EVENTS)
            events = records.adopt(
                directory, EVENTS, end=max(found, events_start), lock=lock
            )
            self._events = events
            self.events_end = lambda: events.end
        self.queue = UploadQueue(
            directory, append_event=self._append, outcomes=outcomes, done=done
        )

    def _append(self, reference: BlobRef) -> None:
        if self._events is None:
            msg = "a journal without uploads"
            raise RuntimeError(msg)
        self._events.append(_encoder.encode(reference))

    def close(self) -> None:
        """Unmap."""
        self.queue.close()
        if self._events is not None:
            self._events.close()

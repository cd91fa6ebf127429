"""The writing side of a run: its series, and what goes into its journal.

Thread-safe and fork-safe: a child gets a writer id and a journal of its own at its
first write, lets the store number its steps, and never finishes the parent's run.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from matyan_client import _env, artifacts, console, lifecycle
from matyan_client.delivery import orphans
from matyan_client.delivery.sender import Progress
from matyan_client.delivery.uploads import progress_text
from matyan_client.journal.points import SeriesState
from matyan_client.journal.writer import JournalEvent
from matyan_client.media import Media
from matyan_client.objects import encode_stored
from matyan_client.outlet import Delivery, Opening, Outlet, Settings
from matyan_client.reading import Watermark
from matyan_client.series_refs import Context, check_name, context_text
from matyan_wire.batch import AUTO_STEP, METRIC, CreateRun, FinishRun, SeriesRef

LOG_RECORDS: Final = "__log_records"

_MAX_CACHED_SERIES: Final = 1_000_000


class RunWriter:
    """Writes one run from this process.

    Args:
        opening: The run and how it is opened.

    Raises:
        ValueError: If a setting cannot be used.
    """

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._settings = Settings.read()
        self._copy_max_bytes = _env.UPLOAD_COPY_MAX_BYTES.get()
        sweep = _env.SYNC_ORPHANS.get()
        self._lock = threading.RLock()
        self._plain: dict[str, SeriesState] = {}
        self._in_context: dict[tuple[Any, ...], SeriesState] = {}
        self._by_ref: dict[tuple[str, str, str], SeriesState] = {}
        self._counts = not opening.resumed
        self._forked = False
        self._closed = False
        self._outlet: Outlet | None = None
        self._open()
        lifecycle.register(self)
        now_us = time.time_ns() // 1000
        self.write(CreateRun(now_us, opening.force_resume))
        if sweep:
            orphans.sweep_in_background(
                self._settings.state_dir, lender=opening.endpoints
            )

    # Writing.

    def track(  # noqa: PLR0913, PLR0917 - called for every point: no packing
        self,
        value: float,
        name: Any,
        step: int | None,
        epoch: float,
        context: Context | None,
        time_us: int,
    ) -> None:
        """Store one metric point.

        Raises:
            TypeError, ValueError: If an argument cannot be used.
            RuntimeError: If the run is closed.
        """
        try:
            # Only contexts of plain text are found here: 1, True and 1.0 are one key.
            series = (
                self._plain[name]
                if context is None
                else self._in_context[(name, *context.items())]
            )
        except (KeyError, TypeError, AttributeError):
            found = self._find_metric(name, context)
            if found is None:
                return
            series = found
        self._append(series, step, value, epoch, time_us)

    def _find_metric(self, name: Any, context: Context | None) -> SeriesState | None:
        series = self.series(METRIC, name, context)
        if series is None:
            return None
        if len(self._in_context) + len(self._plain) > _MAX_CACHED_SERIES:
            self._plain.clear()
            self._in_context.clear()
        if context is None:
            self._plain[name] = series
        elif all(type(value) is str for value in context.values()):
            self._in_context[(name, *context.items())] = series
        return series

    def series(
        self, kind: str, name: Any, context: Context | None
    ) -> SeriesState | None:
        """Return the state of a series, defining it at its first use.

        None when there is no room on disk; that is counted.

        Raises:
            TypeError, ValueError: If name or context cannot be used.
            RuntimeError: If the run is closed.
        """
        ref = SeriesRef(kind, check_name(name), context_text(context))
        key = (ref.kind, ref.name, ref.context)
        with self._lock:
            outlet = self._open()
            series = self._by_ref.get(key)
            if series is None:
                series = outlet.journal.define_series(ref, counts=self._counts)
                if series is None:
                    outlet.warn_refused()
                    return None
                # A signal handler may have defined it meanwhile, and counts its steps.
                series = self._by_ref.setdefault(key, series)
            return series

    def write(self, event: JournalEvent) -> None:
        """Store an event.

        Raises:
            RuntimeError: If the run is closed.
        """
        with self._lock:
            outlet = self._open()
            if not outlet.journal.append_event(event):
                outlet.warn_refused()

    def write_object(  # noqa: PLR0913 - the columns of a point
        self,
        kind: str,
        name: Any,
        value: Any,
        *,
        step: int | None = None,
        epoch: float = math.nan,
        context: Context | None = None,
    ) -> None:
        """Store an object point; `value` is encoded already or is plain data.

        Raises:
            TypeError, ValueError: If name or context cannot be used.
            RuntimeError: If the run is closed.
        """
        series = self.series(kind, name, context)
        if series is None:
            return
        self._append_object(series, step, epoch, value)

    def _append_object(
        self, series: SeriesState, step: int | None, epoch: float, value: Any
    ) -> None:
        outlet = self._open()
        if not outlet.journal.append_object(series, step, epoch, value):
            outlet.warn_refused()

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Store a log record; the store numbers them.

        Raises:
            RuntimeError: If the run is closed.
        """
        self.write_object("log_records", LOG_RECORDS, dict(record), step=AUTO_STEP)

    def write_media(  # noqa: PLR0913 - the columns of a point
        self,
        name: Any,
        items: list[Media],
        *,
        is_list: bool,
        step: int | None = None,
        epoch: float = math.nan,
        context: Context | None = None,
    ) -> None:
        """Store an object point whose bytes are uploaded, or a list of them.

        Raises:
            TypeError, ValueError: If name or context cannot be used.
            RuntimeError: If the run is closed.
        """
        kind = items[0].kind
        series = self.series(kind, name, context)
        if series is None:
            return
        text = context_text(context)
        counted = series.next_step if step is None else step
        shown = None if counted == AUTO_STEP else counted
        values: list[dict[str, Any]] = []
        for item in items:
            path = artifacts.object_path(
                name, text, kind=kind, step=shown, file_format=item.format
            )
            key = f"{self._opening.run_id}/{path}"
            values.append({**item.json(), "s3_key": key})
            if self._upload(path, item.data, item.content_type) is None:
                return
        payload = encode_stored(values if is_list else values[0])
        self._append_object(series, step, epoch, payload)
        self._wake_uploader()

    def write_file(self, path: str, source: Path, *, content_type: str) -> int | None:
        """Have a file uploaded as `path`; return the upload's index.

        None when there is no room for it; that is counted.

        Raises:
            OSError: If the file cannot be read.
            RuntimeError: If the run is closed.
        """
        index = self._upload(path, source.absolute(), content_type)
        self._wake_uploader()
        return index

    def _upload(
        self, path: str, content: bytes | Path, content_type: str
    ) -> int | None:
        outlet = self._open()
        index = outlet.journal.append_upload(
            path, content, content_type=content_type, copy_max=self._copy_max_bytes
        )
        if index is None:
            outlet.warn_refused()
        return index

    def _wake_uploader(self) -> None:
        if self._outlet is not None and self._outlet.uploader is not None:
            self._outlet.uploader.wake()

    def wait_uploaded(self, indices: list[int], *, stall_s: float) -> int:
        """Wait until some uploads are done or refused; return how many are done.

        Args:
            indices: As `write_file` returns them.
            stall_s: Gives up when nothing has got on for so long; then 0 is returned.
        """
        uploader = self._outlet.uploader if self._outlet else None
        if uploader is None or not indices:
            return 0
        first, stop = min(indices), max(indices) + 1
        line = console.ProgressLine()
        began = time.monotonic()

        def over() -> bool:
            progress = uploader.progress
            line.show(progress_text(progress))
            return time.monotonic() - max(began, progress.moved_at) > stall_s

        done = uploader.wait(first, stop, over=over)
        line.clear()
        return len(indices) - uploader.count_refused(first, stop) if done else 0

    # The way out.

    def _open(self) -> Outlet:
        if self._closed:
            msg = f"run {self._opening.run_id} is closed"
            raise RuntimeError(msg)
        if self._outlet is None:
            self._outlet = Outlet(self._opening, self._settings)
            self._append = self._outlet.journal.points.append
        return self._outlet

    def wait_connected(self, timeout_s: float) -> Progress:
        """Wait until a connection is open or refused; return how it stands."""
        if self._outlet is None:
            return Progress()
        return self._outlet.wait_connected(timeout_s)

    @property
    def delivery(self) -> Delivery:
        """How far the data has come."""
        if self._outlet is not None:
            return self._outlet.delivery
        return Delivery(address=str(self._opening.endpoints.backend))

    def position(self) -> tuple[str, int, int]:
        """Return the writer's id, and epoch and seq of the last acknowledged frame."""
        return self._outlet.position() if self._outlet else ("", 0, 0)

    def note_watermark(self, found: Watermark) -> None:
        """Note what the store says of this writer's data."""
        if self._outlet is not None:
            self._outlet.note_watermark(found)

    def count_dropped_lines(self, count: int) -> None:
        """Count lines of output that came faster than they were read. One thread."""
        if self._outlet is not None:
            self._outlet.count_dropped_lines(count)

    def flush(self, *, timeout_s: float, uploads: bool = True) -> bool:
        """Wait until the server holds all that was written before, uploads too."""
        return self._outlet is None or self._outlet.flush(
            timeout_s=timeout_s, uploads=uploads
        )

    # The end.

    def close(self, *, timeout_s: float) -> None:
        """Finish the run and deliver what is left, within the budget. Idempotent."""
        with self._lock:
            if self._closed:
                return
            if not self._forked:
                self.write(FinishRun(time.time_ns() // 1000))
            self._closed = True
            self._plain.clear()
            self._in_context.clear()
        lifecycle.unregister(self)
        if self._outlet is not None:
            self._outlet.close(timeout_s=timeout_s)

    def at_exit(self) -> None:
        """Close, at the end of the process."""
        try:
            self.close(timeout_s=10.0)
        except Exception as error:  # noqa: BLE001 - the exit goes on
            console.say(f"run {self._opening.run_id} did not close: {error!r}")

    def after_fork_in_child(self) -> None:
        """Let go of the parent's journal; the child's begins at its first write."""
        self._lock = threading.RLock()
        if self._outlet is not None:
            self._outlet.abandon()
        self._outlet = None
        self._plain, self._in_context, self._by_ref = {}, {}, {}
        self._counts = False
        self._forked = True

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def forked(self) -> bool:
        """Whether this is a child's copy."""
        return self._forked

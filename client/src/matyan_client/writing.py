"""The writing side of a run: series, journal and sender held together.

Thread-safe and fork-safe: a child gets a writer id and a journal of its own at its
first write, lets the store number its steps, and never finishes the parent's run.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from matyan_client import _env, artifacts, attributes, console, lifecycle
from matyan_client.delivery import orphans
from matyan_client.delivery.blob_gateway import BlobGateway
from matyan_client.delivery.frames import Ends, FrameCutter
from matyan_client.delivery.gateway import Gateway
from matyan_client.delivery.sender import Progress, Sender
from matyan_client.delivery.uploads import Uploader, UploadProgress, progress_text
from matyan_client.journal import directory as directories
from matyan_client.journal.ledger import Cut, Ledger
from matyan_client.journal.points import SeriesState
from matyan_client.journal.writer import JournalEvent, JournalWriter
from matyan_client.media import Media
from matyan_client.objects import encode_stored
from matyan_client.reading import RunReader, Watermark
from matyan_client.rest import TIMEOUT_S
from matyan_client.urls import BaseUrl, Endpoints
from matyan_wire.batch import AUTO_STEP, METRIC, CreateRun, FinishRun, SeriesRef
from matyan_wire.contexts import canonical_context
from matyan_wire.limits import MAX_CONTEXT_BYTES, MAX_SERIES_NAME_BYTES

Context = Mapping[str, Any]

PATIENCE_S: Final = 3.0
"""Of close()'s budget, how much may pass without any connection."""

LOG_RECORDS: Final = "__log_records"
TERMINAL_FULL: Final = "terminal_full"
RUN_DELETED: Final = "run deleted on the server"
"""Under this name everything acknowledged counts as dropped once that is known."""

ASK_STORE_S: Final = 2.0
"""How long `close` waits to hear whether the run is still there."""

_MAX_CACHED_SERIES: Final = 1_000_000

_abandoned: list[object] = []
"""Of a parent, in a forked child: never closed there."""


@dataclass(frozen=True)
class Delivery:
    """How far a writer's data has come; a snapshot, read without any input or output.

    Attributes:
        accepted: Points stored in the local log: they outlive the process.
        sent: Of these, points handed to a connection at least once.
        acknowledged: Of these, points the server's event log holds durably.
        durable: Of these, points the store is known to hold; `wait_durable` asks. None
            of a run that was deleted on the server.
        dropped: Points and events that could not be stored or were refused, and lines
            of output that could not be kept, by reason.
        connected: Whether a connection is open.
        problem: Why there is none, or what the server refused last; None when well.
        address: Where it is sent to.
        journal: The local log, None when there is none.
        uploads: Files and objects' bytes handed over for upload.
        uploaded: Of these, those the blob store holds.
        uploaded_bytes: Their bytes.
        pending_uploads: Neither done nor refused yet.
    """

    accepted: int
    sent: int
    acknowledged: int
    durable: int
    dropped: Mapping[str, int]
    connected: bool
    problem: str | None
    address: str
    journal: Path | None
    uploads: int = 0
    uploaded: int = 0
    uploaded_bytes: int = 0
    pending_uploads: int = 0

    @property
    def pending(self) -> int:
        """Points accepted and not acknowledged yet."""
        return self.accepted - self.acknowledged


@dataclass(frozen=True)
class Opening:
    """How a run is opened.

    Attributes:
        run_id: The run.
        endpoints: Where its data goes.
        resumed: Whether it may exist already: the store then numbers steps.
        force_resume: What `create_run` says.
    """

    run_id: str
    endpoints: Endpoints
    resumed: bool
    force_resume: bool


class RunWriter:
    """Writes one run from this process.

    Args:
        opening: The run and how it is opened.

    Raises:
        ValueError: If a setting cannot be used.
    """

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._state_dir = _env.state_dir()
        self._max_bytes = _env.JOURNAL_MAX_BYTES.get()
        self._copy_max_bytes = _env.UPLOAD_COPY_MAX_BYTES.get()
        sweep = _env.SYNC_ORPHANS.get()
        self._interval_s = max(0.005, _env.FLUSH_INTERVAL_S.get())
        self._lock = threading.RLock()
        self._plain: dict[str, SeriesState] = {}
        self._in_context: dict[tuple[Any, ...], SeriesState] = {}
        self._by_ref: dict[tuple[str, str, str], SeriesState] = {}
        self._counts = not opening.resumed
        self._forked = False
        self._closed = False
        self._durable = 0
        self._dropped_lines = 0
        self._deleted_us: int | None = None
        self._asked = not opening.resumed
        self._writer_id = ""
        self._ledger: Ledger | None = None
        self._sender: Sender | None = None
        self._uploader: Uploader | None = None
        self._journal: JournalWriter | None = None
        self._open()
        lifecycle.register(self)
        now_us = time.time_ns() // 1000
        self.write(CreateRun(now_us, opening.force_resume))
        if sweep:
            orphans.sweep_in_background(self._state_dir, lender=opening.endpoints)

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
            journal = self._open()
            series = self._by_ref.get(key)
            if series is None:
                series = journal.define_series(ref, counts=self._counts)
                if series is None:
                    self._warn_refused()
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
            if not self._open().append_event(event):
                self._warn_refused()

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
        if not self._open().append_object(series, step, epoch, value):
            self._warn_refused()

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
        if not self._open().append_object(series, step, epoch, payload):
            self._warn_refused()
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
        index = self._open().append_upload(
            path, content, content_type=content_type, copy_max=self._copy_max_bytes
        )
        if index is None:
            self._warn_refused()
        return index

    def _wake_uploader(self) -> None:
        if self._uploader is not None:
            self._uploader.wake()

    def wait_uploaded(self, indices: list[int], *, stall_s: float) -> int:
        """Wait until some uploads are done or refused; return how many are done.

        Args:
            indices: As `write_file` returns them.
            stall_s: Gives up when nothing has got on for so long; then 0 is returned.
        """
        uploader = self._uploader
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

    def count_dropped_lines(self, count: int) -> None:
        """Count lines of output that came faster than they were read. One thread."""
        self._dropped_lines += count
        console.warn(
            f"run {self._opening.run_id}: this program prints faster than its output "
            f"can be kept; lines are missing from the run's log and counted "
            f"(run.delivery.dropped, {TERMINAL_FULL!r}).",
            key=f"lines dropped {self._opening.run_id}",
        )

    def _warn_refused(self) -> None:
        journal = self._journal
        for reason in journal.refused() if journal else ():
            console.warn(
                f"run {self._opening.run_id}: the local log under {self._state_dir} "
                f"cannot grow ({reason}); what is tracked now is dropped and counted "
                "(run.delivery.dropped). Free space, raise MATYAN_JOURNAL_MAX_BYTES, "
                "or make the server reachable.",
                key=f"refused locally {self._opening.run_id} {reason}",
            )

    # The journal and its sender.

    def _open(self) -> JournalWriter:
        if self._closed:
            msg = f"run {self._opening.run_id} is closed"
            raise RuntimeError(msg)
        if self._journal is None:
            self._journal = self._start_journal()
            self._append = self._journal.points.append
        return self._journal

    def _start_journal(self) -> JournalWriter:
        opening = self._opening
        self._writer_id = directories.new_writer()
        meta = directories.Meta(
            run_id=opening.run_id,
            writer=self._writer_id,
            backend_url=str(opening.endpoints.backend),
            frontier_url=str(opening.endpoints.frontier or ""),
            ca_bundle=opening.endpoints.backend.tls.ca_bundle,
            verify_tls=opening.endpoints.backend.tls.verify,
            boot_id=directories.boot_id(),
            process_id=os.getpid(),
            created_us=time.time_ns() // 1000,
        )
        journal = JournalWriter.create(self._state_dir, meta, max_bytes=self._max_bytes)
        if journal.path is not None:
            self._start_sender(journal, journal.path)
        return journal

    def _start_sender(self, journal: JournalWriter, path: Path) -> None:
        backend = self._opening.endpoints.backend
        frontier = self._opening.endpoints.frontier
        uploader = self._make_uploader(journal, backend, frontier)
        self._ledger = Ledger(path)
        self._sender = Sender(
            run_id=self._opening.run_id,
            cutter=FrameCutter(
                path,
                run_id=self._opening.run_id,
                writer=self._writer_id,
                ledger=self._ledger,
                ends=Ends(
                    points=lambda: journal.points.end,
                    events=lambda: journal.events_end,
                    series=lambda: journal.series_end,
                ),
            ),
            ledger=self._ledger,
            gateway=Gateway(backend=backend, frontier=frontier),
            interval_s=self._interval_s,
            on_tick=self._tick,
            on_acknowledged=lambda cut: self._acknowledged(journal, cut),
            expecting=lambda: uploader is not None and not uploader.idle(),
        )
        self._sender.start()

    def _acknowledged(self, journal: JournalWriter, cut: Cut) -> None:
        journal.forget(points=cut.points, events=cut.events)
        if not self._asked:
            # Once: an id that is used again may be that of a deleted run.
            self._asked = True
            threading.Thread(
                target=self._ask_store, name="matyan-durable", daemon=True
            ).start()

    def _ask_store(self, timeout_s: float = TIMEOUT_S) -> None:
        backend = self._opening.endpoints.backend
        reader = RunReader(self._opening.run_id, backend)
        found = reader.watermark(self._writer_id, timeout_s=timeout_s)
        reader.close()
        if found is not None:
            self.note_watermark(found)

    def _make_uploader(
        self, journal: JournalWriter, backend: BaseUrl, frontier: BaseUrl | None
    ) -> Uploader | None:
        queue = journal.upload_queue()
        if queue is not None:
            self._uploader = Uploader(
                run_id=self._opening.run_id,
                queue=queue,
                gateway=BlobGateway(backend=backend, frontier=frontier),
            )
        return self._uploader

    def _tick(self) -> None:
        journal = self._journal
        if journal is None:
            return
        journal.points.prepare()
        if journal.points.refused:
            self._warn_refused()

    def wait_connected(self, timeout_s: float) -> Progress:
        """Wait until a connection is open or refused; return how it stands."""
        sender = self._sender
        if sender is None:
            return Progress(problem="no local log can be kept")
        sender.wait_connected(timeout_s)
        return sender.progress

    @property
    def delivery(self) -> Delivery:
        """How far the data has come."""
        journal, sender = self._journal, self._sender
        progress = sender.progress if sender else Progress()
        uploading = self._uploader.progress if self._uploader else UploadProgress()
        uploads = journal.uploads_end if journal else 0
        dropped = journal.refused() if journal else {}
        if self._dropped_lines:
            dropped[TERMINAL_FULL] = self._dropped_lines
        if deleted := self._count_deleted(progress):
            dropped[RUN_DELETED] = deleted
        for refused in (progress.refused, uploading.refused):
            for reason, count in refused.items():
                dropped[reason] = dropped.get(reason, 0) + count
        return Delivery(
            accepted=journal.accepted if journal else 0,
            sent=progress.sent,
            acknowledged=progress.acknowledged,
            durable=0 if self._deleted_us is not None else self._durable,
            dropped=dropped,
            connected=progress.connected,
            problem=self._deletion() or progress.problem or uploading.problem,
            address=progress.address or str(self._opening.endpoints.backend),
            journal=journal.path if journal else None,
            uploads=uploads,
            uploaded=uploading.uploaded,
            uploaded_bytes=uploading.uploaded_bytes,
            pending_uploads=uploads
            - uploading.uploaded
            - sum(uploading.refused.values()),
        )

    def position(self) -> tuple[str, int, int]:
        """Return the writer's id, and epoch and seq of the last acknowledged frame."""
        last = self._sender.progress.last if self._sender else None
        return (self._writer_id, last.epoch, last.seq) if last else ("", 0, 0)

    def note_watermark(self, found: Watermark) -> None:
        """Note what the store says of this writer's data."""
        self._deleted_us = found.deleted_us
        if (deletion := self._deletion()) is not None:
            console.warn(
                f"{deletion} Nothing of it is stored any more, and what is tracked now "
                "is dropped there. Track into a new run, with another id.",
                key=f"deleted {self._opening.run_id}",
            )
        elif self._sender is not None:
            points = self._sender.points_through(epoch=found.epoch, seq=found.seq)
            self._durable = max(self._durable, points)

    def _deletion(self) -> str | None:
        if self._deleted_us is None:
            return None
        at = attributes.from_epoch(self._deleted_us // 1_000_000)
        return f"run {self._opening.run_id} was deleted on the server at {at}."

    def _count_deleted(self, progress: Progress) -> int:
        if self._deleted_us is None:
            return 0
        sent = progress.last.points + progress.last.events
        return max(0, sent - sum(progress.refused.values()))

    def flush(self, *, timeout_s: float) -> bool:
        """Wait until the server holds all that was written before, uploads too."""
        journal, sender = self._journal, self._sender
        if journal is None or sender is None:
            return journal is None
        deadline = time.monotonic() + timeout_s
        if self._uploader is not None and not self._uploader.wait(
            0, journal.uploads_end, over=lambda: time.monotonic() > deadline
        ):
            return False
        return sender.flush(
            points=journal.points.end,
            events=journal.events_end,
            timeout_s=deadline - time.monotonic(),
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
        journal, sender = self._journal, self._sender
        if journal is None:
            return
        if journal.path is not None:
            directories.mark_closed(journal.path)
        began = time.monotonic()
        complete = sender is not None and self._finish(sender, timeout_s)
        left_s = began + timeout_s - time.monotonic()
        if complete and left_s > 0:
            # Connecting and the answer may take so long each.
            self._ask_store(min(ASK_STORE_S, left_s) / 2)
        self._name_losses()
        journal.close(remove=complete)
        if self._ledger is not None and complete:
            self._ledger.close()
        if not complete and journal.path is not None:
            self._hand_over(journal.path)

    def _finish(self, sender: Sender, timeout_s: float) -> bool:
        patience_s = min(PATIENCE_S, timeout_s)
        uploader = self._uploader
        line = console.ProgressLine()

        def hopeless() -> bool:
            if uploader is None:
                return False
            line.show(progress_text(uploader.progress))
            return uploader.is_stuck(patience_s)

        complete = sender.finish(
            timeout_s=timeout_s, patience_s=patience_s, hopeless=hopeless
        )
        line.clear()
        if uploader is not None:
            uploader.stop()
        return complete

    def _name_losses(self) -> None:
        dropped = self.delivery.dropped
        if dropped:
            reasons = ", ".join(
                f"{count} {reason}" for reason, count in dropped.items()
            )
            total = sum(dropped.values())
            console.say(f"run {self._opening.run_id}: {total} dropped: {reasons}")

    def _hand_over(self, path: Path) -> None:
        budget_s = 0.0
        with contextlib.suppress(ValueError):
            budget_s = _env.DETACHED_SYNC_S.get()
        started = orphans.deliver_detached(
            path, endpoints=self._opening.endpoints, budget_s=budget_s
        )
        who = "A process of its own goes on sending it, then" if started else "Later"
        delivery = self.delivery
        rest = f"{delivery.pending} points"
        if delivery.pending_uploads:
            rest += f", {delivery.pending_uploads} uploads"
        console.say(
            f"run {self._opening.run_id}: not everything is sent yet; the rest "
            f"({rest}) waits in {path}: "
            f"{delivery.problem or 'the server is slow.'} {who} the next Run() or "
            "`matyan-client sync` does."
        )

    def at_exit(self) -> None:
        """Close, at the end of the process."""
        try:
            self.close(timeout_s=10.0)
        except Exception as error:  # noqa: BLE001 - the exit goes on
            console.say(f"run {self._opening.run_id} did not close: {error!r}")

    def after_fork_in_child(self) -> None:
        """Let go of the parent's journal; the child's begins at its first write."""
        self._lock = threading.RLock()
        if self._journal is not None:
            self._journal.abandon()
        if self._sender is not None:
            self._sender.abandon()
        if self._uploader is not None:
            _abandoned.append(self._uploader.abandon())
        self._journal = self._sender = self._ledger = self._uploader = None
        self._plain, self._in_context, self._by_ref = {}, {}, {}
        self._counts = False
        self._forked = True
        self._durable = self._dropped_lines = 0
        self._deleted_us = None

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def forked(self) -> bool:
        """Whether this is a child's copy."""
        return self._forked


def check_name(name: Any) -> str:
    """Return the name of a series.

    Raises:
        TypeError: If it is no text.
        ValueError: If it is empty or too long.
    """
    if name is None:
        msg = "track() needs a name: track(value, name='loss')"
        raise ValueError(msg)
    if not isinstance(name, str):
        msg = f"a series' name is text, not {type(name).__name__}"
        raise TypeError(msg)
    if not name or len(name.encode()) > MAX_SERIES_NAME_BYTES:
        msg = f"a series' name has 1 to {MAX_SERIES_NAME_BYTES} bytes: {name[:80]!r}"
        raise ValueError(msg)
    return str(name)


def context_text(context: Any) -> str:
    """Return the canonical text of a context.

    Raises:
        TypeError: If it is no mapping, or holds what JSON cannot say.
        ValueError: If it is too long.
    """
    if not context:
        return "{}"
    if not isinstance(context, Mapping):
        msg = f"a context is a mapping, not {type(context).__name__}"
        raise TypeError(msg)
    try:
        plain = attributes.to_plain(cast("Context", context), where="context")
        text = canonical_context(plain)
    except (TypeError, ValueError) as error:
        msg = f"the context cannot be stored ({error}): {context!r}"
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(msg) from error
    if len(text.encode()) > MAX_CONTEXT_BYTES:
        msg = f"a context takes at most {MAX_CONTEXT_BYTES} bytes"
        raise ValueError(msg)
    return text

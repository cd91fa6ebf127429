"""The way out of this process: a journal, and the threads that take it to the server.

A process that writes a run has one; a forked child makes its own at its first write.

Design note: docs/subsystems/sdk.md#delivery
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from matyan_client import _env, attributes, console
from matyan_client.delivery import orphans
from matyan_client.delivery.blob_gateway import BlobGateway
from matyan_client.delivery.frames import Ends, FrameCutter
from matyan_client.delivery.gateway import Gateway
from matyan_client.delivery.sender import Progress, Sender
from matyan_client.delivery.uploads import Uploader, UploadProgress, progress_text
from matyan_client.journal import directory as directories
from matyan_client.journal.ledger import Cut, Ledger
from matyan_client.journal.writer import JournalWriter
from matyan_client.reading import RunReader, Watermark
from matyan_client.rest import TIMEOUT_S
from matyan_client.urls import BaseUrl, Endpoints

PATIENCE_S: Final = 3.0
"""Of close()'s budget, how much may pass without any connection."""

TERMINAL_FULL: Final = "terminal_full"
RUN_DELETED: Final = "run deleted on the server"
"""Under this name everything acknowledged counts as dropped once that is known."""

ASK_STORE_S: Final = 2.0
"""How long `close` waits until the store has all of it, or says the run is deleted: an
idle server takes some hundredths of a second, one that lags is not waited for."""


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

    accepted: int = 0
    sent: int = 0
    acknowledged: int = 0
    durable: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict[str, int])
    connected: bool = False
    problem: str | None = None
    address: str = ""
    journal: Path | None = None
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


@dataclass(frozen=True)
class Settings:
    """What the environment says of journals.

    Attributes:
        state_dir: Where they are.
        max_bytes: Disk one may take.
        interval_s: How long points may wait to be sent together.
    """

    state_dir: Path
    max_bytes: int
    interval_s: float

    @classmethod
    def read(cls) -> Settings:
        """Return the environment's settings.

        Raises:
            ValueError: If one cannot be used.
        """
        return cls(
            state_dir=_env.state_dir(),
            max_bytes=_env.JOURNAL_MAX_BYTES.get(),
            interval_s=max(0.005, _env.FLUSH_INTERVAL_S.get()),
        )


_abandoned: list[object] = []
"""Of a parent, in a forked child: never closed there."""


class Outlet:
    """Opens a journal for a run and delivers it from threads of its own.

    Where no journal can be kept there are no threads, and everything is refused.

    Args:
        opening: The run and how it is opened.
        settings: How the journal is kept.

    Attributes:
        journal: Where everything is stored first.
        uploader: What takes uploads from there, None when there is no journal.
    """

    def __init__(self, opening: Opening, settings: Settings) -> None:
        self._opening = opening
        self._settings = settings
        self._durable = 0
        self._dropped_lines = 0
        self._deleted_us: int | None = None
        self._asked = not opening.resumed
        self._ledger: Ledger | None = None
        self._sender: Sender | None = None
        self.uploader: Uploader | None = None
        self._writer_id = directories.new_writer()
        self.journal = self._make_journal()
        if self.journal.path is not None:
            self._start_sender(self.journal, self.journal.path)

    def _make_journal(self) -> JournalWriter:
        endpoints = self._opening.endpoints
        meta = directories.Meta(
            run_id=self._opening.run_id,
            writer=self._writer_id,
            backend_url=str(endpoints.backend),
            frontier_url=str(endpoints.frontier or ""),
            ca_bundle=endpoints.backend.tls.ca_bundle,
            verify_tls=endpoints.backend.tls.verify,
            boot_id=directories.boot_id(),
            process_id=os.getpid(),
            created_us=time.time_ns() // 1000,
        )
        return JournalWriter.create(
            self._settings.state_dir, meta, max_bytes=self._settings.max_bytes
        )

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
            interval_s=self._settings.interval_s,
            on_tick=self._tick,
            on_acknowledged=self._acknowledged,
            expecting=lambda: uploader is not None and not uploader.idle(),
        )
        self._sender.start()

    def _acknowledged(self, cut: Cut) -> None:
        self.journal.forget(points=cut.points, events=cut.events)
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

    def _wait_stored(self, budget_s: float) -> None:
        reader = RunReader(self._opening.run_id, self._opening.endpoints.backend)
        found = reader.wait_stored(self.position(), budget_s=budget_s)
        reader.close()
        if found is not None:
            self.note_watermark(found)

    def _make_uploader(
        self, journal: JournalWriter, backend: BaseUrl, frontier: BaseUrl | None
    ) -> Uploader | None:
        queue = journal.upload_queue()
        if queue is not None:
            self.uploader = Uploader(
                run_id=self._opening.run_id,
                queue=queue,
                gateway=BlobGateway(backend=backend, frontier=frontier),
            )
        return self.uploader

    def _tick(self) -> None:
        self.journal.points.prepare()
        if self.journal.points.refused:
            self.warn_refused()

    def wait_connected(self, timeout_s: float) -> Progress:
        """Wait until a connection is open or refused; return how it stands."""
        sender = self._sender
        if sender is None:
            return Progress(problem="no local log can be kept")
        sender.wait_connected(timeout_s)
        return sender.progress

    # How it stands.

    def count_dropped_lines(self, count: int) -> None:
        """Count lines of output that came faster than they were read. One thread."""
        self._dropped_lines += count
        console.warn(
            f"run {self._opening.run_id}: this program prints faster than its output "
            f"can be kept; lines are missing from the run's log and counted "
            f"(run.delivery.dropped, {TERMINAL_FULL!r}).",
            key=f"lines dropped {self._opening.run_id}",
        )

    def warn_refused(self) -> None:
        """Say once for each reason that the journal has refused something."""
        where = self._settings.state_dir
        for reason in self.journal.refused():
            console.warn(
                f"run {self._opening.run_id}: the local log under {where} cannot grow "
                f"({reason}); what is tracked now is dropped and counted "
                "(run.delivery.dropped). Free space, raise MATYAN_JOURNAL_MAX_BYTES, "
                "or make the server reachable.",
                key=f"refused locally {self._opening.run_id} {reason}",
            )

    @property
    def delivery(self) -> Delivery:
        """How far the data has come."""
        journal = self.journal
        progress = self._sender.progress if self._sender else Progress()
        uploading = self.uploader.progress if self.uploader else UploadProgress()
        uploads = journal.uploads_end
        dropped = journal.refused()
        if self._dropped_lines:
            dropped[TERMINAL_FULL] = self._dropped_lines
        if deleted := self._count_deleted(progress):
            dropped[RUN_DELETED] = deleted
        for refused in (progress.refused, uploading.refused):
            for reason, count in refused.items():
                dropped[reason] = dropped.get(reason, 0) + count
        return Delivery(
            accepted=journal.accepted,
            sent=progress.sent,
            acknowledged=progress.acknowledged,
            durable=0 if self._deleted_us is not None else self._durable,
            dropped=dropped,
            connected=progress.connected,
            problem=self._deletion() or progress.problem or uploading.problem,
            address=progress.address or str(self._opening.endpoints.backend),
            journal=journal.path,
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

    def flush(self, *, timeout_s: float, uploads: bool = True) -> bool:
        """Wait until the server holds all that was written before, uploads too."""
        sender = self._sender
        if sender is None:
            return False
        deadline = time.monotonic() + timeout_s
        uploader = self.uploader if uploads else None
        if uploader is not None and not uploader.wait(
            0, self.journal.uploads_end, over=lambda: time.monotonic() > deadline
        ):
            return False
        return sender.flush(
            points=self.journal.points.end,
            events=self.journal.events_end,
            timeout_s=deadline - time.monotonic(),
        )

    # The end.

    def close(self, *, timeout_s: float) -> None:
        """Deliver what is left, within the budget; nothing can be stored afterwards."""
        path = self.journal.path
        if path is not None:
            directories.mark_closed(path)
        began = time.monotonic()
        complete = self._sender is not None and self._finish(self._sender, timeout_s)
        left_s = began + timeout_s - time.monotonic()
        if complete and left_s > 0:
            self._wait_stored(min(ASK_STORE_S, left_s))
        self._name_losses()
        self.journal.close(remove=complete)
        if self._ledger is not None and complete:
            self._ledger.close()
        if not complete and path is not None:
            self._hand_over(path)

    def _finish(self, sender: Sender, timeout_s: float) -> bool:
        patience_s = min(PATIENCE_S, timeout_s)
        uploader = self.uploader
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

    def abandon(self) -> None:
        """Let go of a parent's in a forked child, touching nothing of it."""
        self.journal.abandon()
        if self._sender is not None:
            self._sender.abandon()
        if self.uploader is not None:
            _abandoned.append(self.uploader.abandon())

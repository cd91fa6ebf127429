"""Delivers journals whose owners are gone.

A journal is an orphan when its lock is free. Whoever takes the lock delivers it, with
the positions its owner fixed, and removes it when everything is acknowledged.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from matyan_client import _env, urls
from matyan_client.delivery.blob_gateway import BlobGateway
from matyan_client.delivery.frames import Ends, FrameCutter
from matyan_client.delivery.gateway import Gateway
from matyan_client.delivery.sender import Progress, Sender
from matyan_client.delivery.uploads import Uploader, progress_text
from matyan_client.journal import directory as directories
from matyan_client.journal.adopted import AdoptedUploads
from matyan_client.journal.directory import JournalLock, Meta
from matyan_client.journal.ledger import Ledger
from matyan_client.tls import Tls
from matyan_client.urls import BaseUrl, Endpoints

SWEEP_EVERY_S: Final = 60.0
SWEEP_STALL_S: Final = 15.0


@dataclass(frozen=True)
class JournalState:
    """What is known of a journal on disk.

    Attributes:
        path: Its directory.
        meta: Its description.
        owned: Whether a living process holds it.
        bytes: Disk space it takes.
    """

    path: Path
    meta: Meta
    owned: bool
    bytes: int


@dataclass(frozen=True)
class Outcome:
    """What came of delivering a journal.

    Attributes:
        path: Its directory, gone if `complete`.
        run_id: The run.
        complete: Whether all is acknowledged.
        points: Points acknowledged by this delivery.
        damaged: Points and records that could not be read back.
        refused: Points and events the server refused, by reason.
        problem: Why it is not complete.
        uploads: Uploads done by this delivery.
        finished: Whether the run's owner had finished it; if not, it stays active.
    """

    path: Path
    run_id: str
    complete: bool
    points: int = 0
    damaged: int = 0
    refused: int = 0
    problem: str | None = None
    uploads: int = 0
    finished: bool = True


def iter_states(state_dir: Path) -> Iterator[JournalState]:
    """Yield every journal, oldest first."""
    for path, meta in directories.iter_journals(state_dir):
        lock = JournalLock.acquire(path, sign=False)
        if lock is not None:
            lock.abandon()
        yield JournalState(path, meta, lock is None, directories.disk_bytes(path))


def deliver(  # noqa: PLR0913 - each may be given on the command line
    path: Path,
    meta: Meta,
    *,
    stall_s: float,
    backend_url: str | None = None,
    frontier_url: str | None = None,
    lender: Endpoints | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> Outcome | None:
    """Deliver one journal; None when a living process holds it, or it is gone.

    Args:
        path: The journal.
        meta: Its description.
        stall_s: Give up when nothing has been acknowledged for so long.
        backend_url: Another backend than the one it names.
        frontier_url: Another gateway.
        lender: Whose credentials may be used, if it is the same server; the
            environment's otherwise.
        on_progress: Called several times a second with how far uploads are.

    Raises:
        ValueError: If an address is none.
    """
    found = _endpoints(meta, backend_url, frontier_url, lender)
    gateway = Gateway(backend=found.backend, frontier=found.frontier)
    uploads = BlobGateway(backend=found.backend, frontier=found.frontier)
    lock = JournalLock.acquire(path)
    if lock is None:
        return None
    try:
        if meta.format > directories.FORMAT:
            problem = f"its format {meta.format} is newer than this SDK; upgrade it"
            return Outcome(path, meta.run_id, complete=False, problem=problem)
        return _deliver(path, meta, gateway, uploads, stall_s, on_progress)
    except OSError as error:
        return Outcome(path, meta.run_id, complete=False, problem=str(error))
    finally:
        lock.abandon()


def _endpoints(
    meta: Meta,
    backend_url: str | None,
    frontier_url: str | None,
    lender: Endpoints | None,
) -> Endpoints:
    """Return where a journal goes, with credentials from whoever has them.

    A token of the environment belongs to the server the environment names, if it
    names one: it is not sent to another one.
    """
    tls = Tls.choose(
        _env.CA_BUNDLE.get() or meta.ca_bundle,
        verify=_env.TLS_VERIFY.get() and meta.verify_tls,
    )
    given = urls.choose(
        backend_url or meta.backend_url,
        frontier_url or ("" if backend_url else meta.frontier_url),
        backend_env="",
        frontier_env="",
        tls=tls,
    )
    environment = urls.choose(
        backend_url or _env.BACKEND_URL.get() or meta.backend_url,
        None,
        backend_env="",
        frontier_env="",
    ).let_in(default_token=_env.TOKEN.get())
    return given.borrow([environment] if lender is None else [lender, environment])


def _deliver(  # noqa: PLR0913, PLR0917 - one delivery's parts
    path: Path,
    meta: Meta,
    gateway: Gateway,
    uploads: BlobGateway,
    stall_s: float,
    on_progress: Callable[[str], None],
) -> Outcome:
    boot = directories.boot_id()
    ledger = Ledger(path, takeover=meta.boot_id != boot)
    if meta.boot_id != boot:
        directories.write_meta(path, msgspec.structs.replace(meta, boot_id=boot))
    adopted = AdoptedUploads(path, events_start=ledger.fixed.events)
    uploader = Uploader(
        run_id=meta.run_id, queue=adopted.queue, gateway=uploads, quiet=True
    )
    cutter = FrameCutter(
        path,
        run_id=meta.run_id,
        writer=meta.writer,
        ledger=ledger,
        ends=Ends(events=adopted.events_end),
    )
    sender = Sender(
        run_id=meta.run_id,
        cutter=cutter,
        ledger=ledger,
        gateway=gateway,
        interval_s=0.01,
        quiet=True,
        expecting=lambda: not uploader.idle(),
    )
    uploader.wake()
    sender.start()

    def moved_at() -> float:
        uploading = uploader.progress
        on_progress(progress_text(uploading))
        return uploading.moved_at

    was_closed = directories.was_closed(path)
    complete = sender.drain(
        stall_s=stall_s,
        abandoned=lambda: directories.read_meta(path) is None,
        moved_at=moved_at,
    )
    uploader.stop()
    adopted.close()
    progress: Progress = sender.progress
    uploaded = uploader.progress
    if complete:
        ledger.close()
        directories.remove(path)
    problem = progress.problem or uploaded.problem or "there was not enough time"
    return Outcome(
        path,
        meta.run_id,
        complete=complete,
        points=progress.acknowledged,
        damaged=cutter.damaged + adopted.queue.damaged,
        refused=sum(progress.refused.values()) + sum(uploaded.refused.values()),
        problem=None if complete else problem,
        uploads=uploaded.uploaded,
        finished=was_closed or cutter.finished,
    )


def deliver_detached(path: Path, *, endpoints: Endpoints, budget_s: float) -> bool:
    """Start a process of its own that delivers `path`; return whether it started.

    It gets the credentials through its environment, which only its user can read.
    """
    if not sys.executable or budget_s <= 0:
        return False
    command = [
        *(sys.executable, "-m", "matyan_client", "sync"),
        *("--journal", str(path), "--wait", str(budget_s), "--quiet"),
    ]
    import_path = str(Path(__file__).resolve().parents[2])
    try:
        child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=_env.child_environment(import_path, _credentials(endpoints.backend)),
        )
    except (OSError, RuntimeError):
        return False
    child.returncode = 0  # it outlives this process on purpose: nobody waits for it
    return True


def _credentials(backend: BaseUrl) -> dict[str, str]:
    return {
        _env.BACKEND_URL.name: backend.with_userinfo(),
        _env.TOKEN.name: backend.token or "",
    }


class _Sweep:
    """At most one sweep at a time, and not more often than is useful."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next_at = 0.0

    def start(self, state_dir: Path, lender: Endpoints) -> None:
        """Deliver what dead processes left, from a thread of its own."""
        with self._lock:
            if time.monotonic() < self._next_at:
                return
            self._next_at = time.monotonic() + SWEEP_EVERY_S
        threading.Thread(
            target=_sweep, args=(state_dir, lender), name="matyan-orphans", daemon=True
        ).start()


def _sweep(state_dir: Path, lender: Endpoints) -> None:
    for path, meta in directories.iter_journals(state_dir):
        try:
            outcome = deliver(path, meta, stall_s=SWEEP_STALL_S, lender=lender)
        except ValueError:
            continue  # an address nobody can use; `matyan-client sync` names it
        ours = meta.backend_url == str(lender.backend)
        if outcome is not None and outcome.problem is not None and ours:
            return  # the server is away: later


_SWEEP: Final = _Sweep()


def sweep_in_background(state_dir: Path, *, lender: Endpoints) -> None:
    """Deliver what dead processes left, without waiting for it."""
    _SWEEP.start(state_dir, lender)

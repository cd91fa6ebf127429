"""Delivers journals whose owners are gone.

A journal is an orphan when its lock is free. Whoever takes the lock delivers it, with
the positions its owner fixed, and removes it when everything is acknowledged.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from matyan_client import _env
from matyan_client.delivery.frames import FrameCutter
from matyan_client.delivery.gateway import Gateway
from matyan_client.delivery.sender import Progress, Sender
from matyan_client.journal import directory as directories
from matyan_client.journal.directory import JournalLock, Meta
from matyan_client.journal.ledger import Ledger
from matyan_client.urls import BaseUrl

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
    """

    path: Path
    run_id: str
    complete: bool
    points: int = 0
    damaged: int = 0
    refused: int = 0
    problem: str | None = None


def iter_states(state_dir: Path) -> Iterator[JournalState]:
    """Yield every journal, oldest first."""
    for path, meta in directories.iter_journals(state_dir):
        lock = JournalLock.acquire(path)
        if lock is not None:
            lock.abandon()
        yield JournalState(path, meta, lock is None, directories.disk_bytes(path))


def deliver(
    path: Path,
    meta: Meta,
    *,
    stall_s: float,
    backend_url: str | None = None,
    frontier_url: str | None = None,
) -> Outcome | None:
    """Deliver one journal; None when a living process holds it, or it is gone.

    Args:
        path: The journal.
        meta: Its description.
        stall_s: Give up when nothing has been acknowledged for so long.
        backend_url: Another backend than the one it names.
        frontier_url: Another gateway.

    Raises:
        ValueError: If an address is none.
    """
    gateway = Gateway(
        backend=BaseUrl.parse(backend_url or meta.backend_url),
        frontier=_frontier(meta, backend_url, frontier_url),
    )
    lock = JournalLock.acquire(path)
    if lock is None:
        return None
    try:
        if meta.format > directories.FORMAT:
            problem = f"its format {meta.format} is newer than this SDK; upgrade it"
            return Outcome(path, meta.run_id, complete=False, problem=problem)
        return _deliver(path, meta, gateway, stall_s)
    except OSError as error:
        return Outcome(path, meta.run_id, complete=False, problem=str(error))
    finally:
        lock.abandon()


def _frontier(meta: Meta, backend: str | None, frontier: str | None) -> BaseUrl | None:
    text = frontier or ("" if backend else meta.frontier_url)
    return BaseUrl.parse(text) if text else None


def _deliver(path: Path, meta: Meta, gateway: Gateway, stall_s: float) -> Outcome:
    boot = directories.boot_id()
    ledger = Ledger(path, takeover=meta.boot_id != boot)
    if meta.boot_id != boot:
        directories.write_meta(path, msgspec.structs.replace(meta, boot_id=boot))
    cutter = FrameCutter(path, run_id=meta.run_id, writer=meta.writer, ledger=ledger)
    sender = Sender(
        run_id=meta.run_id,
        cutter=cutter,
        ledger=ledger,
        gateway=gateway,
        interval_s=0.01,
        quiet=True,
    )
    sender.start()
    complete = sender.drain(
        stall_s=stall_s, abandoned=lambda: directories.read_meta(path) is None
    )
    progress: Progress = sender.progress
    if complete:
        ledger.close()
        directories.remove(path)
    return Outcome(
        path,
        meta.run_id,
        complete=complete,
        points=progress.acknowledged,
        damaged=cutter.damaged,
        refused=sum(progress.refused.values()),
        problem=None if complete else progress.problem or "there was not enough time",
    )


def deliver_detached(path: Path, *, budget_s: float) -> bool:
    """Start a process of its own that delivers `path`; return whether it started."""
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
            env=_env.child_environment(import_path),
        )
    except (OSError, RuntimeError):
        return False
    child.returncode = 0  # it outlives this process on purpose: nobody waits for it
    return True


class _Sweep:
    """At most one sweep at a time, and not more often than is useful."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next_at = 0.0

    def start(self, state_dir: Path) -> None:
        """Deliver what dead processes left, from a thread of its own."""
        with self._lock:
            if time.monotonic() < self._next_at:
                return
            self._next_at = time.monotonic() + SWEEP_EVERY_S
        threading.Thread(
            target=_sweep, args=(state_dir,), name="matyan-orphans", daemon=True
        ).start()


def _sweep(state_dir: Path) -> None:
    for path, meta in directories.iter_journals(state_dir):
        try:
            outcome = deliver(path, meta, stall_s=SWEEP_STALL_S)
        except ValueError:
            continue  # an address nobody can use; `matyan-client sync` names it
        if outcome is not None and outcome.problem is not None:
            return  # the server is away: later


_SWEEP: Final = _Sweep()


def sweep_in_background(state_dir: Path) -> None:
    """Deliver what dead processes left, without waiting for it."""
    _SWEEP.start(state_dir)

"""The uploader: a few threads that take a journal's uploads to the blob store.

Uploads begin in the order they were logged, `WORKERS` at a time; of one path never two
at once, so that the last one logged is the last one stored. One that fails is tried
again for ever, with jittered back-off; one that the server refuses, or whose file is
gone, is counted, named once on stderr and passed over. Nothing here raises.

Design note: docs/subsystems/sdk.md#uploads
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from matyan_client import console
from matyan_client.delivery.blob_gateway import (
    BlobGateway,
    UploadFailedError,
    UploadRefusedError,
    UploadRejectedError,
)
from matyan_client.delivery.transfer import LostSourceError, StoppedError, Transfer
from matyan_client.journal.uploads import Entry, UploadQueue

WORKERS: Final = 4
READ_AHEAD: Final = 64
"""Uploads looked at: the first that may begin is taken."""

MAX_REJECTIONS: Final = 5
"""So often an upload may be turned away with a fresh address before it is given up."""

FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 30.0
SLOW_PAUSE_S: Final = 10.0

_REMEMBERED: Final = 100_000


@dataclass(frozen=True)
class UploadProgress:
    """How far uploads are; a snapshot.

    Attributes:
        uploaded: Uploads that are done.
        uploaded_bytes: Their bytes.
        refused: Uploads that never will be, by reason.
        active: Path, bytes sent and size of those under way.
        problem: Why the last try failed; None when well.
        failing_since: When tries began to fail, monotonic; None when well.
        moved_at: When bytes last went out, monotonic.
    """

    uploaded: int = 0
    uploaded_bytes: int = 0
    refused: dict[str, int] = field(default_factory=dict[str, int])
    active: tuple[tuple[str, int, int], ...] = ()
    problem: str | None = None
    failing_since: float | None = None
    moved_at: float = 0.0


@dataclass(eq=False)
class _Task:
    """An upload that is not finished."""

    entry: Entry
    ready_at: float = 0.0
    failures: int = 0
    rejections: int = 0
    sent: int = 0
    is_active: bool = False


class Uploader:
    """Uploads of one journal. Thread-safe; starts threads when there is work.

    Args:
        run_id: The run.
        queue: The journal's uploads; used under this object's lock from now on.
        gateway: Where to ask.
        quiet: Whether to keep outages to `UploadProgress` alone.
    """

    def __init__(
        self,
        *,
        run_id: str,
        queue: UploadQueue,
        gateway: BlobGateway,
        quiet: bool = False,
    ) -> None:
        self._run_id = run_id
        self._queue = queue
        self._gateway = gateway
        self._quiet = quiet
        self._changed = threading.Condition()
        self._tasks: list[_Task] = []
        self._threads: list[threading.Thread] = []
        self._stopping = False
        self._refused: deque[int] = deque(maxlen=_REMEMBERED)
        self._progress = UploadProgress(moved_at=time.monotonic())

    # The owner's side.

    def wake(self) -> None:
        """Look for new uploads; start threads if there are any."""
        with self._changed:
            self._read_ahead()
            waiting = sum(not task.is_active for task in self._tasks)
            for _ in range(min(waiting, WORKERS - len(self._threads))):
                thread = threading.Thread(
                    target=self._work,
                    name=f"matyan-upload-{self._run_id}",
                    daemon=True,
                )
                self._threads.append(thread)
                thread.start()
            self._changed.notify_all()

    @property
    def progress(self) -> UploadProgress:
        """How far uploads are."""
        with self._changed:
            active = tuple(
                (task.entry.upload.path, task.sent, task.entry.upload.size)
                for task in self._tasks
                if task.is_active
            )
            return replace(
                self._progress, refused=dict(self._progress.refused), active=active
            )

    def idle(self) -> bool:
        """Return whether every upload is finished."""
        with self._changed:
            return not self._tasks and not self._queue.has_more()

    def is_stuck(self, patience_s: float) -> bool:
        """Return whether tries have done nothing but fail for so long."""
        with self._changed:
            since = self._progress.failing_since
            return since is not None and time.monotonic() - since > patience_s

    def wait(self, first: int, stop: int, *, over: Callable[[], bool]) -> bool:
        """Wait until the uploads first <= index < stop are finished.

        Args:
            first: Index of the first one meant.
            stop: Index after the last one.
            over: Gives up when it is true; asked several times a second.

        Returns:
            Whether they are.
        """

        def finished() -> bool:
            self._read_ahead()
            return self._queue.position >= stop and not any(
                first <= task.entry.index < stop for task in self._tasks
            )

        with self._changed:
            while not finished():
                if over() or self._stopping:
                    return False
                self._changed.wait(0.05)
        return True

    def count_refused(self, first: int, stop: int) -> int:
        """Return how many of the finished uploads in that range were refused."""
        with self._changed:
            return sum(first <= index < stop for index in self._refused)

    def stop(self) -> None:
        """Interrupt what is under way; nothing is stored in the journal any more."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            threads = list(self._threads)
        if not threads:
            self._gateway.close()
        # A thread that waits for the network finds out later; it holds nothing.

    def abandon(self) -> object:
        """Let go in a forked child; return what must not be collected there."""
        self._stopping = True
        return self._gateway.abandon()

    # The threads' side.

    def _read_ahead(self) -> None:
        while len(self._tasks) < READ_AHEAD:
            entry = self._queue.take()
            if entry is None:
                return
            self._tasks.append(_Task(entry))

    def _work(self) -> None:
        while (task := self._next()) is not None:
            try:
                self._try(task)
            except Exception as error:  # noqa: BLE001 - uploads must not end by themselves
                self._failed(task, UploadFailedError(repr(error)))
            finally:
                with self._changed:
                    task.is_active = False
                    self._changed.notify_all()

    def _next(self) -> _Task | None:
        """Wait for a task that may begin; None at the end."""
        with self._changed:
            while not self._stopping:
                self._read_ahead()
                now = time.monotonic()
                task = self._first_ready(now)
                if task is not None:
                    task.is_active, task.sent = True, 0
                    return task
                waiting = [t.ready_at for t in self._tasks if not t.is_active]
                soon = min(waiting, default=now + 60)
                self._changed.wait(max(0.01, soon - now))
            if threading.current_thread() in self._threads:
                self._threads.remove(threading.current_thread())
            last = not self._threads
        if last:
            self._gateway.close()
        return None

    def _first_ready(self, now: float) -> _Task | None:
        taken: set[str] = set()
        for task in self._tasks:
            path = task.entry.upload.path
            if not task.is_active and task.ready_at <= now and path not in taken:
                return task
            taken.add(path)
        return None

    def _try(self, task: _Task) -> None:
        def sent(count: int) -> None:
            task.sent = count
            with self._changed:
                self._progress = replace(self._progress, moved_at=time.monotonic())

        transfer = Transfer(
            run_id=self._run_id,
            directory=self._queue.directory,
            gateway=self._gateway,
            on_sent=sent,
            stopping=lambda: self._stopping,
        )
        try:
            transfer.run(task.entry)
        except StoppedError:
            return
        except UploadRefusedError as error:
            self._finish(task, f"upload refused by the server: {error}", str(error))
        except LostSourceError as error:
            self._finish(task, error.reason, str(error))
        except UploadRejectedError as error:
            task.rejections += 1
            if task.rejections < MAX_REJECTIONS:
                self._failed(task, UploadFailedError(str(error)))
            else:
                self._finish(task, f"upload refused by the server: {error}", str(error))
        except UploadFailedError as error:
            self._failed(task, error)
        else:
            self._finish(task)

    def _finish(self, task: _Task, reason: str = "", problem: str = "") -> None:
        with self._changed:
            if self._stopping:
                return
            try:
                self._queue.finish(task.entry, run_id=self._run_id, problem=reason)
            except OSError as error:
                self._pause(task, f"the local log has no room: {error}")
                return
            self._tasks.remove(task)
            self._count(task, reason, problem)
            self._read_ahead()
            self._changed.notify_all()
        if reason:
            console.warn(
                f"run {self._run_id}: {task.entry.upload.path} is not uploaded: "
                f"{problem}",
                key=f"not uploaded {self._run_id} {task.entry.upload.path}",
            )
        elif not self._quiet:
            console.forget(self._outage_key())

    def _count(self, task: _Task, reason: str, problem: str) -> None:
        before = self._progress
        now = time.monotonic()
        if reason:
            self._refused.append(task.entry.index)
            refused = {**before.refused, reason: before.refused.get(reason, 0) + 1}
            self._progress = replace(
                before, refused=refused, problem=problem, moved_at=now
            )
            return
        self._progress = replace(
            before,
            uploaded=before.uploaded + 1,
            uploaded_bytes=before.uploaded_bytes + task.entry.upload.size,
            problem=None,
            failing_since=None,
            moved_at=now,
        )

    def _failed(self, task: _Task, error: UploadFailedError) -> None:
        with self._changed:
            if self._stopping:
                return
            self._pause(task, str(error), slowly=error.slowly)
        if not self._quiet and (error.slowly or task.failures >= 2):
            console.warn(
                f"{task.entry.upload.path} cannot be uploaded now: {error}. Training "
                "goes on; it is kept and tried again.",
                key=self._outage_key(),
            )

    def _pause(self, task: _Task, problem: str, *, slowly: bool = False) -> None:
        """Have a task wait for its next try. Lock held."""
        longest = FIRST_PAUSE_S * 1.6 ** min(task.failures, 20)
        pause = min(longest, LONGEST_PAUSE_S) * random.uniform(0.5, 1)  # noqa: S311
        now = time.monotonic()
        task.failures += 1
        task.ready_at = now + (max(pause, SLOW_PAUSE_S) if slowly else pause)
        since = self._progress.failing_since
        self._progress = replace(
            self._progress,
            problem=problem,
            failing_since=now if since is None else since,
        )
        self._changed.notify_all()

    def _outage_key(self) -> str:
        return f"upload outage {self._gateway.address}"


def progress_text(progress: UploadProgress) -> str:
    """Return one line on what is under way, "" if nothing is."""
    if not progress.active:
        return ""
    sent = sum(count for _, count, _ in progress.active)
    size = sum(size for _, _, size in progress.active)
    path = max(progress.active, key=lambda entry: entry[2])[0]
    more = len(progress.active) - 1
    others = f" and {more} more" if more else ""
    percent = 100 * sent // max(size, 1)
    return (
        f"uploading {path}{others}: {percent} % "
        f"({console.size_text(sent)} of {console.size_text(size)})"
    )

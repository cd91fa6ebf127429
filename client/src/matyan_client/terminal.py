"""Terminal capture: what the process prints becomes the run's log lines.

`sys.stdout` and `sys.stderr` keep their identity: only their `write` is tapped, once
for all runs of the process, and untapped with the last. A write only appends to a
queue; lines are cut by the run's own thread. The queue is bounded: while a program
prints faster than that thread reads, what does not fit is dropped and counted.
"""

from __future__ import annotations

import contextlib
import queue
import re
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

PUMP_EVERY_S: Final = 1.0
MAX_QUEUED_CHARS: Final = 8 * 1024 * 1024
MAX_LINE_CHARS: Final = 32 * 1024

_ANSI: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])"
)


class LineCutter:
    """Turns pieces of output into numbered lines. Used by one thread.

    Colour and cursor codes are removed, and of a line rewritten with carriage returns
    the last text stays. A line without its end is given out too, and again under the
    same number when more of it has come.
    """

    def __init__(self) -> None:
        self._rest = ""
        self._step = 0

    def cut(self, text: str) -> list[tuple[int, str]]:
        """Return (step, line) for what is new or has changed."""
        if not text:
            return []
        *whole, rest = (self._rest + text).split("\n")
        lines = [(self._step + place, _clean(line)) for place, line in enumerate(whole)]
        self._step += len(whole)
        self._rest = rest[-MAX_LINE_CHARS:]
        if rest:
            lines.append((self._step, _clean(rest)))
        return lines


def _clean(line: str) -> str:
    shown = _ANSI.sub("", line).rstrip("\r").rpartition("\r")[2][:MAX_LINE_CHARS]
    return shown.encode(errors="replace").decode()


class _Tap:
    """The process's streams, and the queues their output is copied to."""

    def __init__(self) -> None:
        self.sinks: list[Callable[[str], None]] = []
        self._restore: list[Callable[[], None]] = []

    def add(self, sink: Callable[[str], None]) -> None:
        self.sinks = [*self.sinks, sink]
        if not self._restore:
            for stream in (sys.stdout, sys.stderr):
                self._tap(stream)

    def remove(self, sink: Callable[[str], None]) -> None:
        # Bound methods are compared, not identified: each access makes a new one.
        self.sinks = [other for other in self.sinks if other != sink]
        if not self.sinks:
            for restore in self._restore:
                restore()
            self._restore = []

    def _tap(self, stream: Any) -> None:
        original: Callable[[str], int] | None = getattr(stream, "write", None)
        if original is None:
            return

        def write(text: str) -> int:
            for sink in self.sinks:
                sink(text)
            return original(text)

        def restore() -> None:
            if stream.__dict__.get("write") is write:
                del stream.write

        with contextlib.suppress(AttributeError, TypeError):  # streams without a dict
            stream.write = write
            self._restore.append(restore)


_TAP: Final = _Tap()


class TerminalCapture:
    """Copies the process's output into a run, from now until `close`.

    Args:
        store: Called by the capture's thread with (step, line).
        on_dropped: Called by it with how many lines have been dropped.
    """

    def __init__(
        self,
        store: Callable[[int, str], None],
        on_dropped: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._on_dropped = on_dropped
        # Re-entrant: signal handlers and finalizers print, too.
        self._lock = threading.RLock()
        self._queue: deque[str] = deque()
        self._queued = 0
        self._dropped = 0
        self._open_line = False  # the end of the last line kept has not come
        self._cut_line = False  # nor that of the last line dropped
        # Unlike an Event, it may be used by a handler in the middle of its own use.
        self._alarm: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._cutter = LineCutter()
        self._active = True
        self._thread = threading.Thread(
            target=self._pump, name="matyan-terminal", daemon=True
        )
        _TAP.add(self._take)
        self._thread.start()

    def _take(self, text: str) -> None:
        if not self._active or not text or not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            return
        with self._lock:
            if self._queued >= MAX_QUEUED_CHARS:
                self._drop(text)
                return
            if self._cut_line:
                self._dropped += 1
                self._cut_line = False
                text = text.removeprefix("\n")
            self._queue.append(text)
            self._open_line = not text.endswith("\n")
            before = self._queued
            self._queued = before + len(text)
            if before < MAX_QUEUED_CHARS // 2 <= self._queued:
                self._alarm.put(None)

    def _drop(self, text: str) -> None:
        if self._open_line:  # it would go on with what comes behind the gap
            self._queue.append("\n")
            self._open_line = False
            text = text.removeprefix("\n")
        self._dropped += text.count("\n")
        self._cut_line = bool(text) and not text.endswith("\n")

    def _pump(self) -> None:
        while self._active:
            with contextlib.suppress(queue.Empty):
                self._alarm.get(timeout=PUMP_EVERY_S)
            self._drain()

    def _drain(self) -> None:
        with self._lock:
            pieces, self._queue = self._queue, deque()
            dropped, self._dropped = self._dropped, 0
            self._queued = 0
        for step, line in self._cutter.cut("".join(pieces)):
            self._store(step, line)
        if dropped:
            self._on_dropped(dropped)

    def abandon(self) -> None:
        """Stop copying in a forked child, where the thread does not exist."""
        self._active = False
        _TAP.remove(self._take)

    def close(self) -> None:
        """Stop copying, give the streams back, store what is left. Idempotent."""
        if not self._active:
            return
        self._active = False
        _TAP.remove(self._take)
        self._alarm.put(None)
        self._thread.join(timeout=2)
        self._dropped += self._cut_line
        self._drain()

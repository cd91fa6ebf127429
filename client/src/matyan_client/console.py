"""What the SDK says to people: on stderr, prefixed, each thing once.

The SDK is quiet otherwise. Repeats of a message are not printed again for the life of
the process, so that an outage does not fill a training log.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import Final

_MAX_REMEMBERED: Final = 1000
_STDERR: Final = 2
_REDRAW_S: Final = 0.2
_MAX_COLUMNS: Final = 100

_lock = threading.RLock()
_said: set[str] = set()


def warn(text: str, *, key: str | None = None) -> None:
    """Print `text` once.

    Args:
        text: What happened, where, and what to do.
        key: What counts as the same message; the text itself by default.
    """
    with _lock:
        if (key or text) in _said:
            return
        if len(_said) < _MAX_REMEMBERED:
            _said.add(key or text)
    say(text)


def say(text: str) -> None:
    """Print `text`; a closed or broken stderr is not the training's problem.

    Nor is one that a signal handler finds in the middle of a write (RuntimeError).
    """
    with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError):
        sys.stderr.write(f"matyan: {text}\n")
        sys.stderr.flush()


class ProgressLine:
    """One line on the terminal that is written over; nothing where there is none.

    It goes past `sys.stderr`, so that it is not taken for output of the training. For
    waits that somebody asked for: it is not drawn during training.
    """

    def __init__(self) -> None:
        self._drawn = ""
        self._next_at = 0.0
        self._enabled = False
        with contextlib.suppress(OSError):
            self._enabled = os.isatty(_STDERR)

    def show(self, text: str) -> None:
        """Draw `text`, not more often than can be read."""
        now = time.monotonic()
        if not text or not self._enabled or now < self._next_at:
            return
        self._next_at = now + _REDRAW_S
        line = f"matyan: {text}"[:_MAX_COLUMNS]
        self._write("\r" + line.ljust(len(self._drawn)))
        self._drawn = line

    def clear(self) -> None:
        """Remove the line."""
        if self._drawn:
            self._write("\r" + " " * len(self._drawn) + "\r")
            self._drawn = ""

    def _write(self, text: str) -> None:
        try:
            os.write(_STDERR, text.encode(errors="replace"))
        except OSError:
            self._enabled = False


def size_text(count: float) -> str:
    """Return a number of bytes as people read it."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def forget(key: str) -> None:
    """Let the message with this key be printed again."""
    with _lock:
        _said.discard(key)


def _after_fork_in_child() -> None:
    global _lock  # noqa: PLW0603 - another thread of the parent may have held it
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

"""What the SDK says to people: on stderr, prefixed, each thing once.

The SDK is quiet otherwise. Repeats of a message are not printed again for the life of
the process, so that an outage does not fill a training log.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import Final

_MAX_REMEMBERED: Final = 1000

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
    """Print `text`; a closed or broken stderr is not the training's problem."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"matyan: {text}\n")
        sys.stderr.flush()


def forget(key: str) -> None:
    """Let the message with this key be printed again."""
    with _lock:
        _said.discard(key)


def _after_fork_in_child() -> None:
    global _lock  # noqa: PLW0603 - another thread of the parent may have held it
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

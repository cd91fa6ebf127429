"""A child of `manage.py up` ends when its parent does, however the parent ended.

The parent keeps the writing end of a pipe open and never writes. The kernel closes it
when the parent dies, even by kill -9, and the child's read returns: no orphan is left,
on any Unix, without polling.
"""

from __future__ import annotations

import os
import signal
import threading

from matyan_project import env


def watch() -> None:
    """Start watching the parent if this process was given a lifeline."""
    text = env.read()["MATYAN_LIFELINE_FD"]
    if text:
        thread = threading.Thread(
            target=_wait, args=(int(text),), name="lifeline", daemon=True
        )
        thread.start()


def _wait(descriptor: int) -> None:
    try:
        os.read(descriptor, 1)
    except OSError:
        return
    os.kill(os.getpid(), signal.SIGTERM)
    # A process that hangs in its shutdown must not outlive its parent for long.
    threading.Event().wait(20.0)
    os._exit(1)

"""Whether this process has been told to stop, for work that takes long.

Long work asks now and then; what it has done so far is kept, and it goes on in the next
process.
"""

from __future__ import annotations

import threading

_stop = threading.Event()


class StoppedError(Exception):
    """The process is stopping; the work goes on later."""


def request_stop() -> None:
    """Have long work end soon. May be called from a signal handler."""
    _stop.set()


def forget_request() -> None:
    """Take back `request_stop`: a new worker starts in this process."""
    _stop.clear()


def check() -> None:
    """Go on, or not.

    Raises:
        StoppedError: If the process is stopping.
    """
    if _stop.is_set():
        raise StoppedError

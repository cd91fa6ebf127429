"""One thread that does a loop's work, so that the loop can go on heartbeating.

A daemon: work that never ends must not keep a stopping process alive.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_Job = tuple[Callable[[], Any], "Future[Any]"]


class HandlerThread:
    """Runs one piece of work at a time, always on the same thread."""

    def __init__(self, *, name: str) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Start the work; the future has its result or what it raised."""
        future: Future[T] = Future()
        self._jobs.put((work, future))
        return future

    def stop(self) -> None:
        """End the thread once its work is done, without waiting for it."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, future = job
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - the loop is told, whatever it is
                future.set_exception(error)
            else:
                future.set_result(result)

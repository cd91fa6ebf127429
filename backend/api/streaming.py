"""Streaming responses: frames made in threads, sent at once, stopped when unwanted.

A stream is an ordinary iterator of bytes whose `next` does one bounded piece of work: a
few reads in one store transaction that has ended when `next` returns. Under ASGI each
`next` runs in a thread of one bounded pool, so a slow reader holds no thread and no
transaction, and a stream whose client has gone is closed after the piece in hand.
Under WSGI the same iterator is handed to the server.

The first frame is made before the response exists: what fails by then is a proper
error. A later failure breaks the connection off, which readers notice.

Design note: docs/subsystems/api.md#streams
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from django.core.handlers.asgi import ASGIRequest
from django.http import StreamingHttpResponse
from rest_framework.request import Request

from backend.api import observability
from matyan_wire.tree_stream import encode_progress

logger = logging.getLogger(__name__)

CONTENT_TYPE: Final = "application/octet-stream"
HEARTBEAT_S: Final = 0.5
CHUNK_BYTES: Final = 64 * 1024
_THREADS: Final = 8
_END: Final = b""

_pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="stream")
BLOB_POOL: Final = ThreadPoolExecutor(_THREADS, thread_name_prefix="blob-stream")
"""For frames read from the blob store: if it hangs, no other stream waits for it."""


def stream_response(
    request: Request,
    frames: Iterator[bytes],
    *,
    pool: ThreadPoolExecutor = _pool,
    content_type: str = CONTENT_TYPE,
) -> StreamingHttpResponse:
    """Return the response that sends `frames`, an iterator as described above.

    Args:
        request: The request.
        frames: The body.
        pool: The threads that make the frames.
        content_type: What the body is.

    Raises:
        Exception: Whatever making the first frame raises.
    """
    first = next(frames, _END)
    work = _Work(itertools.chain([first], frames), getattr(frames, "close", None))
    body: Any = work
    if isinstance(request._request, ASGIRequest):  # noqa: SLF001 - the only way to know
        body = _AsyncBody(work, pool)
    response = StreamingHttpResponse(body, content_type=content_type)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    return response


def join_frames(frames: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the frames, small ones joined to chunks of about `CHUNK_BYTES`."""
    chunk: list[bytes] = []
    size = 0
    for frame in frames:
        chunk.append(frame)
        size += len(frame)
        if size >= CHUNK_BYTES:
            yield b"".join(chunk)
            chunk, size = [], 0
    if chunk:
        yield b"".join(chunk)


class Progress:
    """The progress frames of one response, numbered from 0.

    Args:
        wanted: Whether the caller asked for them; without, every frame is empty.
    """

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._has_begun = False
        self._number = 0
        self._sent_s = 0.0

    @property
    def has_begun(self) -> bool:
        """Whether the first frame has been made, wanted or not."""
        return self._has_begun

    def frame(self, checked: int, total: int) -> bytes:
        """Return the next frame."""
        self._has_begun = True
        if not self._wanted:
            return b""
        number, self._number = self._number, self._number + 1
        self._sent_s = time.monotonic()
        return encode_progress(number, checked, total)

    def heartbeat(self, checked: int, total: int) -> bytes:
        """Return the next frame if the last one is `HEARTBEAT_S` old."""
        if time.monotonic() - self._sent_s < HEARTBEAT_S:
            return b""
        return self.frame(checked, total)


class _Work:
    """A frame iterator that can be closed from any thread, even in mid-step."""

    def __init__(
        self, frames: Iterator[bytes], close: Callable[[], None] | None
    ) -> None:
        self._frames = frames
        self._close_frames = close
        self._lock = threading.Lock()
        self._closed = False
        observability.STREAMS_OPEN.inc()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with self._lock:
            if self._closed:
                raise StopIteration
            try:
                return self._next_frame()
            except StopIteration:
                self._finish()
                raise
            except Exception:
                logger.exception("stream.failed")
                observability.STREAMS_CUT.labels("error").inc()
                self._finish()
                raise

    def _next_frame(self) -> bytes:
        while True:
            frame = next(self._frames)
            if frame:  # an empty chunk would end the response
                return frame

    def close(self) -> None:
        """Stop for good; waits for the step in hand."""
        with self._lock:
            if not self._closed:
                observability.STREAMS_CUT.labels("disconnect").inc()
                self._finish()

    def _finish(self) -> None:
        self._closed = True
        observability.STREAMS_OPEN.dec()
        if self._close_frames is not None:
            self._close_frames()


class _AsyncBody:
    """The asynchronous face of `_Work`: each step in a thread of the pool."""

    def __init__(self, work: _Work, pool: ThreadPoolExecutor) -> None:
        self._work = work
        self._pool = pool
        self._step: Future[bytes] | None = None

    def __aiter__(self) -> _AsyncBody:
        return self

    async def __anext__(self) -> bytes:
        self._step = self._pool.submit(next, self._work, _END)
        frame = await asyncio.wrap_future(self._step)
        if frame is _END:
            raise StopAsyncIteration
        return frame

    def close(self) -> None:
        """Stop the work without waiting for it; Django calls this in any ending."""
        if self._step is not None:
            self._step.cancel()
        self._pool.submit(self._work.close)

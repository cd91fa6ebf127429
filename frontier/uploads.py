"""Blobs coming in: one PUT each, to a signed address of this server.

    PUT /api/v1/blobs/upload/<token>

The token is all a client needs: it names one blob or part, bounds its size, and
expires. A body goes to disk in pieces while the server reads no faster than they are
written, so memory stays the same whatever its size. What does not arrive whole leaves
nothing behind.

Design note: docs/subsystems/blobs.md#uploads
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from backend.blobs.base import BlobStat, BlobWriter, ReceivesUploads
from frontier import blob_store, metrics
from frontier.admission import Receive, Scope, Send
from frontier.gateway import get_gateway
from frontier.http import HttpError, header, next_chunk, send_json
from frontier.upload_slots import NoSlotError, PlaceTakenError

PIECE_BYTES: Final = 512 * 1024
"""How much is gathered before it is written."""

_THREADS: Final = 8

T = TypeVar("T")

logger = logging.getLogger(__name__)

_pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="upload")


async def take_upload(
    scope: Scope, receive: Receive, send: Send, *, token: str
) -> None:
    """Receive the body of one PUT and answer it.

    Raises:
        HttpError, MatyanError: If it cannot be taken; nothing has been answered.
        DisconnectedError: If the client went away.
    """
    size = _announced(scope)
    blobs = await blob_store.open_blobs()
    if not isinstance(blobs, ReceivesUploads):
        raise HttpError(404, "not_found", "Not Found")
    place = blobs.place_of(token)
    address = (scope.get("client") or ("",))[0]
    async with _slot(place, address):
        writer = await _in_thread(lambda: blobs.receive(token))
        metrics.UPLOADS_ACTIVE.inc()
        try:
            stat = await _store(receive, writer, size)
        finally:
            metrics.UPLOADS_ACTIVE.dec()
            # Not awaited: a task that is being cancelled may get no other turn.
            writer.abort()
    headers = {"etag": f'"{stat.checksum}"'}
    answer = {"status": "OK", "size": stat.size, "checksum": stat.checksum}
    await send_json(send, 200, answer, headers=headers)


@contextlib.asynccontextmanager
async def _slot(place: str, address: str) -> AsyncIterator[None]:
    try:
        async with get_gateway().uploads.hold(place, address=address):
            yield
    except PlaceTakenError:
        reason = "This is being uploaded already"
        raise HttpError(409, "conflict", reason) from None
    except NoSlotError:
        reason = "Too many uploads at once: try again later"
        raise HttpError(503, "unavailable", reason, retry_after_s=5) from None


async def _store(receive: Receive, writer: BlobWriter, size: int | None) -> BlobStat:
    if size is not None:
        writer.expect(size)
    started_s = time.monotonic()
    received = await _receive(receive, writer)
    if size is not None and received != size:
        raise HttpError(
            400, "blob_length", "The body has another length than announced"
        )
    stat = await _in_thread(writer.commit)
    metrics.UPLOAD_BYTES.inc(received)
    metrics.UPLOAD_SECONDS.observe(time.monotonic() - started_s)
    return stat


async def _receive(receive: Receive, writer: BlobWriter) -> int:
    """Write the whole body; return its length."""
    limits = get_gateway().limits
    stall_s = limits.upload_stall_s
    started_s = time.monotonic()
    received, piece, more = 0, bytearray(), True
    while more:
        due_s = started_s + stall_s + received / limits.upload_bytes_per_s
        try:
            async with asyncio.timeout(min(stall_s, due_s - time.monotonic())):
                chunk, more = await next_chunk(receive)
        except TimeoutError:
            reason = (
                f"Nothing was sent for {stall_s:.0f} s, or less than "
                f"{limits.upload_bytes_per_s:.0f} bytes a second"
            )
            raise HttpError(408, "request_timeout", reason) from None
        received += len(chunk)
        piece += chunk
        if piece and (len(piece) >= PIECE_BYTES or not more):
            await _write(writer, piece)
            piece = bytearray()
    return received


async def _write(writer: BlobWriter, piece: bytearray) -> None:
    await _in_thread(lambda: writer.write(piece))


async def _in_thread(work: Callable[[], T]) -> T:
    """Return what `work` returns; a cancelled task waits until it is done.

    The writer belongs to one thread at a time, and is dropped next.
    """
    future = asyncio.get_running_loop().run_in_executor(_pool, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise


def _announced(scope: Scope) -> int | None:
    text = header(scope, "content-length")
    if text.isascii() and text.isdigit():
        return int(text)
    if header(scope, "transfer-encoding"):
        return None
    raise HttpError(411, "length_required", "Content-Length is needed")

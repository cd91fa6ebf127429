"""Where a run's blobs may be uploaded to: signed addresses for one blob each.

    POST /api/v1/rest/artifacts/presign              one PUT, or an upload in parts
    POST /api/v1/rest/artifacts/multipart/sign       one part's address
    POST /api/v1/rest/artifacts/multipart/parts      which parts have arrived
    POST /api/v1/rest/artifacts/multipart/complete   make them the blob
    POST /api/v1/rest/artifacts/multipart/abort      forget them

Each upload gets a key of its own in the blob store. That it was allowed is made durable
in the event log before it is answered, in the order of the requests, so that readers
can tell which upload of a path is meant (docs/subsystems/blobs.md#versions).

Design note: docs/subsystems/blobs.md#uploads
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings

from backend.blobs.base import MAX_PARTS, BlobStore, UploadTicket
from backend.blobs.signing import MultipartGrant, MultipartTokens
from backend.domain.blobs import blob_key, new_blob_id
from backend.errors import LimitExceededError
from frontier import blob_store, metrics
from frontier.gateway import get_gateway
from frontier.http import HttpError
from frontier.presign_body import (
    MultipartBody,
    PresignBody,
    read_multipart_body,
    read_presign_body,
)
from frontier.publishing import HoldExpiredError, publish_durably
from matyan_wire import batch as wire

MULTIPART_EXPIRY_S: Final = 24 * 3600
"""How long parts may be uploaded: uploads survive a night, and no longer."""

MIN_PART_BYTES: Final = 16 << 20
_MEBIBYTE: Final = 1 << 20
_HOLD_S: Final = 20.0
"""The public client waits 30 s for an answer, and gives the blob up without one."""

Answer = dict[str, Any]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """A request that has been let in.

    Attributes:
        body: Its JSON value.
        base_url: Where the client reaches this server.
    """

    body: Any
    base_url: str

    def put(self, ticket: UploadTicket) -> Answer:
        """Return what a ticket is answered as."""
        is_here = ticket.url.startswith("/")
        return {
            "upload_url": self.base_url + ticket.url if is_here else ticket.url,
            "headers": dict(ticket.headers) or None,
        }


async def presign(request: Request) -> Answer:
    """Allow one upload; answer where it goes."""
    body = read_presign_body(request.body)
    if body.size is not None and body.size > settings.MATYAN_MAX_UPLOAD_BYTES:
        raise LimitExceededError(
            what="upload", size=body.size, limit=settings.MATYAN_MAX_UPLOAD_BYTES
        )
    blobs = await _open_blobs()
    now_us = time.time_ns() // 1000
    blob_id = new_blob_id(now_us=now_us)
    await _publish_grant(body, blob_id, now_us=now_us)
    key = blob_key(body.run_id, body.path, blob_id)
    answer: Answer = {"upload_url": None, "headers": None, "multipart": None}
    if _in_parts(blobs, body):
        answer["multipart"] = await _start_multipart(blobs, body, key)
    else:
        answer |= request.put(_ticket(blobs, body, key))
    metrics.UPLOADS_GRANTED.inc()
    # As the client wrote it: it computes the key itself and compares.
    return {"s3_key": f"{body.run_id}/{body.artifact_path}", **answer}


async def sign_part(request: Request) -> Answer:
    """Answer where one part of an upload goes."""
    grant, body = _grant_of(request.body)
    if body.number is None or not 1 <= body.number <= grant.parts:
        raise HttpError(422, "validation_error", f"number: must be 1 to {grant.parts}")
    blobs = await _open_blobs()
    ticket = blobs.presign_part(
        grant.key,
        grant.upload_id,
        body.number,
        size=grant.part_size(body.number),
        expires_s=settings.MATYAN_UPLOAD_EXPIRY_SECONDS,
    )
    return request.put(ticket)


async def list_parts(request: Request) -> Answer:
    """Answer which parts of an upload have arrived whole."""
    grant, _ = _grant_of(request.body)
    blobs = await _open_blobs()
    parts = await asyncio.to_thread(blobs.list_parts, grant.key, grant.upload_id)
    arrived = [
        part.number
        for part in parts
        if part.number <= grant.parts and part.size == grant.part_size(part.number)
    ]
    return {"parts": arrived, "count": grant.parts, "part_bytes": grant.part_bytes}


async def complete(request: Request) -> Answer:
    """Make the parts the blob; doing it again is fine."""
    grant, _ = _grant_of(request.body)
    blobs = await _open_blobs()
    stat = await asyncio.to_thread(
        lambda: blobs.complete_multipart(grant.key, grant.upload_id, size=grant.size)
    )
    return {"status": "OK", "size": stat.size, "checksum": stat.checksum}


async def abort(request: Request) -> Answer:
    """Forget an upload in parts."""
    grant, _ = _grant_of(request.body)
    blobs = await _open_blobs()
    await asyncio.to_thread(blobs.abort_multipart, grant.key, grant.upload_id)
    return {"status": "OK"}


ROUTES: Final[Mapping[str, Callable[[Request], Awaitable[Answer]]]] = {
    "presign": presign,
    "multipart/sign": sign_part,
    "multipart/parts": list_parts,
    "multipart/complete": complete,
    "multipart/abort": abort,
}
"""What follows "/api/v1/rest/artifacts/" in the path, and what answers it."""


async def _open_blobs() -> BlobStore:
    """Return the blob store; whoever waits for it to open goes on in order."""
    async with get_gateway().opening_blobs:
        return await blob_store.open_blobs()


async def _publish_grant(body: PresignBody, blob_id: str, *, now_us: int) -> None:
    """Note in the event log that an upload was allowed.

    Raises:
        HttpError: If the log does not take it in time.
    """
    event = wire.BlobGrant(body.path, blob_id)
    batch = wire.Batch(wire.BATCH_VERSION, body.run_id, events=[event])
    record = wire.encode_envelope(
        received_us=now_us,
        digest=bytes.fromhex(blob_id),
        batch=wire.encode_batch(batch),
    )
    try:
        await publish_durably(
            record,
            run_id=body.run_id,
            health=get_gateway().log_health,
            deadline_s=time.monotonic() + _HOLD_S,
        )
    except HoldExpiredError:
        logger.warning("presign.not_taken", extra={"run_id": body.run_id})
        reason = "The event log is failing: try again later"
        raise HttpError(503, "event_log_unavailable", reason) from None


def _in_parts(blobs: BlobStore, body: PresignBody) -> bool:
    if not body.multipart or body.size is None or not blobs.has_multipart:
        return False
    return body.size > MIN_PART_BYTES


def _ticket(blobs: BlobStore, body: PresignBody, key: str) -> UploadTicket:
    limit = settings.MATYAN_MAX_UPLOAD_BYTES
    return blobs.presign_upload(
        key,
        max_bytes=limit if body.size is None else body.size,
        content_type=body.content_type,
        expires_s=settings.MATYAN_UPLOAD_EXPIRY_SECONDS,
        exact=body.size is not None,
    )


async def _start_multipart(blobs: BlobStore, body: PresignBody, key: str) -> Answer:
    size = body.size or 0
    upload_id = await asyncio.to_thread(
        lambda: blobs.start_multipart(key, content_type=body.content_type)
    )
    least = -(-size // (MAX_PARTS - 1))
    part_bytes = max(MIN_PART_BYTES, -(-least // _MEBIBYTE) * _MEBIBYTE)
    expires_us = time.time_ns() // 1000 + MULTIPART_EXPIRY_S * 1_000_000
    grant = MultipartGrant(key, upload_id, size, part_bytes, expires_us)
    return {
        "upload": _tokens().encode(grant),
        "part_bytes": part_bytes,
        "count": grant.parts,
    }


def _grant_of(value: Any) -> tuple[MultipartGrant, MultipartBody]:
    body = read_multipart_body(value)
    return _tokens().decode(body.upload, now_us=time.time_ns() // 1000), body


def _tokens() -> MultipartTokens:
    return MultipartTokens(settings.MATYAN_BLOB_SECRET)

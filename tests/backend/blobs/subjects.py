"""The blob stores under test, and how a client uploads to each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from backend.blobs.base import BlobStore, UploadTicket
from backend.blobs.filesystem import FilesystemBlobStore
from backend.errors import MatyanError

SECRET = "tests only"  # noqa: S105 - protects nothing
MEBIBYTE = 1 << 20


@dataclass
class Subject:
    """A store, and what it cannot do.

    Attributes:
        store: The store.
        upload: PUTs a body as a ticket says; returns the HTTP status.
        part_bytes: Least size of a part that is not the last.
        bounds_uploads: Whether an upload of another size than signed is refused.
        lists_uploads: Whether uploads in parts can be found by their keys.
        wait_until_expired: Returns when a ticket of one second no longer counts.
    """

    store: BlobStore
    upload: Callable[..., int]
    part_bytes: int = 1
    bounds_uploads: bool = True
    lists_uploads: bool = True
    wait_until_expired: Callable[[], None] = field(
        default=lambda: time.sleep(2.1)  # to whole seconds, on both sides
    )


def file_subject(directory: Any) -> Subject:
    clock = {"offset_us": 0}
    store = FilesystemBlobStore(
        path=str(directory),
        secret=SECRET,
        durable=False,
        now_us=lambda: time.time_ns() // 1000 + clock["offset_us"],
    )
    return Subject(
        store,
        lambda ticket, body, **_headers: receive(store, ticket, body),
        wait_until_expired=lambda: clock.update(offset_us=2_000_000),
    )


def receive(store: FilesystemBlobStore, ticket: UploadTicket, body: bytes) -> int:
    """Do what the gateway does with an upload."""
    try:
        writer = store.receive(ticket.url.rsplit("/", 1)[-1])
    except MatyanError as error:
        return error.http_status
    try:
        writer.expect(len(body))
        for start in range(0, len(body), MEBIBYTE):
            writer.write(body[start : start + MEBIBYTE])
        writer.commit()
    except MatyanError as error:
        return error.http_status
    finally:
        writer.abort()
    return 200


def http_upload(ticket: UploadTicket, body: bytes, **headers: str) -> int:
    """PUT as a client does."""
    response = httpx.put(
        ticket.url, content=body, headers={**ticket.headers, **headers}, timeout=30
    )
    return response.status_code

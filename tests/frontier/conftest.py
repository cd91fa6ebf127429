"""Gateways under test, on a real event log or on one that fails as told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from channels.testing import WebsocketCommunicator

from backend.bus.topics import INGESTION
from frontier import producer
from frontier.routing import application
from frontier.websocket_protocol import PACED_EXTENSION
from matyan_wire import batch as wire
from matyan_wire.frames import SUBPROTOCOL
from tests.frontier.failing_logs import ScriptedLog


@pytest.fixture
def real_log(settings: Any, data_dir: Path) -> Iterator[Any]:
    """The gateway's event log: the local implementation, empty."""
    settings.MATYAN_BUS = {
        "ENGINE": "backend.bus.local.LocalEventLog",
        "OPTIONS": {"path": str(data_dir / "log"), "durable": False},
    }
    yield producer.get_event_log()
    producer.close()


@pytest.fixture
def scripted_log(settings: Any) -> Iterator[ScriptedLog]:
    """The gateway's event log: takes everything until told otherwise."""
    settings.MATYAN_BUS = {"ENGINE": "tests.frontier.failing_logs.ScriptedLog"}
    producer.get_producer()
    yield ScriptedLog.last
    producer.close()


@pytest.fixture
def blob_files(settings: Any, data_dir: Path) -> None:
    """The gateway's blob store: files, none yet."""
    settings.MATYAN_BLOBS = {
        "ENGINE": "backend.blobs.filesystem.FilesystemBlobStore",
        "OPTIONS": {
            "path": str(data_dir / "blobs"),
            "secret": settings.MATYAN_BLOB_SECRET,
            "durable": False,
        },
    }


@pytest.fixture
async def http_client(
    blob_files: None, scripted_log: ScriptedLog
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the gateway's own HTTP routes; any other path is answered 418."""
    transport = httpx.ASGITransport(application(_nothing_else))
    async with httpx.AsyncClient(
        transport=transport, base_url="http://gateway:53801"
    ) as opened:
        yield opened


async def _nothing_else(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 418, "headers": []})
    await send({"type": "http.response.body", "body": b""})


Connect = Callable[..., Any]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Open connections to the gateway; closed after the test."""
    opened = []

    async def connect(
        run_id: str = "run",
        *,
        path: str = "/api/v1/ws/runs/{}",
        binary: bool = False,
        paced: bool = True,
        token: str = "",
    ) -> WebsocketCommunicator:
        communicator = WebsocketCommunicator(
            application(None),
            path.format(run_id),
            headers=[(b"authorization", f"Bearer {token}".encode())] if token else [],
            subprotocols=[SUBPROTOCOL] if binary else [],
        )
        # The communicator would read "//api" as a host.
        communicator.scope["path"] = path.format(run_id)
        communicator.scope["extensions"] = {PACED_EXTENSION: {}} if paced else {}
        connected, subprotocol = await communicator.connect(timeout=5)
        assert connected
        assert subprotocol == (SUBPROTOCOL if binary else None)
        opened.append(communicator)
        return communicator

    yield connect
    for communicator in opened:
        await communicator.disconnect(timeout=5)


def envelopes(log: Any) -> list[wire.Envelope]:
    """Return what the local log holds, partition by partition."""
    records = [
        record
        for partition in range(6)
        for record in log.read(
            INGESTION, partition=partition, offset=0, max_records=1000
        )
    ]
    return [wire.decode_envelope(record.value) for record in records]


def batches(log: Any) -> list[wire.Batch]:
    return [wire.decode_batch(envelope.batch) for envelope in envelopes(log)]


def taken(log: ScriptedLog) -> list[wire.Batch]:
    """Return what a scripted log has taken, in order."""
    return [
        wire.decode_batch(wire.decode_envelope(value).batch) for _, value in log.taken
    ]

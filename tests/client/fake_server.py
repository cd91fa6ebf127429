"""A gateway in a thread: speaks `matyan.v2` and JSON, and misbehaves on demand.

It keeps what it acknowledged the way the store does: a position is applied once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import ssl
import threading
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve

from matyan_wire.batch import Batch, SeriesRef, decode_batch, decode_payload
from matyan_wire.frames import decode_frame

Point = tuple[str, str, int, float, int, float]


@dataclass
class Answer:
    """What to do with a frame: keep it, answer it, hang up."""

    keep: bool = True
    error: str | None = None
    retry: bool = False
    silent: bool = False
    hang_up: bool = False
    delay_s: float = 0.0


@dataclass
class Received:
    """What the server holds."""

    batches: list[Batch] = field(default_factory=list)
    frames: int = 0
    repeats: int = 0
    sizes: list[int] = field(default_factory=list)
    positions: dict[str, tuple[int, int]] = field(default_factory=dict)
    contents: dict[tuple[str, int, int], bytes] = field(default_factory=dict)
    changed_repeats: int = 0
    json_messages: list[dict[str, Any]] = field(default_factory=list)
    queries: list[dict[str, list[str]]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)


class FakeServer:
    """Serves until `stop`; `start` again keeps port and data."""

    def __init__(
        self,
        *,
        port: int = 0,
        binary: bool = True,
        policy: Callable[[int, Batch], Answer] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.binary = binary
        self.tls = tls
        self.policy = policy or (lambda _number, _batch: Answer())
        self.refuse_status: int | None = None
        self.store_lag = 0  # how often the store is said to hold nothing yet
        self.version: dict[str, Any] = {"version": "0", "component": "fake"}
        self.deleted_us: int | None = None
        self.received = Received()
        self.pages: dict[str, Response] = {}
        self._lock = threading.Lock()
        self._server: Server | None = None
        self._open: set[ServerConnection] = set()
        self.port = port or free_port()
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}"

    def start(self) -> FakeServer:
        self._server = serve(
            self._handle,
            "127.0.0.1",
            self.port,
            process_request=self._http,
            ssl=self.tls,
            subprotocols=["matyan.v2"] if self.binary else None,
            select_subprotocol=None if self.binary else (lambda *_: None),
            max_size=None,
            compression=None,
            ping_interval=None,
            close_timeout=0.2,
            logger=quiet_logger(),
        )
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="fake-server", daemon=True
        )
        self._thread.start()
        return self

    def stop(self) -> None:
        """Die: no close frames, connections are cut."""
        if self._server is None:
            return
        self._server.shutdown()
        for connection in list(self._open):
            cut(connection)
        self._thread.join(5)
        self._server = None

    def __enter__(self) -> FakeServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _http(self, _connection: ServerConnection, request: Request) -> Response | None:
        self.received.requests.append(request.path)
        self.received.authorizations.append(request.headers.get("Authorization"))
        parts = urlsplit(request.path)
        if parts.path.endswith("/version/"):
            return answer_json(self.version)
        page = self.pages.get(parts.path.partition("/api/v1/rest/")[2].strip("/"))
        if page is not None:
            self.received.queries.append(parse_qs(parts.query))
            return page
        if parts.path.endswith("/durable"):
            return self._durable(parse_qs(parts.query)["writer"][0])
        if "/api/v1/ws/runs/" not in parts.path:
            return answer_json({"message": "Not Found"}, status=404)
        if self.refuse_status is not None:
            return answer_json({"message": "no"}, status=self.refuse_status)
        return None

    def _durable(self, writer: str) -> Response:
        if self.deleted_us is not None:
            answer = {"epoch": 0, "seq": 0, "part": None, "deleted_us": self.deleted_us}
            return answer_json(answer)
        position = self.received.positions.get(writer)
        if position is not None and self.store_lag:
            self.store_lag -= 1
            return answer_json({"error": {"code": "not_found"}}, status=404)
        if position is None:
            return answer_json({"message": "Not Found"}, status=404)
        return answer_json({"epoch": position[0], "seq": position[1], "part": 0})

    def _handle(self, connection: ServerConnection) -> None:
        self._open.add(connection)
        with contextlib.suppress(ConnectionClosed, OSError):
            for message in connection:
                if isinstance(message, str):
                    self._json(connection, message)
                elif not self._binary(connection, message):
                    break
        self._open.discard(connection)

    def _binary(self, connection: ServerConnection, message: bytes) -> bool:
        batch = decode_batch(decode_frame(message))
        with self._lock:
            self.received.frames += 1
            answer = self.policy(self.received.frames, batch)
            if answer.keep:
                self._apply(batch)
        if answer.delay_s:
            time.sleep(answer.delay_s)
        if answer.hang_up:
            cut(connection)
            return False
        if not answer.silent:
            connection.send(ack(batch, answer))
        # As the gateway: once a frame is to be sent again, none behind it is taken on
        # this connection, or the writer's position would pass the missing one.
        return not answer.retry

    def _apply(self, batch: Batch) -> None:
        position = batch.position
        assert position is not None
        here = (position.epoch, position.seq)
        key = (position.writer, *here)
        content = repr((batch.series, batch.points, batch.objects, batch.events))
        if here <= self.received.positions.get(position.writer, (0, 0)):
            self.received.repeats += 1
            if self.received.contents.get(key) != content.encode():
                self.received.changed_repeats += 1
            return
        self.received.positions[position.writer] = here
        self.received.contents[key] = content.encode()
        self.received.batches.append(batch)

    def _json(self, connection: ServerConnection, message: str) -> None:
        body = json.loads(message)
        with self._lock:
            self.received.frames += 1
            self.received.json_messages += body if isinstance(body, list) else [body]
        connection.send(json.dumps({"status": "ok", "error": None}))

    # What it holds.

    def points(self) -> list[Point]:
        """Return (name, context, step, value, time_us, epoch) in order of arrival."""
        with self._lock:
            batches = list(self.received.batches)
        return [point for batch in batches for point in points_of(batch)]

    def objects(self, kind: str) -> list[tuple[SeriesRef, int, Any]]:
        with self._lock:
            batches = list(self.received.batches)
        found = []
        for batch in batches:
            if batch.objects is None:
                continue
            places = numbers("I", batch.objects.series)
            steps = numbers("q", batch.objects.steps)
            for place, step, payload in zip(
                places, steps, batch.objects.payloads, strict=True
            ):
                if batch.series[place].kind == kind:
                    found.append((batch.series[place], step, decode_payload(payload)))
        return found

    def events(self) -> list[Any]:
        with self._lock:
            return [event for batch in self.received.batches for event in batch.events]


def quiet_logger() -> logging.Logger:
    logger = logging.getLogger("fake_server")
    logger.setLevel(logging.CRITICAL)
    return logger


def points_of(batch: Batch) -> list[Point]:
    if batch.points is None:
        return []
    columns = batch.points
    epochs = numbers("d", columns.epochs) if columns.epochs else [None] * columns.count
    return [
        (batch.series[place].name, batch.series[place].context, *rest)
        for place, *rest in zip(
            numbers("I", columns.series),
            numbers("q", columns.steps),
            numbers("d", columns.values),
            numbers("q", columns.times_us),
            epochs,
            strict=True,
        )
    ]


def numbers(kind: str, column: bytes) -> Any:
    found = array(kind)
    found.frombytes(column)
    return found


def ack(batch: Batch, answer: Answer) -> str:
    assert batch.position is not None
    position = {"seq": batch.position.seq, "epoch": batch.position.epoch}
    if answer.error is None:
        return json.dumps({"status": "ok", **position})
    return json.dumps(
        {"status": "error", "error": answer.error, "retry": answer.retry, **position}
    )


def answer_json(body: Any, *, status: int = 200) -> Response:
    return answer(json.dumps(body).encode(), "application/json", status=status)


def answer(body: bytes, content_type: str, *, status: int = 200) -> Response:
    headers = Headers({"Content-Type": content_type, "Content-Length": str(len(body))})
    headers["Connection"] = "close"
    return Response(status, HTTPStatus(status).phrase, headers, body)


def cut(connection: ServerConnection) -> None:
    with contextlib.suppress(OSError):
        connection.socket.shutdown(socket.SHUT_RDWR)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

"""A gateway's uploads in a thread: allows, takes and keeps blobs, fails on demand."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ARTIFACTS = "/api/v1/rest/artifacts/"


@dataclass
class Trouble:
    """What to do instead of answering: a status, a wait, or hanging up half way."""

    status: int = 0
    body: dict[str, Any] = field(default_factory=dict)
    hang: bool = False
    cut_after: int = -1
    wrong_checksum: bool = False


Policy = Callable[[str, int], Trouble | None]


class BlobServer:
    """Routes are "presign", "put", "multipart/…"; requests of each count from 1."""

    def __init__(self, policy: Policy = lambda _route, _number: None) -> None:
        self.policy = policy
        self.part_bytes = 0
        self.stored: dict[str, bytes] = {}
        self.presigned: list[dict[str, Any]] = []
        self.order: list[str] = []
        self.received = 0
        self.most_at_once = 0
        self.released = threading.Event()
        self.counts: dict[str, int] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self._lock = threading.Lock()
        self._active = 0
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]

    def __enter__(self) -> BlobServer:
        self._thread = threading.Thread(
            target=lambda: self._http.serve_forever(0.02), daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5)

    def count(self, route: str) -> int:
        return self.counts.get(route, 0)

    def _trouble(self, route: str) -> Trouble | None:
        with self._lock:
            self.counts[route] = number = self.counts.get(route, 0) + 1
        trouble = self.policy(route, number)
        if trouble is not None and trouble.hang:
            self.released.wait(30)
        return trouble

    def _handler(self) -> type[BaseHTTPRequestHandler]:  # noqa: C901 - one class
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # one packet an answer: nothing waits for acknowledgements

            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                body = json.loads(self.rfile.read(size))
                route = self.path.removeprefix(ARTIFACTS)
                trouble = server._trouble(route)
                if trouble is not None and trouble.status:
                    self._answer(trouble.status, trouble.body)
                    return
                try:
                    answer = server.answer(route, body)
                except KeyError:
                    self._answer(404, {"message": "No such upload"})
                    return
                self._answer(200, answer)

            def do_PUT(self) -> None:
                with server._lock:
                    server._active += 1
                    server.most_at_once = max(server.most_at_once, server._active)
                try:
                    self._put()
                finally:
                    with server._lock:
                        server._active -= 1

            def _put(self) -> None:
                trouble = server._trouble("put")
                size = int(self.headers["Content-Length"])
                if trouble is not None and trouble.cut_after >= 0:
                    self.rfile.read(min(size, trouble.cut_after))
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                data = self.rfile.read(size)
                if trouble is not None and trouble.status:
                    self._answer(trouble.status, trouble.body)
                    return
                digest = hashlib.sha256(data).hexdigest()
                if trouble is not None and trouble.wrong_checksum:
                    digest = "0" * 64
                elif len(data) == size:
                    server.take(self.path, data)
                self._answer(200, {"size": size, "checksum": f"sha256:{digest}"})

            def _answer(self, status: int, body: Any) -> None:
                encoded = json.dumps(body).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(encoded)))
                    self.end_headers()
                    self.wfile.write(encoded)
                except OSError:
                    self.close_connection = True

        return Handler

    def answer(self, route: str, body: dict[str, Any]) -> Any:
        base = f"http://127.0.0.1:{self.port}"
        if route == "presign":
            with self._lock:
                self.presigned.append(body)
                number = len(self.presigned)
            if body["multipart"] and self.part_bytes:
                self.parts[f"u{number}"] = {}
                count = -(-body["size"] // self.part_bytes)
                upload = {"upload": f"u{number}", "part_bytes": self.part_bytes}
                return {"multipart": {**upload, "count": count}, "upload_url": None}
            return {"upload_url": f"{base}/blob/{number}", "headers": {"X-Kept": "1"}}
        upload = body["upload"]
        parts = self.parts[upload]
        if route == "multipart/sign":
            url = f"{base}/part/{upload}/{body['number']}"
            return {"upload_url": url, "headers": None}
        if route == "multipart/parts":
            size = self.presigned[int(upload[1:]) - 1]["size"]
            count = -(-size // self.part_bytes)
            listed = {"parts": sorted(parts), "part_bytes": self.part_bytes}
            return {**listed, "count": count}
        data = b"".join(parts[number] for number in sorted(parts))
        self._keep(int(upload[1:]), data)
        digest = hashlib.sha256(data).hexdigest()
        return {"status": "OK", "size": len(data), "checksum": f"sha256:{digest}"}

    def take(self, path: str, data: bytes) -> None:
        with self._lock:
            self.received += len(data)
        kind, _, rest = path.removeprefix("/").partition("/")
        if kind == "part":
            upload, _, number = rest.partition("/")
            self.parts[upload][int(number)] = data
            return
        self._keep(int(rest), data)

    def _keep(self, number: int, data: bytes) -> None:
        path = self.presigned[number - 1]["artifact_path"]
        with self._lock:
            self.stored[path] = data
            self.order.append(path)

"""An S3 server that refuses, breaks, hangs or is gone; what only S3 has."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from backend.blobs.gcs import GcsBlobStore
from backend.blobs.s3 import S3BlobStore
from backend.errors import BlobStoreError, BlobStoreUnavailableError
from tests.services.s3 import S3Server

QUICK = {"connect_timeout_s": 1.0, "read_timeout_s": 0.3, "attempts": 1}
KEYS = {"access_key": "key", "secret_key": "the-secret"}


@contextlib.contextmanager
def opened(**options: Any) -> Iterator[S3BlobStore]:
    with contextlib.closing(S3BlobStore(**{"bucket": "b", **KEYS, **options})) as store:
        yield store


def assert_every_call_fails(store: S3BlobStore) -> None:
    """Each call ends with the one error, in bounded time."""
    started = time.monotonic()
    for call in (
        store.check,
        lambda: store.stat("r/any"),
        lambda: store.open("r/any"),
        lambda: store.put("r/any", [b"x"]),
        lambda: store.delete("r/any"),
        lambda: store.delete_many(["r/any"]),
        lambda: list(store.iter_keys("r/")),
        lambda: store.start_multipart("r/any", content_type="a/b"),
        lambda: store.abort_uploads("r/"),
        lambda: store.abort_stale(older_than_s=0),
    ):
        with pytest.raises(BlobStoreUnavailableError) as caught:
            call()
        assert caught.value.http_status == 503
        assert "the-secret" not in str(caught.value)
    assert time.monotonic() - started < 30


class Broken(BaseHTTPRequestHandler):
    """Answers everything with the server's `status`."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.server.status)  # type: ignore[attr-defined]  # ours
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_PUT = do_POST = do_HEAD = do_DELETE = do_GET  # noqa: N815 - names of the base

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


class Deleting(BaseHTTPRequestHandler):
    """Answers bulk deletions with the server's `status` and `body`, others with 204."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        digest = hashlib.md5(body, usedforsecurity=False).digest()
        assert self.headers["Content-MD5"] == base64.b64encode(digest).decode()
        self._answer(self.server.status, self.server.body)  # type: ignore[attr-defined]  # ours

    def do_DELETE(self) -> None:
        self._answer(204, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.server.seen.append(f"{self.command} {self.path}")  # type: ignore[attr-defined]  # ours
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Takes as many connections at once as a store opens."""

    daemon_threads = True
    request_queue_size = 64


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[Any]:
    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture
def broken() -> Iterator[Any]:
    with serving(Broken) as server:
        yield server


@pytest.fixture
def deleting() -> Iterator[Any]:
    with serving(Deleting) as server:
        server.seen = []
        yield server


RESULT = (
    b"<DeleteResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'>%s</DeleteResult>"
)
FAILED = b"<Error><Key>r/1</Key><Code>AccessDenied</Code><Message>No</Message></Error>"
ABSENT = b"<Error><Key>r/1</Key><Code>NoSuchKey</Code></Error>"
NOT_THERE = b"<Error><Code>NotImplemented</Code></Error>"


@pytest.mark.parametrize("result", [b"", ABSENT])
def test_many_are_deleted_in_one_request(deleting, result):
    deleting.status, deleting.body = 200, RESULT % result
    with opened(endpoint=f"http://127.0.0.1:{deleting.server_port}", **QUICK) as store:
        store.delete_many(f"r/{number}" for number in range(1_001))
        store.delete_many([])
    assert deleting.seen == ["POST /b?delete"] * 2


def test_a_server_that_deletes_one_at_a_time_is_asked_so(deleting):
    deleting.status, deleting.body = 501, NOT_THERE
    with opened(endpoint=f"http://127.0.0.1:{deleting.server_port}", **QUICK) as store:
        for _ in range(2):
            store.delete_many(f"r/{number}" for number in range(20))
    assert deleting.seen[0] == "POST /b?delete"
    single = sorted(f"DELETE /b/r/{number}" for number in range(20))
    assert sorted(deleting.seen[1:]) == sorted(single * 2)


def test_what_a_server_did_not_delete_is_told_of(deleting):
    deleting.status, deleting.body = 200, RESULT % FAILED
    with (
        opened(endpoint=f"http://127.0.0.1:{deleting.server_port}", **QUICK) as store,
        pytest.raises(BlobStoreError, match="No"),
    ):
        store.delete_many(["r/0", "r/1"])


@pytest.mark.parametrize("status", [500, 503, 403])
def test_a_server_that_breaks_is_told_of(broken, status):
    broken.status = status
    with opened(endpoint=f"http://127.0.0.1:{broken.server_port}", **QUICK) as store:
        assert_every_call_fails(store)


def test_a_server_that_is_not_there_is_told_of():
    with opened(endpoint="http://127.0.0.1:9", **QUICK) as store:
        assert_every_call_fails(store)


def test_signing_asks_no_server():
    with opened(endpoint="http://127.0.0.1:9", **QUICK) as store:
        ticket = store.presign_upload(
            "r/a", max_bytes=1, content_type="a/b", expires_s=60
        )
    assert "X-Amz-SignedHeaders=host&" in ticket.url
    assert dict(ticket.headers) == {}


def test_clients_are_sent_to_the_public_endpoint():
    with opened(
        endpoint="http://inside:9000", public_endpoint="https://blobs.example.org"
    ) as store:
        ticket = store.presign_upload(
            "r/é", max_bytes=1, content_type="a/b", expires_s=60
        )
    found = urlsplit(ticket.url)
    assert (found.scheme, found.netloc) == ("https", "blobs.example.org")
    assert found.path == "/b/r/%C3%A9"


def test_options_that_make_no_client_are_refused():
    with pytest.raises(BlobStoreError, match="Invalid endpoint"):
        S3BlobStore(bucket="b", endpoint="not a url", **KEYS)


def test_google_is_spoken_to_as_s3():
    with contextlib.closing(GcsBlobStore(bucket="b", **KEYS)) as store:
        ticket = store.presign_upload(
            "r/a", max_bytes=5, content_type="a/b", expires_s=60, exact=True
        )
        assert ticket.url.startswith("https://storage.googleapis.com/b/r/a?")
        assert store.display_uri("r/a") == "gs://b/r/a"


@pytest.mark.s3
@pytest.mark.xdist_group("s3")
def test_wrong_credentials_and_buckets_are_told_of(s3_server):
    wrong = {**s3_server.options, "secret_key": "the-secret"}
    with (
        opened(**wrong, attempts=1) as store,
        pytest.raises(BlobStoreUnavailableError, match=r"403|Signature") as caught,
    ):
        store.put("r/a", [b"x"])
    assert "the-secret" not in str(caught.value)
    missing = {**s3_server.options, "bucket": "none"}
    with (
        opened(**missing, attempts=1) as store,
        pytest.raises(BlobStoreUnavailableError, match=r"404|NoSuchBucket"),
    ):
        store.check()


@pytest.mark.s3
def test_a_server_that_hangs_or_dies_is_waited_for_no_longer_than_allowed(
    tmp_path: Path,
):
    content = b"x" * 32_000_000  # more than sockets hold
    with (
        S3Server(tmp_path) as server,
        opened(**server.options) as patient,
        opened(**server.options, **QUICK) as hasty,
    ):
        patient.put("r/a", [content])
        patient.stat("r/a")
        server.pause()
        assert_every_call_fails(hasty)
        server.resume()
        assert patient.open("r/a").read() == content
        reading = patient.open("r/a")
        next(reading)
        server.kill()
        assert_every_call_fails(hasty)
        with pytest.raises(BlobStoreUnavailableError):
            reading.read()
        server.start()
        assert patient.open("r/a").read() == content


@pytest.mark.s3
@pytest.mark.xdist_group("s3")
def test_uploads_in_parts_that_nobody_ended_are_removed(s3_server):
    with opened(**s3_server.options) as store:
        upload_id = store.start_multipart("r/stale", content_type="a/b")
        assert store.abort_stale(older_than_s=-60) >= 1
        assert store.list_parts("r/stale", upload_id) == []

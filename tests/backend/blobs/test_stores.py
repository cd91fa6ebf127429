"""What every blob store does, written only against `backend.blobs.base`."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from backend.blobs.base import Part
from backend.errors import (
    BlobKeyError,
    BlobLengthError,
    BlobNotFoundError,
    BlobStoreUnavailableError,
    BlobTooLargeError,
    MultipartNotFoundError,
)
from tests.backend.blobs.subjects import MEBIBYTE, Subject

ODD_KEYS = [
    "r/plain.txt",
    "r/with space & more.bin",
    "r/ünïcödé/日本語.png",
    "r/q\"uo'te;=%2F?#.txt",
    "r/~" + "a" * 64,
    "r/x.data",
    "r/x.meta/y.data",
    "r/" + "n" * 250,
    "r/" + "é" * 400,
    "r/-/--",
]
BAD_KEYS = [
    "",
    "/r/a",
    "r/",
    "r//a",
    "r/./a",
    "r/../a",
    "..",
    "r/a\nb",
    "r/a\0",
    "r/\x85",
    "r/\ud800",
    "r/" + "a" * 1023,
]
BYTES = bytes(range(256)) * 40


def read(store: Any, key: str, **where: int) -> bytes:
    with store.open(key, **where) as opened:
        return opened.read()


def ticket(subject: Subject, key: str, **changes: Any) -> Any:
    options = {"max_bytes": 10, "content_type": "text/plain", "expires_s": 60}
    return subject.store.presign_upload(key, **{**options, **changes})


# --- reading and writing -------------------------------------------------------------


def test_what_was_put_is_read(store):
    stat = store.put("r/a", [b"abc", b"", b"def"], content_type="text/x")
    assert (stat.size, stat.content_type) == (6, "text/x")
    assert stat.checksum
    assert store.stat("r/a") == stat
    with store.open("r/a") as opened:
        assert (opened.stat, opened.start, opened.stop) == (stat, 0, 6)
        assert opened.read() == b"abcdef"


def test_a_blob_is_replaced_whole(store):
    first = store.put("r/a", [b"a long first content"])
    second = store.put("r/a", [b"short"])
    assert read(store, "r/a") == b"short"
    assert first.checksum != second.checksum


def test_a_missing_blob_is_said_to_be(store):
    store.put("r/a/b", [b"x"])
    for key in ("r/none", "r/a", "r/a/b/c", "none/a"):
        assert store.stat(key) is None
        with pytest.raises(BlobNotFoundError, match="has not been uploaded"):
            store.open(key)
        store.delete(key)
    assert read(store, "r/a/b") == b"x"


def test_an_empty_blob_is_a_blob(store):
    assert store.put("r/empty", []).size == 0
    assert read(store, "r/empty") == b""
    assert read(store, "r/empty", start=0, stop=5) == b""
    assert [entry.size for entry in store.iter_entries("r/")] == [0]


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        (0, 1),
        (0, 10_240),
        (5, 9),
        (10_239, None),
        (100, 99_999),
        (7, 7),
        (20_000, None),
    ],
)
def test_a_range_is_read(store, start, stop):
    store.put("r/a", [BYTES])
    with store.open("r/a", start=start, stop=stop) as opened:
        assert opened.read() == BYTES[start:stop]
        assert opened.stop - opened.start == len(BYTES[start:stop])
        assert opened.stat.size == len(BYTES)


def test_a_large_blob_passes_in_pieces(store):
    sizes = [1, 3 * MEBIBYTE, 65_537, 9 * MEBIBYTE, 17]
    chunks = [bytes([number]) * size for number, size in enumerate(sizes)]
    store.put("r/large", chunks)
    digest = hashlib.sha256(b"".join(chunks)).digest()
    found, largest = hashlib.sha256(), 0
    with store.open("r/large") as opened:
        for chunk in opened:
            found.update(chunk)
            largest = max(largest, len(chunk))
    assert found.digest() == digest
    assert largest <= 4 * MEBIBYTE


def _breaking(after: int) -> Iterator[bytes]:
    for _ in range(after):
        yield b"x" * MEBIBYTE
    message = "the source broke"
    raise RuntimeError(message)


@pytest.mark.parametrize("after", [0, 1, 12])
def test_a_source_that_breaks_changes_nothing(store, after):
    store.put("r/a", [b"before"])
    with pytest.raises(RuntimeError, match="the source broke"):
        store.put("r/a", _breaking(after))
    with pytest.raises(RuntimeError, match="the source broke"):
        store.put("r/new", _breaking(after))
    assert read(store, "r/a") == b"before"
    assert list(store.iter_keys("r/")) == ["r/a"]


@pytest.mark.parametrize("size", [11, 10 * MEBIBYTE])
def test_more_than_allowed_is_refused(store, size):
    with pytest.raises(BlobTooLargeError, match="limit=10"):
        store.put("r/a", [b"x" * size], max_bytes=10)
    assert store.stat("r/a") is None
    assert store.put("r/a", [b"x" * 10], max_bytes=10).size == 10


def test_of_writers_at_once_one_wins_whole(store):
    contents = [bytes([number]) * (100_000 + number) for number in range(8)]

    def put(content: bytes) -> bool:
        try:
            return store.put("r/a", [content]).size == len(content)
        except BlobStoreUnavailableError:
            return False

    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(put, contents))
    assert any(written)
    assert read(store, "r/a") in itertools.compress(contents, written)


# --- keys ----------------------------------------------------------------------------


def test_odd_keys_stay_what_they_are(store):
    for key in ODD_KEYS:
        store.put(key, [key.encode()])
    assert sorted(store.iter_keys("r/")) == sorted(ODD_KEYS)
    for key in ODD_KEYS:
        assert read(store, key) == key.encode()
        store.delete(key)
    assert list(store.iter_keys("r/")) == []


@pytest.mark.parametrize("key", BAD_KEYS, ids=ascii)
def test_what_cannot_be_a_key_is_refused_everywhere(subject, key):
    store = subject.store
    calls = [
        lambda: store.put(key, [b"x"]),
        lambda: store.stat(key),
        lambda: store.open(key),
        lambda: store.delete(key),
        lambda: ticket(subject, key),
        lambda: store.start_multipart(key, content_type="a/b"),
        lambda: store.presign_part(key, "0" * 32, 1, size=1, expires_s=1),
        lambda: store.list_parts(key, "0" * 32),
        lambda: store.display_uri(key),
    ]
    for call in calls:
        with pytest.raises(BlobKeyError, match="Not a usable blob path"):
            call()


@pytest.mark.parametrize("prefix", ["r", "r/../", "/", "r//"])
def test_what_cannot_be_a_prefix_is_refused(store, prefix):
    with pytest.raises(BlobKeyError, match="Not a usable blob path"):
        list(store.iter_entries(prefix))


def test_a_listing_is_of_whole_components(store):
    for key in ("r/a/1", "r/a/2", "r/ab", "r/a.txt", "r/b/a/1"):
        store.put(key, [key.encode()])
    assert sorted(store.iter_keys("r/a/")) == ["r/a/1", "r/a/2"]
    entries = {entry.key: entry for entry in store.iter_entries("r/")}
    assert len(entries) == 5
    assert entries["r/b/a/1"].size == 7
    assert entries["r/ab"].modified_us > 1_600_000_000_000_000
    assert list(store.iter_keys("s/")) == []


def test_a_key_may_begin_with_another(store):
    store.put("r/a", [b"1"])
    store.put("r/a/b", [b"2"])
    store.put("r/a/b/c", [b"3"])
    store.delete("r/a")
    assert (read(store, "r/a/b"), read(store, "r/a/b/c")) == (b"2", b"3")


# --- deleting ------------------------------------------------------------------------


def test_a_prefix_is_deleted_in_bounded_steps(store):
    for number in range(7):
        store.put(f"r/a/{number}", [b"x"])
    store.put("r/b", [b"x"])
    counts = [store.delete_prefix("r/a/", max_blobs=3) for _ in range(4)]
    assert counts == [3, 3, 1, 0]
    assert list(store.iter_keys("r/")) == ["r/b"]


def test_only_the_condemned_are_deleted(store):
    for number in range(6):
        store.put(f"r/{number}", [b"x"])
    deleted = store.delete_prefix("r/", condemned=lambda key: int(key[-1]) % 2 == 0)
    assert deleted == 3
    assert sorted(store.iter_keys("r/")) == ["r/1", "r/3", "r/5"]


def test_deleting_many_takes_missing_ones(store):
    store.put("r/a", [b"x"])
    store.delete_many(["r/none", "r/a", "r/none"])
    assert list(store.iter_keys("r/")) == []


# --- uploads by clients --------------------------------------------------------------


def test_a_ticket_brings_one_blob(subject):
    found = ticket(subject, "r/up")
    assert subject.upload(found, b"0123456789") in {200, 201}
    assert read(subject.store, "r/up") == b"0123456789"
    assert subject.upload(found, b"again", **{"content-type": "a/b"}) in {200, 201}
    assert read(subject.store, "r/up") == b"again"
    assert list(subject.store.iter_keys("r/")) == ["r/up"]


def _altered(url: str) -> Iterator[str]:
    """URLs with one character changed: in the signature, or in what is signed."""
    head, _, tail = url.rpartition("/")
    for at in range(0, len(tail), max(1, len(tail) // 12)):
        if tail[at].isalnum():
            swapped = "A" if tail[at] != "A" else "B"
            yield f"{head}/{tail[:at]}{swapped}{tail[at + 1 :]}"


def test_an_altered_ticket_is_refused(subject):
    found = ticket(subject, "r/up")
    altered = list(_altered(found.url))
    assert altered
    statuses = {
        subject.upload(type(found)(url, found.headers), b"0123456789")
        for url in altered
    }
    assert min(statuses) >= 400
    assert list(subject.store.iter_keys("r/")) == []


def test_an_expired_ticket_is_refused(subject):
    found = ticket(subject, "r/up", expires_s=1)
    subject.wait_until_expired()
    assert subject.upload(found, b"0123456789") == 403
    assert subject.store.stat("r/up") is None


@pytest.mark.parametrize("body", [b"", b"012345678", b"0123456789a"])
def test_an_upload_of_another_size_is_refused(subject, body):
    if not subject.bounds_uploads:
        pytest.skip("this store signs no sizes")
    found = ticket(subject, "r/up", exact=True)
    assert subject.upload(found, body) in {400, 403, 413}
    assert subject.store.stat("r/up") is None
    assert subject.upload(found, b"0123456789") == 200


# --- uploads in parts ----------------------------------------------------------------


class Multipart:
    """An upload in three parts."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.store = subject.store
        self.parts = [b"a" * subject.part_bytes, b"b" * subject.part_bytes, b"end"]
        self.size = sum(map(len, self.parts))
        self.upload_id = self.store.start_multipart("r/mp", content_type="x/y")

    def send(self, number: int, body: bytes | None = None) -> int:
        content = self.parts[number - 1] if body is None else body
        found = self.store.presign_part(
            "r/mp", self.upload_id, number, size=len(content), expires_s=60
        )
        return self.subject.upload(found, content)

    def list(self) -> list[Part]:
        return self.store.list_parts("r/mp", self.upload_id)

    def complete(self) -> Any:
        return self.store.complete_multipart("r/mp", self.upload_id, size=self.size)


def test_parts_become_the_blob(subject):
    upload = Multipart(subject)
    for number in (3, 1, 2):
        assert upload.send(number) in {200, 201}
    assert upload.list() == [
        Part(number, len(part)) for number, part in enumerate(upload.parts, 1)
    ]
    assert subject.store.stat("r/mp") is None
    stat = upload.complete()
    assert (stat.size, stat.content_type) == (upload.size, "x/y")
    assert read(subject.store, "r/mp") == b"".join(upload.parts)
    assert upload.complete() == stat


def test_a_part_may_be_sent_again(subject):
    upload = Multipart(subject)
    for number in (1, 2, 3, 3):
        upload.send(number)
    upload.send(1, b"c" * subject.part_bytes)
    upload.complete()
    assert read(subject.store, "r/mp", stop=3) == b"c" * min(3, subject.part_bytes) + (
        b"b" + b"e" if subject.part_bytes == 1 else b""
    )


def test_an_upload_is_resumed_with_what_is_missing(subject):
    upload = Multipart(subject)
    upload.send(1)
    upload.send(3)
    with pytest.raises(BlobLengthError, match="another length than announced"):
        upload.complete()
    assert [part.number for part in upload.list()] == [1, 3]
    upload.send(2)
    assert upload.complete().size == upload.size


def test_an_upload_without_parts_is_not_completed(subject):
    upload = Multipart(subject)
    with pytest.raises(BlobLengthError, match="another length than announced"):
        upload.complete()
    assert subject.store.stat("r/mp") is None


def test_an_aborted_upload_leaves_nothing(subject):
    upload = Multipart(subject)
    upload.send(1)
    for _ in range(2):
        subject.store.abort_multipart("r/mp", upload.upload_id)
    with pytest.raises((BlobLengthError, MultipartNotFoundError), match=r"upload"):
        upload.complete()
    assert list(subject.store.iter_keys("r/")) == []


def test_uploads_under_a_prefix_are_forgotten(subject):
    upload = Multipart(subject)
    upload.send(1)
    store = subject.store
    if not subject.lists_uploads:
        assert store.abort_uploads("r/") == 0
        pytest.skip("this store forgets them by itself")
    for prefix in ("s/", "r/m/", "r/mp/"):
        assert store.abort_uploads(prefix) == 0
    assert store.abort_uploads("r/", condemned=lambda key: key != "r/mp") == 0
    assert len(upload.list()) == 1
    assert store.abort_uploads("r/", condemned=lambda key: key == "r/mp") == 1
    assert store.abort_uploads("r/") == 0
    with pytest.raises((BlobLengthError, MultipartNotFoundError), match=r"upload"):
        upload.complete()
    with pytest.raises(BlobKeyError, match="Not a usable blob path"):
        store.abort_uploads("r/../")


@pytest.mark.parametrize("number", [0, -1, 10_001])
def test_a_part_has_a_number(store, number):
    upload_id = store.start_multipart("r/mp", content_type="x/y")
    with pytest.raises(BlobKeyError, match="parts are 1 to 10000"):
        store.presign_part("r/mp", upload_id, number, size=1, expires_s=60)


# --- the store itself ----------------------------------------------------------------


def test_a_store_that_works_says_nothing(store):
    store.check()


def test_where_a_blob_is_can_be_shown(store):
    scheme, _, rest = store.display_uri("r/a").partition("://")
    assert scheme in {"file", "s3", "azure"}
    assert rest


def test_uploads_under_way_are_not_stale(subject):
    upload = Multipart(subject)
    upload.send(1)
    assert subject.store.abort_stale(older_than_s=3600) == 0
    assert len(upload.list()) == 1


def test_a_listing_may_be_stopped(store):
    for number in range(5):
        store.put(f"r/{number}", [b"x"])
    assert len(list(itertools.islice(store.iter_entries("r/"), 2))) == 2

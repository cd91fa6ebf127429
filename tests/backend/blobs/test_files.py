"""What only files can go wrong in: links, full disks, what a crash leaves."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backend.blobs.factory import open_blob_store
from backend.blobs.filesystem import FilesystemBlobStore
from backend.errors import (
    BlobNotFoundError,
    BlobStoreError,
    BlobStoreFullError,
    BlobStoreUnavailableError,
    MultipartNotFoundError,
    TokenError,
)
from tests.backend.blobs.subjects import SECRET, receive


@pytest.fixture
def store(tmp_path: Path) -> FilesystemBlobStore:
    return FilesystemBlobStore(path=str(tmp_path / "blobs"), secret=SECRET)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory that is none of the store's business."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "x.data").write_bytes(b"secret")
    return path


def files(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def token(store: FilesystemBlobStore, key: str = "r/a", size: int = 10) -> str:
    ticket = store.presign_upload(key, max_bytes=size, content_type="a/b", expires_s=60)
    return ticket.url.rsplit("/", 1)[-1]


def test_a_file_is_kept_as_it_came(store, root):
    store.put("run/0123/abc", [b"content"])
    assert files(root) == ["runs/run/0123/abc.data", "runs/run/0123/abc.meta"]
    assert (root / "runs/run/0123/abc.data").read_bytes() == b"content"


@pytest.mark.parametrize("place", ["runs/r", "runs/r/dir", "runs/r/dir/x.data"])
def test_links_are_not_followed(store, root, outside, place):
    link = root / place
    link.parent.mkdir(parents=True, exist_ok=True)
    target = outside / "x.data" if place.endswith(".data") else outside
    link.symlink_to(target)
    (outside / "dir").mkdir()
    key = "r/dir/x" if place != "runs/r" else "r/x"
    assert store.stat(key) is None
    with pytest.raises(BlobNotFoundError):
        store.open(key)
    assert list(store.iter_keys()) == []
    with contextlib.suppress(BlobStoreError):
        store.put(key, [b"overwritten"])
    store.delete(key)
    assert files(outside) == ["x.data"]
    assert (outside / "x.data").read_bytes() == b"secret"


def test_a_link_in_place_of_a_blob_is_replaced_not_written_through(
    store, root, outside
):
    (root / "runs/r").mkdir()
    (root / "runs/r/a.data").symlink_to(outside / "x.data")
    store.put("r/a", [b"new"])
    assert store.open("r/a").read() == b"new"
    assert (outside / "x.data").read_bytes() == b"secret"


class FullDisk:
    """`os.write` of a disk that takes some bytes and no more."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.write = os.write

    def __call__(self, fd: int, data: memoryview) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self.write(fd, data[: self.room])
        self.room -= written
        return written


@pytest.mark.parametrize("room", [0, 5])
def test_a_full_disk_is_said_and_leaves_nothing(store, root, monkeypatch, room):
    store.put("r/old", [b"old"])
    monkeypatch.setattr(os, "write", FullDisk(room))
    with pytest.raises(BlobStoreFullError, match="No space left") as caught:
        store.put("r/a", [b"0123456789"])
    assert caught.value.http_status == 507
    assert receive(store, _ticket(store), b"0123456789") == 507
    monkeypatch.undo()
    assert files(root) == ["runs/r/old.data", "runs/r/old.meta"]
    assert store.put("r/a", [b"0123456789"]).size == 10


def _ticket(store: FilesystemBlobStore):
    return store.presign_upload("r/up", max_bytes=100, content_type="a/b", expires_s=60)


def test_a_disk_that_fails_when_synced_leaves_the_old_blob(store, root, monkeypatch):
    store.put("r/a", [b"old"])
    monkeypatch.setattr(os, "fsync", _failing)
    with pytest.raises(BlobStoreUnavailableError, match="Input/output error"):
        store.put("r/a", [b"new"])
    monkeypatch.undo()
    assert store.open("r/a").read() == b"old"
    assert [name for name in files(root) if "incoming" in name] == []


def _failing(_fd: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_what_a_crash_left_behind_is_removed_when_it_is_old(store, root):
    abandoned = store.receive(token(store))
    abandoned.write(b"01234")
    upload_id = store.start_multipart("r/mp", content_type="a/b")
    assert store.abort_stale(older_than_s=60) == 0
    for path in (*(root / "incoming").iterdir(), root / "multipart" / upload_id):
        os.utime(path, (time.time() - 100, time.time() - 100))
    assert store.abort_stale(older_than_s=60) == 2
    assert files(root) == []
    with pytest.raises(MultipartNotFoundError, match="No such upload"):
        store.list_parts("r/mp", upload_id)


def test_an_upload_that_ends_early_leaves_nothing(store, root):
    writer = store.receive(token(store))
    writer.write(b"01234")
    assert len(files(root)) == 1
    writer.abort()
    writer.abort()
    assert files(root) == []


def test_a_checksum_of_another_file_is_not_shown(store, root):
    stat = store.put("r/a", [b"content"])
    assert stat.checksum.startswith("sha256:")
    (root / "runs/r/a.data").write_bytes(b"CONTENT")
    assert store.stat("r/a").checksum == ""
    (root / "runs/r/a.meta").write_text("not json")
    assert store.stat("r/a").checksum == ""
    (root / "runs/r/a.meta").unlink()
    assert store.stat("r/a").size == 7
    assert list(store.iter_keys()) == ["r/a"]


def test_a_file_that_shrinks_while_read_is_no_whole_blob(store, root):
    store.put("r/a", [b"x" * 2_000_000])
    with store.open("r/a") as opened:
        next(opened)
        os.truncate(root / "runs/r/a.data", 1_000_000)
        with pytest.raises(BlobStoreError, match="shorter"):
            opened.read()


def test_directories_removed_and_made_at_once_lose_nothing(store):
    def put_and_delete(number: int) -> None:
        for _ in range(25):
            store.put(f"r/deep/er/{number}", [b"x"])
            assert store.open(f"r/deep/er/{number}").read() == b"x"
            store.delete(f"r/deep/er/{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put_and_delete, range(4)))
    assert list(store.iter_keys()) == []


def test_deleting_the_last_blob_leaves_no_directory(store, root):
    store.put("r/a/b", [b"x"])
    store.delete("r/a/b")
    assert list((root / "runs").iterdir()) == []


def test_directories_that_a_kill_left_empty_go_with_their_prefix(store, root):
    store.put("r/a/b", [b"x"])
    store.put("other/a", [b"x"])
    for place in ("r/c/d", "r/e", "s/f"):
        (root / "runs" / place).mkdir(parents=True)
    assert store.delete_prefix("r/", condemned=lambda _key: False) == 0
    assert store.open("r/a/b").read() == b"x"
    assert not (root / "runs" / "r/c").exists()
    assert store.delete_prefix("r/") == 1
    assert store.delete_prefix("none/") == 0
    assert sorted(path.name for path in (root / "runs").iterdir()) == ["other", "s"]


def test_a_failing_disk_stops_deleting_many_and_says_so(store, root, monkeypatch):
    keys = [f"r/{number}" for number in range(100)]
    for key in keys:
        store.put(key, [b"x"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", _failing_unlink)
        with pytest.raises(BlobStoreUnavailableError, match="Input/output error"):
            store.delete_prefix("r/")
    assert len(list(store.iter_keys("r/"))) == 100
    assert store.delete_prefix("r/") == 100


def _failing_unlink(_name: str, *, dir_fd: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_part_of_another_blob_is_not_taken(store):
    upload_id = store.start_multipart("r/mp", content_type="a/b")
    with pytest.raises(MultipartNotFoundError):
        store.list_parts("r/other", upload_id)
    ticket = store.presign_part("r/other", upload_id, 1, size=1, expires_s=60)
    assert receive(store, ticket, b"x") == 404
    for bad in ("../../runs", "0" * 31, ""):
        with pytest.raises(MultipartNotFoundError):
            store.list_parts("r/mp", bad)


def test_a_part_that_comes_after_the_end_is_refused(store, root):
    upload_id = store.start_multipart("r/mp", content_type="a/b")
    ticket = store.presign_part("r/mp", upload_id, 1, size=1, expires_s=60)
    writer = store.receive(ticket.url.rsplit("/", 1)[-1])
    writer.write(b"x")
    store.abort_multipart("r/mp", upload_id)
    with pytest.raises(BlobNotFoundError):
        writer.commit()
    writer.abort()
    assert files(root) == []


def test_tokens_of_another_installation_are_refused(store, tmp_path):
    other = FilesystemBlobStore(path=str(tmp_path / "other"), secret="another")  # noqa: S106
    with pytest.raises(TokenError, match="altered"):
        other.receive(token(store))


def test_a_store_without_its_directory_says_so(store, root):
    store.check()
    (root / "incoming").rmdir()
    with pytest.raises(BlobStoreUnavailableError, match="unavailable"):
        store.check()
    with pytest.raises(BlobStoreUnavailableError):
        store.put("r/a", [b"x"])


def test_a_place_that_is_a_file_is_no_store(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BlobStoreUnavailableError, match="unavailable"):
        FilesystemBlobStore(path=str(tmp_path / "file"), secret=SECRET)


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        ("backend.blobs.none.Store", "no such blob store class"),
        ("backend.blobs.keys.check_key", "not a blob store class"),
        ("backend.blobs.filesystem.FilesystemBlobStore", "unexpected keyword"),
    ],
)
def test_settings_that_open_nothing_are_named(engine, reason):
    with pytest.raises(BlobStoreError, match=reason):
        open_blob_store(engine=engine, options={"nonsense": 1})

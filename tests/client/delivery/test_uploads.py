"""Uploads to stores that fail, of files that change: what is accepted arrives whole."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from matyan_client import Image, Run
from matyan_client.journal import blob_files
from tests.client.blob_server import BlobServer, Trouble
from tests.client.conftest import journals, wait_until
from tests.client.fake_server import FakeServer

REFUSED = "upload refused by the server"


def references(server: FakeServer) -> list[tuple[str, str, str]]:
    return [
        (event.path, event.key, event.content_type)
        for event in server.events()
        if type(event).__name__ == "BlobRef"
    ]


def fails_first(route: str, times: int, trouble: Trouble):
    def policy(asked: str, number: int) -> Trouble | None:
        return trouble if asked == route and number <= times else None

    return policy


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(os.urandom(300_000))
    return path


@pytest.fixture
def no_clones(monkeypatch):
    """A file system that can share no blocks, and files too large to be copied."""
    monkeypatch.setattr(blob_files, "_clone", lambda *_: False)
    monkeypatch.setenv("MATYAN_UPLOAD_COPY_MAX_BYTES", "0")


def test_an_artifact_arrives_and_is_referred_to(
    server, blobs, open_run, file, state_dir
):
    run = open_run(server.url)
    assert run.log_artifact(file)
    assert run.log_artifact(file, "sub/./named.json")
    assert run.flush(10)
    content = file.read_bytes()
    assert blobs.stored == {"model.bin": content, "sub/named.json": content}
    assert sorted(references(server)) == [
        ("model.bin", f"{run.hash}/model.bin", "application/octet-stream"),
        ("sub/named.json", f"{run.hash}/sub/named.json", "application/json"),
    ]
    presigned = blobs.presigned[0]
    assert presigned["run_id"] == run.hash
    assert (presigned["size"], presigned["multipart"]) == (300_000, False)
    delivery = run.delivery
    assert (delivery.uploads, delivery.uploaded, delivery.pending_uploads) == (2, 2, 0)
    assert delivery.uploaded_bytes == 600_000
    run.close()
    assert journals(state_dir) == []
    assert type(server.events()[-1]).__name__ == "FinishRun"


def test_close_waits_for_uploads_and_sends_their_references(
    server, blobs, open_run, file
):
    run = open_run(server.url)
    for number in range(30):
        run.log_artifact(file, f"{number}.bin")
    run.close()
    assert len(blobs.stored) == 30
    assert len(references(server)) == 30
    assert blobs.most_at_once <= 4


def test_a_blocking_upload_is_readable_when_it_returns(
    server, blobs, open_run, file, tmp_path
):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "one").touch()
    run = open_run(server.url)
    server.store_lag = 3
    assert run.log_artifact(file, "one", block=True)
    assert server.store_lag == 0
    server.store_lag = 3
    assert run.log_artifacts(tmp_path / "folder", block=True) == 1
    assert server.store_lag == 0


def test_empty_files_are_files(server, blobs, open_run, tmp_path):
    (tmp_path / "empty").touch()
    run = open_run(server.url)
    assert run.log_artifact(tmp_path / "empty", block=True)
    assert blobs.stored == {"empty": b""}


def test_a_directory_keeps_its_shape(server, blobs, open_run, tmp_path):
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    for name in ("x.txt", "a/y.txt", "a/b/z.txt"):
        (tree / name).write_text(name)
    (tree / "gone").symlink_to(tree / "nowhere")
    run = open_run(server.url)
    assert run.log_artifacts(tree, "logs", block=True) == 3
    assert {path: data.decode() for path, data in blobs.stored.items()} == {
        f"logs/{name}": name for name in ("x.txt", "a/y.txt", "a/b/z.txt")
    }


def test_a_copied_file_may_change_and_go_at_once(server, blobs, open_run, file):
    run = open_run(server.url)
    before = file.read_bytes()
    blobs.policy = fails_first("presign", 1, Trouble(status=500))
    run.log_artifact(file)
    file.write_bytes(b"something else")
    run.log_artifact(file, "later.bin")
    file.unlink()
    assert run.flush(10)
    assert blobs.stored == {"model.bin": before, "later.bin": b"something else"}


@pytest.mark.usefixtures("no_clones")
def test_a_linked_file_may_be_replaced_and_go(server, blobs, open_run, file):
    run = open_run(server.url)
    before = file.read_bytes()
    blobs.policy = fails_first("presign", 1, Trouble(status=500))
    run.log_artifact(file)
    newer = file.with_name("newer")
    newer.write_bytes(b"newer")
    newer.replace(file)
    assert run.flush(10)
    assert blobs.stored == {"model.bin": before}
    assert file.read_bytes() == b"newer"


@pytest.mark.usefixtures("no_clones")
def test_a_file_changed_in_place_is_not_uploaded(server, blobs, open_run, file, capsys):
    run = open_run(server.url)
    blobs.policy = fails_first("presign", 1, Trouble(status=500, hang=True))
    run.log_artifact(file)
    assert wait_until(lambda: blobs.count("presign") == 1)
    with file.open("ab") as grown:
        grown.write(b"more")
    blobs.released.set()
    assert run.flush(10)
    assert blobs.stored == {}
    assert references(server) == []
    assert run.delivery.dropped == {"file_changed": 1}
    said = capsys.readouterr().err
    assert f"model.bin is not uploaded: {file} was changed after it was logged" in said


@pytest.mark.usefixtures("no_clones")
def test_a_file_that_changes_while_it_is_sent_is_not_referred_to(
    server, blobs, open_run, file
):
    run = open_run(server.url)

    def change(route: str, _number: int) -> None:
        if route == "put":
            os.utime(file, ns=(1, 1))

    blobs.policy = change
    assert not run.log_artifact(file, block=True)
    assert references(server) == []
    assert run.delivery.dropped == {"file_changed": 1}


@pytest.mark.usefixtures("no_clones")
def test_a_file_that_vanished_is_named(
    server, blobs, open_run, file, monkeypatch, capsys
):
    def cannot_link(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", cannot_link)
    run = open_run(server.url)
    blobs.policy = fails_first("presign", 1, Trouble(status=500, hang=True))
    run.log_artifact(file)
    assert wait_until(lambda: blobs.count("presign") == 1)
    file.unlink()
    blobs.released.set()
    assert run.flush(10)
    assert run.delivery.dropped == {"file_vanished": 1}
    assert f"{file} is gone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("route", "trouble"),
    [
        ("presign", Trouble(status=500)),
        ("presign", Trouble(status=503)),
        ("presign", Trouble(status=401)),
        ("presign", Trouble(status=429)),
        ("presign", Trouble(hang=True)),
        ("put", Trouble(status=500)),
        ("put", Trouble(status=403, body={"message": "expired"})),
        ("put", Trouble(cut_after=100_000)),
        ("put", Trouble(cut_after=0)),
        ("put", Trouble(hang=True)),
        ("put", Trouble(wrong_checksum=True)),
    ],
    ids=str,
)
def test_what_fails_is_tried_again(route, trouble, server, blobs, open_run, file):
    run = open_run(server.url)
    blobs.policy = fails_first(route, 2, trouble)
    run.track(1.0, "loss")
    run.log_artifact(file)
    assert run.flush(10)
    assert blobs.count(route) >= 3
    assert blobs.stored == {"model.bin": file.read_bytes()}
    assert len(references(server)) == 1
    assert run.delivery.dropped == {}


@pytest.mark.parametrize("status", [400, 403, 404, 413, 422])
def test_a_refused_upload_is_counted_and_named(
    status, server, blobs, open_run, file, capsys
):
    blobs.policy = lambda route, _: (
        Trouble(status=status, body={"message": "no room for you"})
        if route == "presign"
        else None
    )
    run = open_run(server.url)
    assert not run.log_artifact(file, block=True)
    run.track(1.0, "loss")
    assert run.flush(10)
    assert len(server.points()) == 1
    (reason,) = run.delivery.dropped
    assert reason.startswith(REFUSED)
    assert f"HTTP {status}: no room for you" in reason
    assert run.delivery.pending_uploads == 0
    said = capsys.readouterr().err
    assert "model.bin is not uploaded" in said
    assert "no room for you" in said
    run.close()


def test_an_upload_turned_away_for_ever_is_given_up(server, blobs, open_run, file):
    blobs.policy = lambda route, _: Trouble(status=403) if route == "put" else None
    run = open_run(server.url)
    assert not run.log_artifact(file, block=True)
    assert blobs.count("put") == 5
    assert [reason.startswith(REFUSED) for reason in run.delivery.dropped] == [True]


def test_the_last_one_logged_under_a_name_is_the_last_one_stored(
    server, blobs, open_run, tmp_path
):
    run = open_run(server.url)
    blobs.policy = fails_first("put", 1, Trouble(hang=True))
    for number in range(5):
        (tmp_path / "file").write_text(str(number))
        run.log_artifact(tmp_path / "file", "same")
    (tmp_path / "file").write_text("other")
    run.log_artifact(tmp_path / "file", "other")
    assert wait_until(lambda: "other" in blobs.stored)
    blobs.released.set()
    assert run.flush(10)
    assert blobs.stored["same"] == b"4"
    # How the two names interleave is the scheduler's business; each file arrived once.
    assert sorted(blobs.order) == ["other", *["same"] * 5]


def test_large_files_go_in_parts(server, blobs, open_run, tmp_path, monkeypatch):
    monkeypatch.setattr("matyan_client.delivery.transfer.MULTIPART_BYTES", 100_000)
    blobs.part_bytes = 64_000
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(os.urandom(1_000_000))
    small.write_bytes(os.urandom(100_000))
    run = open_run(server.url)
    assert run.log_artifact(large, block=True)
    assert run.log_artifact(small, block=True)
    assert blobs.stored["large"] == large.read_bytes()
    assert blobs.count("multipart/sign") == 16
    assert [body["multipart"] for body in blobs.presigned] == [True, False]


@pytest.mark.parametrize(
    ("route", "trouble"),
    [
        ("multipart/sign", Trouble(status=500)),
        ("put", Trouble(cut_after=1000)),
        ("multipart/parts", Trouble(status=500)),
        ("multipart/complete", Trouble(status=500)),
        ("multipart/complete", Trouble(hang=True)),
    ],
)
def test_an_upload_in_parts_goes_on_where_it_ended(
    route, trouble, server, blobs, open_run, file, monkeypatch
):
    monkeypatch.setattr("matyan_client.delivery.transfer.MULTIPART_BYTES", 100_000)
    monkeypatch.setattr("matyan_client.delivery.blob_gateway.COMPLETE_TIMEOUT_S", 0.3)
    blobs.part_bytes = 64_000

    def policy(asked: str, number: int) -> Trouble | None:
        first = 1 if asked == "multipart/parts" else 3
        if asked == route and first <= number < first + 4:
            return trouble
        return Trouble(status=500) if (asked, number) == ("put", 5) else None

    if route.endswith("complete"):
        policy = fails_first(route, 2, trouble)
    blobs.policy = policy
    run = open_run(server.url)
    assert run.log_artifact(file, block=True)
    assert blobs.stored["model.bin"] == file.read_bytes()
    assert len(blobs.presigned) == 1
    assert blobs.received == 300_000


def test_an_upload_in_parts_that_the_server_forgot_begins_anew(
    server, blobs, open_run, file, monkeypatch
):
    monkeypatch.setattr("matyan_client.delivery.transfer.MULTIPART_BYTES", 100_000)
    blobs.part_bytes = 64_000

    def policy(asked: str, number: int) -> Trouble | None:
        if asked == "multipart/complete" and number == 1:
            blobs.parts.clear()
        return None

    blobs.policy = policy
    run = open_run(server.url)
    assert run.log_artifact(file, block=True)
    assert blobs.stored["model.bin"] == file.read_bytes()
    assert len(blobs.presigned) == 2


def test_a_full_journal_refuses_bytes_and_counts_them(
    server, blobs, open_run, monkeypatch, capsys
):
    monkeypatch.setenv("MATYAN_JOURNAL_MAX_BYTES", "3000000")
    blobs.policy = lambda *_: Trouble(status=503)
    run = open_run(server.url)
    picture = b"\x89PNG\r\n\x1a\n" + os.urandom(1_000_000)
    for _ in range(5):
        run.track(Image(picture), "picture")
    refused = run.delivery.dropped["journal_full"]
    assert 1 <= refused <= 4
    assert "MATYAN_JOURNAL_MAX_BYTES" in capsys.readouterr().err
    blobs.policy = lambda *_: None
    assert run.flush(10)
    assert len(blobs.stored) == 5 - refused
    assert len(server.objects("images")) == 5 - refused
    run.track(Image(picture), "picture")  # the space has come back
    assert run.flush(10)
    assert run.delivery.dropped == {"journal_full": refused}


def test_a_file_too_large_for_the_journal_is_uploaded_from_its_place(
    server, blobs, open_run, file, monkeypatch, state_dir
):
    monkeypatch.setenv("MATYAN_JOURNAL_MAX_BYTES", "500000")
    run = open_run(server.url)
    blobs.policy = fails_first("presign", 1, Trouble(status=503, hang=True))
    assert run.log_artifact(file)
    (journal,) = journals(state_dir)
    assert list((journal / "blobs").glob("0*")) == []
    blobs.released.set()
    assert run.flush(10)
    assert blobs.stored == {"model.bin": file.read_bytes()}


def test_without_a_journal_nothing_is_taken(
    server, blobs, open_run, file, monkeypatch, tmp_path
):
    blocked = tmp_path / "blocked"
    blocked.touch()
    monkeypatch.setenv("MATYAN_DIR", str(blocked))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(blocked))
    run = open_run(server.url)
    assert not run.log_artifact(file)
    assert run.delivery.dropped["no_journal"] >= 1


@pytest.mark.parametrize("route", ["presign", "put"])
def test_close_keeps_its_budget_whatever_the_store_does(
    route, server, blobs, open_run, file, state_dir, capsys, monkeypatch
):
    monkeypatch.setattr("matyan_client.delivery.blob_gateway.PRESIGN_TIMEOUT_S", 30)
    monkeypatch.setattr("matyan_client.delivery.blob_gateway.PUT_TIMEOUT_S", 30)
    blobs.policy = lambda asked, _: Trouble(hang=True) if asked == route else None
    run = open_run(server.url)
    run.track(1.0, "loss")
    run.log_artifact(file)
    started = time.monotonic()
    run.close(timeout=0.5)
    assert time.monotonic() - started < 3
    assert len(server.points()) == 1
    assert len(journals(state_dir)) == 1
    assert "1 uploads" in capsys.readouterr().err


def test_the_waits_of_a_failing_store_end_close_early(
    server, blobs, open_run, file, monkeypatch
):
    monkeypatch.setattr("matyan_client.outlet.PATIENCE_S", 0.3)
    blobs.policy = lambda *_: Trouble(status=503)
    run = open_run(server.url)
    run.log_artifact(file)
    assert wait_until(lambda: blobs.count("presign") >= 2)
    started = time.monotonic()
    run.close(timeout=60)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("path", "name", "error"),
    [
        ("nowhere", None, FileNotFoundError),
        ("", None, IsADirectoryError),
        ("model.bin", "../up", ValueError),
        ("model.bin", "/root", ValueError),
        ("model.bin", "a\nb", ValueError),
        ("model.bin", "x" * 1025, ValueError),
        ("model.bin", 7, TypeError),
    ],
)
def test_misuse_is_refused(path, name, error, server, blobs, open_run, file):
    run = open_run(server.url)
    with pytest.raises(error):
        run.log_artifact(file.parent / path, name)
    assert run.delivery.uploads == 0


def test_closed_and_read_only_runs_take_no_files(server, open_run, file):
    run = open_run(server.url)
    run.close()
    for closed in (run, Run("other", repo=server.url, read_only=True)):
        with pytest.raises(RuntimeError):
            closed.log_artifact(file)
        with pytest.raises(RuntimeError):
            closed.log_artifacts(file.parent)


def test_a_gateway_that_moves_is_found_again(open_run, file):
    with FakeServer() as server, BlobServer() as first, BlobServer() as second:
        server.version["gateway"] = {"port": first.port}
        run = open_run(server.url)
        assert run.log_artifact(file, block=True)
        server.version["gateway"] = {"port": second.port}
        first.policy = lambda *_: Trouble(status=404)
        assert run.log_artifact(file, "again", block=True)
        assert second.stored == {"again": file.read_bytes()}


def test_addresses_of_uploads_are_not_logged(server, blobs, open_run, file, caplog):
    caplog.set_level("DEBUG", logger="httpx")
    run = open_run(server.url)
    assert run.log_artifact(file, block=True)
    assert "/blob/" not in caplog.text

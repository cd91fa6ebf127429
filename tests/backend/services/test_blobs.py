"""Which upload a path or an object means, and what is cleared away."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from backend.blobs.filesystem import FilesystemBlobStore
from backend.blobs.uris import BlobAddress
from backend.bus.base import Record, RecordPosition
from backend.bus.topics import INGESTION
from backend.domain.blobs import blob_key, new_blob_id, split_blob_key
from backend.errors import ArtifactNotFoundError, InvalidInputError, RunNotFoundError
from backend.services import blobs as service
from backend.services.blob_cleanup import delete_replaced_blobs, delete_run_blobs
from backend.services.ingestion import apply_records
from backend.services.outbox import ARTIFACT_REPLACED
from backend.services.runs import clear_tombstone, delete_run
from backend.storage.keyspace import Subspace, subspace_range
from matyan_wire import batch as wire
from tests.backend.writing import START_US as T0_US

PNG = "seq/img/0.png"


def record_of(
    batch: wire.Batch, *, offset: int, received_us: int = T0_US, digest: bytes = b""
) -> Record:
    value = wire.encode_envelope(
        received_us=received_us, digest=digest, batch=wire.encode_batch(batch)
    )
    position = RecordPosition("blobs", INGESTION, 0, offset)
    return Record(position, batch.run_id.encode(), value, received_us)


@pytest.fixture
def blobs(tmp_path):
    return FilesystemBlobStore(
        path=str(tmp_path / "blobs"),
        secret="tests",  # noqa: S106 - protects nothing
        durable=False,
    )


class Client:
    """What a public client does, in any order a test likes."""

    def __init__(self, store: Any, blobs: Any) -> None:
        self.store = store
        self.blobs = blobs
        self.offsets = itertools.count()
        self.times = itertools.count(T0_US)

    def send(self, *, digest: bytes = b"", **fields: Any) -> None:
        batch = wire.Batch(wire.BATCH_VERSION, "run", **fields)
        record = record_of(
            batch,
            offset=next(self.offsets),
            received_us=next(self.times),
            digest=digest,
        )
        result = apply_records(self.store, [record])
        assert not result.poison, result.poison

    def open(self, time_us: int = 1) -> None:
        self.send(events=[wire.CreateRun(time_us)])

    def grant(self, path: str = PNG) -> str:
        """Ask for an upload; return its blob id."""
        blob_id = new_blob_id(now_us=next(self.times))
        self.send(events=[wire.BlobGrant(path, blob_id)])
        return blob_id

    def put(self, blob_id: str, content: bytes, path: str = PNG) -> None:
        self.blobs.put(blob_key("run", path, blob_id), [content])

    def upload(self, content: bytes, path: str = PNG) -> str:
        blob_id = self.grant(path)
        self.put(blob_id, content, path)
        return blob_id

    def refer(self, path: str, content_type: str = "text/plain") -> None:
        self.send(events=[wire.BlobRef(path, f"run/{path}", content_type)])

    def track(
        self, subset: str, *, step: int = 0, path: str = PNG, digest: bytes = b""
    ) -> None:
        """Track an image of series `img` in a context."""
        columns = wire.ObjectColumns(
            1,
            bytes(4),
            step.to_bytes(8, "little", signed=True),
            next(self.times).to_bytes(8, "little"),
            [wire.encode_payload({"type": "image", "s3_key": f"run/{path}"})],
        )
        ref = wire.SeriesRef("images", "img", f'{{"subset":"{subset}"}}')
        self.send(series=[ref], objects=columns, digest=digest)

    def shown(self, subset: str, *, step: int = 0, path: str = PNG) -> bytes:
        """Return what a reader sees of an image."""
        series = self.store.engine.read(
            lambda tr: self.store.series.find(
                tr,
                self.store.runs.get(tr, "run").number,
                kind="images",
                name="img",
                context_text=f'{{"subset":"{subset}"}}',
            )
        )
        address = BlobAddress("run", path, series.number, step)
        keys = service.find_object_keys(self.store, [address])[address]
        opened = service.open_first(self.blobs, keys)
        return b"" if opened is None else opened.read()

    def artifact(self, path: str) -> bytes:
        stored = service.get_artifact(self.store, run_id="run", path=path)
        return service.open_artifact(self.blobs, stored).read()

    def keys(self) -> list[str]:
        return sorted(self.blobs.iter_keys())


@pytest.fixture
def client(store, blobs):
    made = Client(store, blobs)
    made.open()
    return made


# --- objects -------------------------------------------------------------------------


def test_an_object_shows_its_upload(client):
    client.track("train")
    assert client.shown("train") == b""
    client.upload(b"picture")
    assert client.shown("train") == b"picture"


@pytest.mark.parametrize("order", list(itertools.permutations("abAB")))
def test_contexts_at_one_step_keep_their_pictures_apart(client, order):
    """Whatever the order of grants (a, b) and objects (A, B) between each other."""
    if order.index("a") > order.index("b") or order.index("A") > order.index("B"):
        pytest.skip("each kind arrives in its own order")
    done = {
        "a": lambda: client.upload(b"picture of train"),
        "b": lambda: client.upload(b"picture of val"),
        "A": lambda: client.track("train"),
        "B": lambda: client.track("val"),
    }
    for step in order:
        done[step]()
    assert client.shown("train") == b"picture of train"
    assert client.shown("val") == b"picture of val"


def test_a_picture_that_did_not_arrive_is_not_another_ones(client):
    client.track("train")
    client.track("val")
    client.grant()
    client.upload(b"picture of val")
    assert (client.shown("train"), client.shown("val")) == (b"", b"picture of val")


def test_a_request_that_overtakes_the_opening_of_the_run_counts(store, blobs):
    client = Client(store, blobs)
    client.upload(b"picture of train")
    client.open()
    client.track("train")
    client.track("val")
    client.upload(b"picture of val")
    assert client.shown("train") == b"picture of train"
    assert client.shown("val") == b"picture of val"


def test_a_resumed_process_starts_anew(client):
    """What failed before does not shift what comes after."""
    client.track("train")
    client.track("val")
    client.upload(b"only one arrived")
    client.open(time_us=2)
    for subset in ("train", "val"):
        client.track(subset)
        client.upload(f"new {subset}".encode())
    assert client.shown("train") == b"new train"
    assert client.shown("val") == b"new val"


def test_a_step_tracked_again_shows_the_newest_picture(client):
    for content in (b"first", b"second", b"third"):
        client.track("train")
        client.upload(content)
    assert client.shown("train") == b"third"
    client.grant()
    assert client.shown("train") == b"third"


def test_a_step_tracked_again_beside_another_context(client):
    for content in (b"first", b"second"):
        client.track("train")
        client.upload(content)
    client.track("val")
    client.upload(b"of val")
    assert client.shown("train") == b"second"
    assert client.shown("val") == b"of val"


def test_a_frame_sent_twice_is_one_object(client):
    client.track("train", digest=b"d" * 16)
    client.track("train", digest=b"d" * 16)
    client.track("val")
    client.upload(b"of train")
    client.upload(b"of val")
    assert (client.shown("train"), client.shown("val")) == (b"of train", b"of val")


def test_a_grant_delivered_twice_is_one_upload(client):
    client.track("train")
    client.track("val")
    first = client.upload(b"of train")
    client.send(events=[wire.BlobGrant(PNG, first)])
    client.upload(b"of val")
    assert (client.shown("train"), client.shown("val")) == (b"of train", b"of val")


def test_steps_that_share_a_path_on_purpose_show_the_same(client):
    for step in range(3):
        client.track("train", step=step, path="seq/same.png")
    client.upload(b"shared", path="seq/same.png")
    for step in range(3):
        assert client.shown("train", step=step, path="seq/same.png") == b"shared"


def test_objects_of_other_runs_and_paths_show_nothing(client):
    client.track("train", path="../other/x.png")
    client.track("train", step=1, path="none.png")
    client.upload(b"picture")
    assert client.shown("train", step=1, path="none.png") == b""
    addresses = [BlobAddress("none", PNG, 0, 0), BlobAddress("run", "x", 0, 0)]
    found = service.find_object_keys(client.store, addresses)
    assert list(found.values()) == [[], []]


@pytest.mark.parametrize("blob_id", ["", "x" * 32, "../../../etc", "A" * 32])
def test_a_grant_that_is_none_is_refused(client, blob_id):
    batch = wire.Batch(wire.BATCH_VERSION, "run", events=[wire.BlobGrant(PNG, blob_id)])
    result = apply_records(
        client.store, [record_of(batch, offset=next(client.offsets))]
    )
    ((_, error),) = result.poison
    assert isinstance(error, InvalidInputError)


# --- artifacts -----------------------------------------------------------------------


def test_an_artifact_is_the_newest_upload_that_arrived(client):
    for content in (b"first", b"second"):
        client.upload(content, "model.pt")
        client.refer("model.pt")
        assert client.artifact("model.pt") == content
    client.grant("model.pt")
    assert client.artifact("model.pt") == b"second"
    assert client.artifact("./model.pt") == b"second"


def test_artifacts_that_are_not_there(client):
    client.refer("listed.txt")
    with pytest.raises(ArtifactNotFoundError, match="not uploaded"):
        client.artifact("listed.txt")
    for path in ("none", "../x", ""):
        with pytest.raises(ArtifactNotFoundError):
            client.artifact(path)
    with pytest.raises(RunNotFoundError):
        service.get_artifact(client.store, run_id="none", path="a")


def test_artifacts_are_listed_without_pictures(client):
    for path in ("b.txt", "a/x.bin", PNG):
        client.upload(b"x", path)
        client.refer(path)
    listed = service.list_artifacts(client.store, run_id="run")
    assert [one.artifact.path for one in listed] == ["a/x.bin", "b.txt"]
    assert [len(one.keys) for one in listed] == [1, 1]
    run_id, _, _ = split_blob_key(listed[0].artifact.key)
    assert run_id == "run"


# --- clearing away -------------------------------------------------------------------


def _events(store: Any) -> list[bytes]:
    begin, end = subspace_range(Subspace.OUTBOX)
    return [
        value for _, value in store.engine.read(lambda tr: tr.get_range(begin, end))
    ]


def test_replaced_uploads_are_removed(client):
    number = client.store.engine.read(
        lambda tr: client.store.runs.get(tr, "run").number
    )
    for content in (b"first", b"second", b"third"):
        client.upload(content, "model.pt")
        client.refer("model.pt")
    events = _events(client.store)
    assert len(events) == 2
    assert ARTIFACT_REPLACED.encode() in events[0]
    pending = client.grant("model.pt")

    def prune() -> int:
        return delete_replaced_blobs(
            client.store, client.blobs, run_id="run", run_number=number, path="model.pt"
        )

    assert prune() == 2
    assert client.artifact("model.pt") == b"third"
    assert len(client.keys()) == 1
    assert prune() == 0
    client.put(pending, b"fourth", "model.pt")
    assert client.artifact("model.pt") == b"fourth"
    assert prune() == 1
    assert client.artifact("model.pt") == b"fourth"


def test_nothing_is_removed_before_a_newer_upload_has_arrived(client):
    number = client.store.engine.read(
        lambda tr: client.store.runs.get(tr, "run").number
    )
    client.grant("a")
    client.grant("a")
    for path in ("a", "none"):
        assert (
            delete_replaced_blobs(
                client.store, client.blobs, run_id="run", run_number=number, path=path
            )
            == 0
        )


def test_pictures_of_several_series_are_not_pruned(client):
    number = client.store.engine.read(
        lambda tr: client.store.runs.get(tr, "run").number
    )
    for subset in ("train", "val"):
        client.track(subset)
        client.upload(subset.encode())
    assert (
        delete_replaced_blobs(
            client.store, client.blobs, run_id="run", run_number=number, path=PNG
        )
        == 0
    )
    assert client.shown("train") == b"train"


def test_a_deleted_runs_uploads_are_removed_and_those_of_its_successor_are_not(client):
    client.upload(b"old", "a")
    deleted_us = next(client.times)
    delete_run(client.store, run_id="run", now_us=deleted_us)
    clear_tombstone(client.store, run_id="run")
    client.upload(b"new", "a")
    client.refer("a")
    removed = [
        delete_run_blobs(
            client.store, client.blobs, run_id="run", deleted_us=deleted_us
        )
        for _ in range(2)
    ]
    assert removed == [1, 0]
    assert client.artifact("a") == b"new"


def test_keys_that_are_none_of_ours_are_told_apart():
    key = blob_key("run", "a", new_blob_id(now_us=1))
    assert split_blob_key(key)[0] == "run"
    for other in ("", "a", "a/b", "a/b/c", key + "/d", key[:-1]):
        assert split_blob_key(other) is None

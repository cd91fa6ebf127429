"""A run with 10,000 blobs is deleted while another is written: no byte of it is left.

Through `manage.py up` with its control worker and its task worker, which are not told
that they are tested. MATYAN_TEST_BLOBS sets the number (10,000).
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from backend.blobs.base import BlobStore
from backend.blobs.filesystem import FilesystemBlobStore
from backend.blobs.s3 import S3BlobStore
from backend.storage import tuples
from backend.storage.engine.base import KeyValue, ReadTransaction
from backend.storage.factory import Store, open_store
from backend.storage.indexes import Index
from backend.storage.keyspace import RUN_SUBSPACES, Subspace, subspace_range
from matyan_client import Audio, Distribution, Figure, Image, Repo, Run, Text
from matyan_project.env import BASE_DIR
from matyan_project.local_server import LocalServer
from tests.e2e.clients import REST, wait_for
from tests.e2e.conftest import BLOB_STORES, blob_environ

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

BLOBS = int(os.environ.get("MATYAN_TEST_BLOBS", "10000"))
DOOMED, KEPT = "doomed-run", "kept-run"
PATIENCE_S = 240.0
PATIENCE = {"timeout_s": PATIENCE_S, "pause_s": 1.0}
"""Of a test that looks for a long time, and must not be the load itself."""

PART_BYTES = 16 << 20

WRITE = """
import os, sys, time
from matyan_client import Image, Run
url, run_id, stop = sys.argv[1:]
run = Run(run_id, repo=url)
for step in range(20_000):
    if os.path.exists(stop):
        break
    run.track(Image(b"kept %d " % step * 100, format_="png"), "img", step=step)
    run.track(float(step), "loss", step=step)
    time.sleep(0.02)
assert run.wait_durable(120)
assert run.delivery.dropped == {}, run.delivery.dropped
run.close()
print(step)
"""

logger = logging.getLogger(__name__)


class Site:
    """A server, and its stores as they are behind its back."""

    def __init__(
        self, up: LocalServer, client: httpx.Client, store: Store, blobs: BlobStore
    ) -> None:
        self.up = up
        self.client = client
        self.store = store
        self.blobs = blobs

    def count_blobs(self, run_id: str) -> int:
        return sum(1 for _ in self.blobs.iter_keys(f"{run_id}/"))

    def number_of(self, run_id: str) -> int:
        return self.store.engine.read(lambda tr: self.store.runs.get(tr, run_id)).number

    def count_keys(self, run_id: str, number: int) -> dict[str, int]:
        """Return how many keys are of a run, or name it, in each subspace."""
        found: Counter[str] = Counter()
        for subspace in Subspace:
            for row in iter_rows(self.store, subspace):
                found[subspace.name] += is_of_run(row, run_id, number)
        return {name: count for name, count in found.items() if count}


def iter_rows(store: Store, subspace: Subspace) -> Iterator[KeyValue]:
    """Yield everything in a subspace, in transactions that end."""
    begin, end = subspace_range(subspace)
    while True:

        def page(tr: ReadTransaction, begin: bytes = begin) -> list[KeyValue]:
            return list(tr.get_range(begin, end, limit=500))

        rows = store.engine.read(page)
        yield from rows
        if len(rows) < 500:
            return
        begin = rows[-1][0] + b"\x00"


def is_of_run(row: KeyValue, run_id: str, number: int) -> bool:
    """Tell from a key's elements, not from the ranges that a deletion clears."""
    key, value = row
    if run_id.encode() in key or run_id.encode() in value:
        return True
    _, subspace, *elements = tuples.unpack(key)
    if subspace == Subspace.INDEX:
        index, *values = elements
        of_names = index == Index.RUN_SERIES and values[0] == number
        return bool(of_names or values[-1] == number)
    return bool(elements[0] == number)


@pytest.fixture(params=BLOB_STORES)
def site(
    request: pytest.FixtureRequest, tmp_path: Path, required_services: frozenset[str]
) -> Iterator[Site]:
    data_dir = tmp_path / "data"
    with (
        blob_environ(
            request.param, tmp_path / "s3", required_services, provider="transient"
        ) as environ,
        LocalServer(data_dir, environ=environ) as up,
        httpx.Client(base_url=up.url, timeout=60) as client,
        contextlib.closing(opened_store(data_dir)) as store,
        contextlib.closing(opened_blobs(data_dir, environ)) as blobs,
    ):
        yield Site(up, client, store, blobs)


def opened_store(data_dir: Path) -> Store:
    return open_store(
        engine="backend.storage.engine.embedded.EmbeddedEngine",
        options={"path": str(data_dir / "store")},
    )


def opened_blobs(data_dir: Path, environ: dict[str, str]) -> BlobStore:
    if not environ:
        return FilesystemBlobStore(
            path=str(data_dir / "blobs"),
            secret="signs nothing here",  # noqa: S106
        )
    return S3BlobStore(
        bucket=environ["S3_BUCKET"],
        endpoint=environ["S3_ENDPOINT"],
        access_key=environ["S3_ACCESS_KEY"],
        secret_key=environ["S3_SECRET_KEY"],
    )


def fill(site: Site, directory: Path) -> Run:
    """Log something of everything into the run that is to be deleted; leave it open."""
    artifact = directory / "weights.bin"
    artifact.write_bytes(os.urandom(100_000))
    with Run(DOOMED, repo=site.up.url, experiment="doomed-experiment") as run:
        run["hparams"] = {"text": "x" * 1_000, "lr": 0.1}
        run.add_tag("doomed-tag")
        run.log_info("a record")
        print("a terminal line")  # noqa: T201 - the SDK captures it
        for step in range(20_000):
            run.track(float(step), "loss", step=step, context={"subset": "train"})
        run.track(Text("words"), "words")
        run.track(Distribution([1, 2, 3]), "bins")
        run.track(Figure({"data": [], "layout": {}}), "plot")
        run.track(Audio(np.sin(np.arange(800) / 5), rate=8000), "tone")
        run.log_artifact(artifact, "weights.bin")
        for step in range(BLOBS - 2):
            picture = Image(b"doomed %d" % step, format_="png")
            run.track(picture, "img", step=step)
        assert run.wait_durable(PATIENCE_S)
        assert run.delivery.dropped == {}
    # What is written once more is not in chunks yet.
    run = Run(DOOMED, repo=site.up.url, force_resume=True)
    run.track(1.0, "late")
    run.track(Text("late"), "late")
    assert run.wait_durable(PATIENCE_S)
    note = {"content": "a note"}
    assert site.client.post(f"{REST}/runs/{DOOMED}/note", json=note).is_success
    begin_upload(site)
    return run


def begin_upload(site: Site) -> None:
    """Begin an upload in parts, as a process that was killed in the middle does."""
    path = f"{REST}/artifacts"
    wanted = {"run_id": DOOMED, "artifact_path": "large", "size": 3 * PART_BYTES}
    answer = site.client.post(f"{path}/presign", json={**wanted, "multipart": True})
    token = {"upload": answer.json()["multipart"]["upload"]}
    part = site.client.post(f"{path}/multipart/sign", json={**token, "number": 1})
    body = os.urandom(answer.json()["multipart"]["part_bytes"])
    assert httpx.put(part.json()["upload_url"], content=body, timeout=60).is_success


@contextlib.contextmanager
def writing(site: Site, stop: Path) -> Iterator[subprocess.Popen[str]]:
    """Write another run in a process of its own until `stop` exists."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITE, site.up.url, KEPT, str(stop)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(BASE_DIR / "client" / "src")},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_no_byte_of_a_deleted_run_is_left(site: Site, tmp_path: Path) -> None:
    run = fill(site, tmp_path)
    number = site.number_of(DOOMED)
    before = site.count_keys(DOOMED, number)
    assert before.keys() >= {space.name for space in RUN_SUBSPACES}
    assert before.keys() >= {"RUN_ID", "INDEX", "NOTE"}
    assert site.count_blobs(DOOMED) == BLOBS
    stop = tmp_path / "stop"
    with writing(site, stop) as process:
        wait_for(lambda: site.count_blobs(KEPT) > 10, **PATIENCE)
        delete_and_wait(site, number)
        run.close()
        stop.touch()
        output, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, errors
    assert site.count_keys(DOOMED, number) == {"TOMBSTONE": 1}
    assert site.count_blobs(DOOMED) == 0
    assert site.blobs.abort_uploads(f"{DOOMED}/") == 0
    assert not (site.up.data_dir / "blobs" / "runs" / DOOMED).exists()
    assert list((site.up.data_dir / "blobs").glob("multipart/*")) == []
    assert_nobody_knows_it(site)
    assert_intact(site, steps=int(output))


def delete_and_wait(site: Site, number: int) -> None:
    kept_before = site.count_blobs(KEPT)
    started = time.monotonic()
    assert site.client.delete(f"{REST}/runs/{DOOMED}").status_code == 200
    wait_for(lambda: site.count_blobs(DOOMED) == 0, **PATIENCE)
    blobs_s = time.monotonic() - started
    wait_for(lambda: site.count_keys(DOOMED, number) == {"TOMBSTONE": 1}, **PATIENCE)
    kept = site.count_blobs(KEPT) - kept_before
    logger.info("%d blobs gone in %.1f s; %d others came", BLOBS, blobs_s, kept)
    assert kept > 0


def assert_nobody_knows_it(site: Site) -> None:
    assert site.client.get(f"{REST}/runs/{DOOMED}/info").status_code == 404
    download = f"{REST}/runs/{DOOMED}/artifacts/download"
    for path in ("weights.bin", "large"):
        assert site.client.get(download, params={"path": path}).status_code == 404
    with Repo(site.up.url) as repo:
        assert repo.list_all_runs() == [KEPT]


def assert_intact(site: Site, *, steps: int) -> None:
    """Check every byte and point of the run that was written meanwhile."""
    assert site.count_blobs(KEPT) == steps
    with Repo(site.up.url) as repo:
        query = f'run.hash == "{KEPT}"'
        (images,) = repo.images(query, steps=0)
        assert images.steps == list(range(steps))
        for step, (image,) in enumerate(images.values):
            assert image.data == b"kept %d " % step * 100
        (loss,) = repo.metrics(query, points=10_000)
        assert list(loss.values) == [float(step) for step in range(steps)]

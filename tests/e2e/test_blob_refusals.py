"""Uploads that are not what was signed, and a blob store that dies or hangs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from matyan_client import Run
from matyan_project.local_server import LocalServer
from tests.e2e.clients import REST, wait_for
from tests.services import s3

pytestmark = pytest.mark.e2e

BODY = b"0123456789"


# --- uploads that are not what was signed --------------------------------------------


def signed(client: httpx.Client, run_id: str, path: str) -> dict[str, Any]:
    wanted = {"run_id": run_id, "artifact_path": path, "size": len(BODY)}
    answer = client.post(f"{REST}/artifacts/presign", json=wanted)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def put(url: str, body: bytes) -> int:
    return httpx.put(url, content=body, timeout=30).status_code


def swapped(url: str, at: int) -> str:
    """The address with one character of it changed."""
    return f"{url[:at]}{'A' if url[at] != 'A' else 'B'}{url[at + 1 :]}"


def test_an_upload_that_was_not_signed_for_is_refused(
    server_on_each_store: LocalServer,
) -> None:
    with httpx.Client(base_url=server_on_each_store.url, timeout=30) as client:
        url = signed(client, "refusing", "model.bin")["upload_url"]
        for body in (BODY + b"a", BODY[:-1], b""):
            assert put(url, body) in {400, 403, 413}
        assert put(swapped(url, len(url) - 1), BODY) == 403
        # The key, of S3, and what names it, of the token: another than was signed.
        assert put(swapped(url, url.rindex("/") + 3), BODY) == 403
        assert put(url, BODY) == 200


# --- a blob store that dies or hangs -------------------------------------------------


@dataclass
class Site:
    """A server whose blobs are in an S3 server that can be hurt."""

    up: LocalServer
    bucket: s3.S3Server
    client: httpx.Client

    def download(self, run_id: str) -> httpx.Response:
        path = f"{REST}/runs/{run_id}/artifacts/download"
        return self.client.get(path, params={"path": "model.bin"})

    def readiness(self) -> dict[str, Any]:
        answer = httpx.get(f"{self.up.frontier_url}/health/ready/", timeout=30)
        assert answer.status_code == 200
        found: dict[str, Any] = answer.json()
        return found

    def count_blobs(self, run_id: str) -> int:
        with contextlib.closing(self.bucket.client()) as client:
            found = client.list_objects_v2(Bucket=s3.BUCKET, Prefix=f"{run_id}/")
        keys = [one["Key"] for one in found.get("Contents", ())]
        return sum(1 for key in keys if not key.endswith("/"))  # a directory

    def assert_metrics_go_on(self) -> None:
        """Write and read what is not in the blob store."""
        with Run(repo=self.up.url) as run:
            run.track(1.5, "loss")
            assert run.wait_durable(20)
            (series,) = run.metrics()
        assert self.client.get(f"{REST}/runs/{run.hash}/info").status_code == 200
        assert series


@pytest.fixture
def site(tmp_path: Path, required_services: frozenset[str]) -> Iterator[Site]:
    reason = s3.missing()
    if reason and "s3" not in required_services:
        pytest.skip(f"no s3: {reason}")
    with (
        s3.S3Server(tmp_path / "s3") as bucket,
        LocalServer(tmp_path / "data", environ=bucket.settings) as up,
        httpx.Client(base_url=up.url, timeout=150) as client,
    ):
        yield Site(up, bucket, client)


@pytest.fixture
def run_id(site: Site, tmp_path: Path) -> str:
    """A run with an artifact."""
    (tmp_path / "model.bin").write_bytes(BODY)
    with Run(repo=site.up.url) as run:
        run.log_artifact(tmp_path / "model.bin", block=True)
        assert run.wait_durable(20)
    return run.hash


@pytest.mark.s3
def test_a_store_that_dies_is_told_of_and_loses_no_deletion(
    site: Site, run_id: str
) -> None:
    assert site.download(run_id).content == BODY
    site.bucket.kill()
    answer = site.download(run_id)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "blob_store_unavailable"
    assert s3.SECRET_KEY not in answer.text
    site.assert_metrics_go_on()
    # Deleted while its blobs cannot be: at once for readers, in time for the bytes.
    assert site.client.delete(f"{REST}/runs/{run_id}").status_code == 200
    assert site.download(run_id).status_code == 404
    wait_for(lambda: "control.failed" in site.up.printed())
    site.bucket.start()
    assert site.count_blobs(run_id) == 1
    wait_for(lambda: site.count_blobs(run_id) == 0, timeout_s=60)


@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_store_that_hangs_holds_up_only_those_who_want_blobs(
    site: Site, run_id: str
) -> None:
    site.bucket.pause()
    with ThreadPoolExecutor(40) as readers:
        waiting = [readers.submit(site.download, run_id) for _ in range(40)]
        site.assert_metrics_go_on()
        # It looks again every 10 s, and is ready all the same: metrics can be taken.
        wait_for(lambda: site.readiness()["checks"]["blob"] != "ok", timeout_s=60)
        assert {one.result(200).status_code for one in waiting} == {503}
    site.bucket.resume()
    assert site.download(run_id).content == BODY

"""Files and pictures end to end: the public client as it is, files and S3, large ones.

MATYAN_TEST_LARGE_MB sets the size of the large file (300).
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from matyan_project.local_server import LocalServer
from tests.e2e.clients import (
    REST,
    blob_uris,
    finished,
    python,
    read_blobs,
    series_values,
    wait_for,
)
from tests.e2e.memory import MEBIBYTE, server_peaks

pytestmark = pytest.mark.e2e

LARGE_BYTES = int(os.environ.get("MATYAN_TEST_LARGE_MB", "300")) * MEBIBYTE
MAX_RSS_BYTES = 200 * MEBIBYTE

NAMES = [
    "model.pt",
    "dir/ünï çødé.txt",
    "日本/文書 1.bin",
    "q\"uo'te;%2F&?#.txt",
    "empty",
    "a" * 200 + ".txt",
]

LOG = """
import json, os, sys
from matyan_client import Image, Run
url, directory = sys.argv[1:]
run = Run(repo=url)
for number, name in enumerate(json.load(open(os.path.join(directory, "names.json")))):
    run.log_artifact(os.path.join(directory, str(number)), name=name)
for step in range(5):
    for subset in ("train", "val"):
        image = Image(f"{subset} {step}".encode())
        run.track(image, name="img", step=step, context={"subset": subset})
        run._blob_uploader.drain()
for step in range(5):
    for subset in ("train", "val"):
        image = Image(f"{subset} {step}".encode())
        run.track(image, name="burst", step=step, context={"subset": subset})
run.close()
print(run.hash)
"""

READ = """
import json, sys
from matyan_client import Run
url, run_id, directory = sys.argv[1:]
run = Run(run_id, repo=url, read_only=True)
for number, name in enumerate(json.load(open(directory + "/names.json"))):
    open(f"{directory}/got-{number}", "wb").write(run.get_artifact(name))
print(len(run.download_artifacts(directory + "/all")))
"""


def pictures(client: httpx.Client, run_id: str, name: str, subset: str) -> list[bytes]:
    """Return the images of a series as a page gets them, by step."""
    values = series_values(client, run_id, "images", name, {"subset": subset})
    return read_blobs(client, "images", list(blob_uris(values)))


@pytest.mark.xdist_group("public-client")
def test_the_public_clients_files_and_pictures_come_back(
    environ, tmp_path, public_client_python
):
    contents = {name: os.urandom(1000 + 977 * i) for i, name in enumerate(NAMES)}
    contents["empty"] = b""
    contents["model.pt"] = os.urandom(9 * MEBIBYTE)
    (tmp_path / "names.json").write_text(json.dumps(NAMES))
    for number, name in enumerate(NAMES):
        (tmp_path / str(number)).write_bytes(contents[name])
    with (
        LocalServer(tmp_path / "data", environ=environ) as server,
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):
        run_id = python(public_client_python, LOG, server.url, tmp_path)
        info = wait_for(lambda: finished(client, run_id))
        assert sorted(one["path"] for one in info["artifacts"]) == sorted(NAMES)
        count = python(public_client_python, READ, server.url, run_id, tmp_path)
        assert int(count) == len(NAMES)
        for number, name in enumerate(NAMES):
            assert (tmp_path / f"got-{number}").read_bytes() == contents[name], name
            assert (tmp_path / "all" / name).read_bytes() == contents[name], name
        subsets = ("train", "val")
        for subset in subsets:
            found = pictures(client, run_id, "img", subset)
            assert found == [f"{subset} {step}".encode() for step in range(5)]
        # Its upload threads ask in no certain order, but nothing overwrites another.
        burst = [pictures(client, run_id, "burst", subset) for subset in subsets]
        for step, found in enumerate(zip(*burst, strict=True)):
            assert set(found) == {f"{subset} {step}".encode() for subset in subsets}


# --- large files ---------------------------------------------------------------------


class Large:
    """A large file that is never whole in memory."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.block = os.urandom(MEBIBYTE)

    def piece(self, start: int, stop: int) -> Iterator[bytes]:
        while start < stop:
            at = start % MEBIBYTE
            chunk = self.block[at : at + stop - start]
            start += len(chunk)
            yield chunk

    def digest(self) -> str:
        found = hashlib.sha256()
        for chunk in self.piece(0, self.size):
            found.update(chunk)
        return found.hexdigest()


def put(url: str, large: Large, start: int, stop: int) -> None:
    headers = {"content-length": str(stop - start)}
    content = large.piece(start, stop)
    answer = httpx.put(url, content=content, headers=headers, timeout=600)
    assert answer.status_code == 200, answer.text


def upload(client: httpx.Client, large: Large, *, multipart: bool) -> None:
    body = {"run_id": "big", "artifact_path": "big.bin", "size": large.size}
    path = f"{REST}/artifacts"
    answer = client.post(f"{path}/presign", json={**body, "multipart": multipart})
    ticket = answer.json()
    if not multipart:
        put(ticket["upload_url"], large, 0, large.size)
        return
    token = {"upload": ticket["multipart"]["upload"]}
    size = ticket["multipart"]["part_bytes"]
    for number in range(1, ticket["multipart"]["count"] + 1):
        part = client.post(f"{path}/multipart/sign", json={**token, "number": number})
        start = (number - 1) * size
        url = part.json()["upload_url"]
        put(url, large, start, min(start + size, large.size))
    done = client.post(f"{path}/multipart/complete", json=token, timeout=600)
    assert done.json()["size"] == large.size


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("multipart", [False, True], ids=["whole", "parts"])
def test_a_large_file_passes_in_bounded_memory(
    environ, tmp_path, public_client_python, multipart
):
    large = Large(LARGE_BYTES + 12_345)
    with (
        LocalServer(tmp_path / "data", environ=environ) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        upload(client, large, multipart=multipart)
        _refer(server, public_client_python)
        url = f"{REST}/runs/big/artifacts/download"
        where = {"path": "big.bin"}
        wait_for(lambda: client.head(url, params=where).status_code == 200)
        found, size = hashlib.sha256(), 0
        with client.stream("GET", url, params=where, timeout=600) as response:
            assert response.headers["content-length"] == str(large.size)
            for chunk in response.iter_bytes():
                found.update(chunk)
                size += len(chunk)
        assert (size, found.hexdigest()) == (large.size, large.digest())
        tail = client.get(url, params=where, headers={"range": "bytes=-10"})
        assert tail.content == b"".join(large.piece(large.size - 10, large.size))
        archive = tmp_path / "all.zip"
        with (
            client.stream("GET", url + "-all", timeout=600) as response,
            archive.open("wb") as file,
        ):
            for chunk in response.iter_bytes():
                file.write(chunk)
        with zipfile.ZipFile(archive) as opened:
            assert opened.getinfo("big.bin").file_size == large.size
            assert opened.testzip() is None
        assert max(server_peaks(server).values()) < MAX_RSS_BYTES


def _refer(server: LocalServer, python_: Path) -> None:
    """Say over the WebSocket that the file has arrived, as a client does."""
    script = """
import sys
from matyan_client import Run
run = Run("big", repo=sys.argv[1])
run._ws.send_blob_ref("big/big.bin", "big.bin", "application/octet-stream")
run.close()
print("done")
"""
    python(python_, script, server.url)

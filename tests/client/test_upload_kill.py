"""Processes that end in the middle of uploads: another one goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.blob_server import BlobServer, Trouble
from tests.client.conftest import journals, wait_until
from tests.client.delivery.test_uploads import references
from tests.client.fake_server import FakeServer
from tests.client.test_kill import SRC, start, sync

pytestmark = pytest.mark.e2e

LOG = """
import sys
sys.path.insert(0, {src!r})
from matyan_client.delivery import transfer
transfer.MULTIPART_BYTES = 100_000
import os
from matyan_client import Image, Run
run = Run("victim", repo={url!r})
run.track(1.0, "loss")
run.track(Image(b"picture", format_="png"), "picture", step=1)
run.log_artifact({file!r}, "model.bin")
print("logged", flush=True)
{then}
"""


@pytest.fixture
def two_servers() -> Iterator[tuple[FakeServer, BlobServer]]:
    with FakeServer() as server, BlobServer() as blobs:
        blobs.part_bytes = 64_000
        server.version["gateway"] = {"port": blobs.port}
        yield server, blobs


def run_script(server: FakeServer, file: Path, then: str) -> subprocess.Popen[bytes]:
    script = LOG.format(src=SRC, url=server.url, file=str(file), then=then)
    return start(script)


@pytest.fixture
def file(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr("matyan_client.delivery.transfer.MULTIPART_BYTES", 100_000)
    path = tmp_path / "model"
    path.write_bytes(os.urandom(640_000))
    return path


def test_killed_in_the_middle_of_an_upload_sync_goes_on(two_servers, file, state_dir):
    server, blobs = two_servers
    # Of ten parts the fifth never ends.
    blobs.policy = lambda route, number: (
        Trouble(hang=True) if (route, number) == ("put", 6) else None
    )
    process = run_script(server, file, "import time; time.sleep(60)")
    assert wait_until(lambda: blobs.count("put") >= 6, 15)
    assert wait_until(lambda: len(server.objects("images")) == 1, 5)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    content = file.read_bytes()
    file.unlink()  # the local log has what it needs
    (parts,) = blobs.parts.values()
    arrived = sum(map(len, parts.values()))
    blobs.policy = lambda *_: None
    received = blobs.received
    outcome = sync()
    assert outcome["exit_code"] == 0, outcome
    assert blobs.stored["model.bin"] == content
    assert len(blobs.presigned) == 2  # a picture, and one upload in parts
    assert blobs.received - received == len(content) - arrived
    paths = [path for path, *_ in references(server)]
    assert (min(paths), len(paths)) == ("model.bin", 2)
    (row,) = outcome["journals"]
    assert row["finished"] is False
    assert row["uploads"] == 1
    assert journals(state_dir) == []


def test_sync_says_that_a_killed_process_s_run_stays_active(file, two_servers):
    server, _ = two_servers
    process = run_script(server, file, "os._exit(9)")
    assert process.wait(15) == 9
    found = subprocess.run(
        [sys.executable, "-m", "matyan_client", "sync"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": SRC},
    )
    assert found.returncode == 0, found.stderr
    assert "the run stays active" in found.stderr
    assert "Run('victim').close() finishes it" in found.stderr
    kinds = [type(event).__name__ for event in server.events()]
    assert "FinishRun" not in kinds


def test_what_close_leaves_a_detached_process_uploads(
    two_servers, file, state_dir, monkeypatch
):
    server, blobs = two_servers
    monkeypatch.setenv("MATYAN_DETACHED_SYNC_S", "20")
    blobs.policy = lambda *_: Trouble(status=503)
    process = run_script(server, file, "run.close(timeout=1)")
    assert process.wait(15) == 0
    kinds = [type(event).__name__ for event in server.events()]
    assert "FinishRun" in kinds
    blobs.policy = lambda *_: None
    assert wait_until(lambda: journals(state_dir) == [], 20)
    assert blobs.stored["model.bin"] == file.read_bytes()
    assert len(references(server)) == 2


def test_a_forked_child_uploads_by_itself(two_servers, file, state_dir):
    server, blobs = two_servers
    child = f"""
run.flush(10)
pid = os.fork()
if pid == 0:
    run.log_artifact({str(file)!r}, 'child.bin', block=True)
    run.close()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
run.log_artifact({str(file)!r}, 'parent.bin')
run.close()
"""
    process = run_script(server, file, child)
    assert process.wait(30) == 0
    names = {"model.bin", "child.bin", "parent.bin"}
    assert names <= set(blobs.stored)
    assert journals(state_dir) == []

"""Objects and artifacts of our SDK against a real server, read back byte for byte."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from matyan_client import Audio, Distribution, Figure, Image, Repo, Run, Text
from matyan_project.env import BASE_DIR
from matyan_project.local_server import LocalServer
from tests.e2e.memory import MEBIBYTE, growth_bytes, server_peaks

pytestmark = pytest.mark.e2e


@pytest.fixture
def up(server_on_each_store: LocalServer) -> LocalServer:
    return server_on_each_store


def test_every_kind_of_object_comes_back(up: LocalServer) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    wave = np.sin(np.arange(4000) / 5)
    with Run(repo=up.url) as run:
        for subset, shift in (("train", 0), ("val", 9)):
            image = Image(pixels + np.uint8(shift), f"seen {subset}")
            run.track(image, "img", step=3, context={"subset": subset})
        run.track([Image(pixels[:5]), Image(pixels[:7])], "list", epoch=2)
        sound = Audio(wave, rate=8000, caption="tone")
        run.track(sound, "sound")
        run.track(Text("one"), "words")
        run.track([Text("a"), Text("b")], "words")
        run.track(Distribution([1, 2, 2, 3], bin_count=3), "bins")
        run.track(Figure({"data": [{"y": [1, 2]}], "layout": {}}), "plot")
        assert run.wait_durable(20)
        assert run.delivery.dropped == {}
    only_this = f'run.hash == "{run.hash}"'
    with Repo(up.url) as repo:
        by_context = {
            series.context["subset"]: series.values[0][0]
            for series in repo.images(f'{only_this} and images.name == "img"')
        }
        assert by_context["train"].caption == "seen train"
        assert by_context["train"].data == Image(pixels).data
        assert by_context["val"].data == Image(pixels + np.uint8(9)).data
        (listed,) = repo.images(f'{only_this} and images.name == "list"')
        assert [(one.height, one.index) for one in listed.values[0]] == [(5, 0), (7, 1)]
        assert (listed.steps, listed.epochs) == ([0], [2])
        (sounds,) = repo.audios(only_this)
        assert sounds.values[0][0].data == sound.data
        (words,) = repo.texts(only_this)
        assert words.values == [["one"], ["a", "b"]]
        (bins,) = repo.distributions(only_this)
        assert list(bins.values[0].weights) == [1, 2, 1]
        (plots,) = repo.figures(only_this)
        assert plots.values[0]["data"] == [{"y": [1, 2]}]


def test_artifacts_come_back(up: LocalServer, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    names = {"plain.txt": b"text", "deep/Ünïcode name.bin": os.urandom(10_000)}
    for name, data in names.items():
        (tree / name).write_bytes(data)
    large = tmp_path / "large"
    with large.open("wb") as file:  # in parts: more than 64 MiB, no two alike
        for number in range(70):
            file.write(number.to_bytes(1) * 2**20)
        file.write(b"end")
    with Run(repo=up.url) as run:
        run.log_artifact(large, "models/large.bin")
        run.log_artifacts(tree, "tree")
        run.log_artifact(tree / "plain.txt", "again")
        assert run.wait_durable(30)
        run.log_artifact(large.with_name("tree") / "deep" / "Ünïcode name.bin", "again")
        assert run.wait_durable(30)
    reading = Run(run.hash, repo=up.url, read_only=True)
    listed = {artifact["path"] for artifact in reading.artifacts}
    assert listed == {"models/large.bin", "again", *(f"tree/{name}" for name in names)}
    assert reading.get_artifact("again") == names["deep/Ünïcode name.bin"]
    found = reading.download_artifacts(tmp_path / "back")
    assert len(found) == 4
    back = tmp_path / "back"
    assert digest(back / "models" / "large.bin") == digest(large)
    for name, data in names.items():
        assert (back / "tree" / name).read_bytes() == data
    reading.close()


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


MAX_GROWTH_BYTES = 48 * MEBIBYTE
MAX_SERVER_BYTES = 200 * MEBIBYTE

LARGE = """
from matyan_client import Run
from tests.e2e.memory import peak_bytes
run = Run(repo={url!r})
before = peak_bytes("self")
assert run.log_artifact({large!r}, "large", block=True)
assert run.wait_durable(60)
print(peak_bytes("self") - before)
run.download_artifact("large", {back!r})
print(peak_bytes("self") - before)
run.close()
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_gigabytes_take_little_memory_on_both_sides(
    up: LocalServer, tmp_path: Path
) -> None:
    large, back = tmp_path / "large", tmp_path / "back"
    with large.open("wb") as file:
        for number in range(2048):
            file.write(number.to_bytes(4) * 2**18)
    before = server_peaks(up)
    assert len(before) >= 5  # backend, gateway, ingestion, control, tasks
    script = LARGE.format(url=up.url, large=str(large), back=str(back))
    path = os.pathsep.join([str(BASE_DIR / "client" / "src"), str(BASE_DIR)])
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    after = server_peaks(up)
    grown = growth_bytes(before, after)
    grown["client, up"], grown["client, up and down"] = map(int, done.stdout.split())
    assert digest(back) == digest(large)
    assert [name for name, size in grown.items() if size > MAX_GROWTH_BYTES] == []
    # Whatever an earlier test has made them grow to.
    assert [name for name, size in after.items() if size > MAX_SERVER_BYTES] == []

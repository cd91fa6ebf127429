"""Every kind of object the public client has, unmodified, into files and into S3."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from matyan_project.local_server import LocalServer
from matyan_wire.tree_stream import iter_trees
from tests.e2e.clients import (
    REST,
    blob_uris,
    finished,
    python,
    read_blobs,
    series_values,
    wait_for,
)

pytestmark = pytest.mark.e2e

STEPS = 3
VAL = {"subset": "val"}
FILES = {
    "image-0": b"",
    "image-1": os.urandom(1),
    "image-2": os.urandom(3_000_000),
    "drawn.png": os.urandom(5_000),
    "photo.jpeg": os.urandom(70_000),
    "tone-0": os.urandom(100),
    "tone-1": os.urandom(1_500_000),
    "tone-2": b"\x00" * 4096,
    "speech.mp3": os.urandom(30_000),
    "stream.flac": os.urandom(40_001),
    "weights.bin": os.urandom(2_000_000),
}
TEXTS = ["", "plain", "日本語 \U0001f600 \x00 \u2028 " + "long " * 5_000]
WEIGHTS = [0, 1, 2.5, 1e300, -3]
FIGURE = {
    "data": [{"type": "bar", "y": [1, None, 2.5], "name": "ünï"}],
    "layout": {"title": {"text": "<b>&</b>"}, "xaxis": {}, "shapes": []},
}

LOG = """
import json, sys
from matyan_client import Audio, Distribution, Figure, Image, Run, Text
url, directory = sys.argv[1:]
given = json.load(open(directory + "/given.json"))
val = {"subset": "val"}
read = lambda name: open(f"{directory}/{name}", "rb").read()
run = Run(repo=url)
for step in range(3):
    image = Image(read(f"image-{step}"), caption=f"image {step}")
    run.track(image, name="image", step=step, epoch=step * 10, context=val)
    tone = Audio(read(f"tone-{step}"), format_="wav", caption=f"tone {step}", rate=8000)
    run.track(tone, name="tone", step=step, context=val)
    run.track(Text(given["texts"][step]), name="words", step=step, context=val)
run.track(Image(directory + "/drawn.png"), name="drawn")
run.track(Image(directory + "/photo.jpeg", format_="JPEG", caption="é"), name="photo")
run.track(Audio(directory + "/speech.mp3"), name="speech")
run.track(Audio(open(directory + "/stream.flac", "rb"), format_="flac"), name="stream")
run.track(Distribution([1, 2, 2, 4], bin_count=3), name="samples", context=val)
given_bins = Distribution.from_histogram(given["weights"], (-1, 2.5))
run.track(given_bins, name="bins", context=val)
run.track(Figure(given["figure"]), name="figure", context=val)
run.log_artifact(directory + "/weights.bin", name="models/weights.bin")
run.close()
print(run.hash)
"""

READ = """
import json, sys
from matyan_client import Repo
url, run_id, directory = sys.argv[1:]
repo = Repo(url)
query = f'run.hash == "{run_id}"'
got = {}
for kind, ask in (("images", repo.query_images), ("audios", repo.query_audios)):
    (run,) = ask(query)
    for trace in run["traces"].values():
        for step, items in trace["values"].items():
            uri = items[0]["blob_uri"]
            data = repo._http.get_blob_batch(kind, [uri])[uri]
            with open(f"{directory}/got-{trace['name']}-{step}", "wb") as file:
                file.write(data)
(run,) = repo.query_texts(query)
words = run["traces"][0]["values"]
got["texts"] = [words[place][0]["data"] for place in sorted(words)]
(run,) = repo.query_figure_objects(query)
got["figure"] = json.loads(run["traces"][0]["values"][0]["data"])
(run,) = repo.query_distributions(query)
got["bins"] = {
    trace["name"]: {
        "weights": trace["values"][0]["data"]["blob"].hex(),
        "dtype": trace["values"][0]["data"]["dtype"],
        "range": [trace["values"][0]["range"][i] for i in (0, 1)],
    }
    for trace in run["traces"].values()
}
with open(directory + "/got.json", "w") as file:
    json.dump(got, file)
artifact = repo.get_run(run_id).get_artifact("models/weights.bin")
open(directory + "/got-artifact", "wb").write(artifact)
print("read")
"""

BLOBS = {
    ("images", "image", "val"): [f"image-{step}" for step in range(STEPS)],
    ("images", "drawn", ""): ["drawn.png"],
    ("images", "photo", ""): ["photo.jpeg"],
    ("audios", "tone", "val"): [f"tone-{step}" for step in range(STEPS)],
    ("audios", "speech", ""): ["speech.mp3"],
    ("audios", "stream", ""): ["stream.flac"],
}


@pytest.fixture
def logged(
    server_on_each_store: LocalServer, tmp_path: Path, public_client_python: Path
) -> tuple[LocalServer, str]:
    """A server, and a run that the public client has logged everything into."""
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    given = {"texts": TEXTS, "weights": WEIGHTS, "figure": FIGURE}
    (tmp_path / "given.json").write_text(json.dumps(given))
    up = server_on_each_store
    return up, python(public_client_python, LOG, up.url, tmp_path)


def context_of(subset: str) -> dict[str, str]:
    return {"subset": subset} if subset else {}


def searched(client: httpx.Client, run_id: str, kind: str) -> dict[str, Any]:
    """Return the series of a search for a run's objects, by name."""
    query = {"q": f'run.hash == "{run_id}"', "report_progress": "0"}
    answer = client.get(f"{REST}/runs/search/{kind}", params=query)
    ((found, tree),) = iter_trees([answer.content])
    assert found == run_id
    return {trace["name"]: trace for trace in tree["traces"]}


@pytest.mark.xdist_group("public-client")
def test_every_kind_of_object_comes_back_byte_for_byte(
    request, logged, tmp_path, public_client_python
):
    up, run_id = logged
    with httpx.Client(base_url=up.url, timeout=30) as client:
        info = wait_for(lambda: finished(client, run_id))
        (artifact,) = info["artifacts"]
        assert artifact["path"] == "models/weights.bin"
        store = request.node.callspec.params["server_on_each_store"]
        assert artifact["uri"].startswith(f"{store}://")
        for (kind, name, subset), files in BLOBS.items():
            contents = [FILES[file] for file in files]
            context = context_of(subset)
            steps = series_values(client, run_id, kind, name, context)
            assert read_blobs(client, kind, list(blob_uris(steps))) == contents
            trace = searched(client, run_id, kind)[name]
            assert (trace["context"], trace["iters"]) == (context, [*range(len(files))])
            assert list(blob_uris(trace["values"])) == list(blob_uris(steps))
        _assert_described(client, run_id)
        _assert_inline(client, run_id)
    python(public_client_python, READ, up.url, run_id, tmp_path)
    _assert_read_by_the_client(tmp_path)


def _assert_described(client: httpx.Client, run_id: str) -> None:
    images = searched(client, run_id, "images")
    captions = [step[0]["caption"] for step in images["image"]["values"]]
    assert captions == ["image 0", "image 1", "image 2"]
    assert images["image"]["epochs"] == [0, 10, 20]
    ((photo,),) = images["photo"]["values"]
    assert (photo["format"], photo["caption"]) == ("JPEG", "é")
    audios = searched(client, run_id, "audios")
    formats = {name: trace["values"][0][0]["format"] for name, trace in audios.items()}
    assert formats == {"tone": "wav", "speech": "mp3", "stream": "flac"}
    assert audios["tone"]["values"][1][0]["caption"] == "tone 1"


def _assert_inline(client: httpx.Client, run_id: str) -> None:
    """Check the kinds whose content is in the series itself."""
    for words in (
        series_values(client, run_id, "texts", "words", VAL),
        searched(client, run_id, "texts")["words"]["values"],
    ):
        assert [step[0]["data"] for step in words] == TEXTS
    for (bins,) in (
        series_values(client, run_id, "distributions", "bins", VAL),
        searched(client, run_id, "distributions")["bins"]["values"],
    ):
        assert np.asarray(bins["data"]).tolist() == WEIGHTS
        assert (bins["bin_count"], bins["range"]) == (len(WEIGHTS), [-1.0, 2.5])
    (samples,) = series_values(client, run_id, "distributions", "samples", VAL)
    assert np.asarray(samples["data"]).tolist() == [1, 2, 1]
    for (figure,) in (
        series_values(client, run_id, "figures", "figure", VAL),
        searched(client, run_id, "figures")["figure"]["values"],
    ):
        assert json.loads(figure["data"]) == FIGURE


def _assert_read_by_the_client(directory: Path) -> None:
    """Check what the public client's own reading has found."""
    for (_, name, _), files in BLOBS.items():
        for step, file in enumerate(files):
            assert (directory / f"got-{name}-{step}").read_bytes() == FILES[file], name
    assert (directory / "got-artifact").read_bytes() == FILES["weights.bin"]
    got = json.loads((directory / "got.json").read_text())
    assert got["texts"] == TEXTS
    assert got["figure"] == FIGURE
    bins = {
        name: np.frombuffer(bytes.fromhex(one["weights"]), one["dtype"]).tolist()
        for name, one in got["bins"].items()
    }
    assert bins == {"bins": WEIGHTS, "samples": [1, 2, 1]}
    assert got["bins"]["bins"]["range"] == [-1, 2.5]

"""Artifacts back from the server, and objects with their bytes."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

import numpy as np
import pytest

from matyan_client import NotFoundError, Repo, Run, ServerError
from matyan_client.artifacts import local_path
from matyan_client.media import Audio
from matyan_client.rest import RestClient
from matyan_wire.tree_stream import encode_tree
from tests.client.fake_server import FakeServer, answer, answer_json


def reading(server: FakeServer) -> Run:
    return Run("r", repo=server.url, read_only=True)


def list_artifacts(server: FakeServer, *paths: str) -> None:
    artifacts = [{"name": path, "path": path, "uri": "x"} for path in paths]
    server.pages["runs/r/info"] = answer_json({"artifacts": artifacts})


def test_an_artifact_is_read_and_downloaded(server, tmp_path: Path):
    server.pages["runs/r/artifacts/download"] = answer(b"content", "text/plain")
    run = reading(server)
    assert run.get_artifact("a/b.txt") == b"content"
    assert server.received.queries[0] == {"path": ["a/b.txt"]}
    target = run.download_artifact("a/b.txt", tmp_path / "new" / "file")
    assert (target, target.read_bytes()) == (tmp_path / "new" / "file", b"content")
    assert run.download_artifact("a/b.txt", tmp_path) == tmp_path / "b.txt"
    list_artifacts(server, "a/b.txt", "c.txt")
    found = run.download_artifacts(tmp_path / "all")
    names = [path.relative_to(tmp_path / "all").as_posix() for path in found]
    assert names == ["a/b.txt", "c.txt"]
    assert list(tmp_path.rglob("*.partial")) == []


def test_a_missing_artifact_is_said(server, tmp_path: Path):
    run = reading(server)
    with pytest.raises(NotFoundError, match="run r has no artifact 'a'"):
        run.get_artifact("a")
    with pytest.raises(NotFoundError, match="run r has no artifact 'a'"):
        run.download_artifact("a", tmp_path / "file")
    assert not list(tmp_path.glob("*file*"))


def test_a_download_that_breaks_leaves_nothing(server, tmp_path: Path):
    page = answer(b"half", "text/plain")
    del page.headers["Content-Length"]
    page.headers["Content-Length"] = "1000"
    server.pages["runs/r/artifacts/download"] = page
    target = tmp_path / "file"
    target.write_bytes(b"before")
    with pytest.raises(ServerError):
        reading(server).download_artifact("a", target)
    assert target.read_bytes() == b"before"
    assert list(tmp_path.glob(".*")) == []


WINDOWS = PureWindowsPath("C:\\Users\\ann\\runs")


@pytest.mark.parametrize(
    ("path", "below"),
    [
        ("a/b.txt", ["a", "b.txt"]),
        ("a\\b.txt", ["a", "b.txt"]),
        ("C:evil", ["C_evil"]),
        ("C:/evil", ["C_", "evil"]),
        ("a.txt:stream", ["a.txt_stream"]),
        ("a/.. /b", ["a", "_", "b"]),
        ("a/... ./b", ["a", "_", "b"]),
        ("end. ", ["end_"]),
        ("a/NUL", ["a", "_NUL"]),
        ("com1.txt", ["_com1.txt"]),
        ('<>"|?*', ["______"]),
    ],
)
def test_paths_stay_below_a_directory_on_windows(path, below):
    assert local_path(WINDOWS, path) == WINDOWS.joinpath(*below)


@pytest.mark.parametrize(
    "path",
    ["..\\up", "a\\..\\..\\up", "\\root", "\\\\host\\share", "/root", "..", "", "\\"],
)
def test_paths_that_lead_out_are_refused_on_windows(path):
    with pytest.raises(ValueError, match="leads outside"):
        local_path(WINDOWS, path)


def test_elsewhere_names_stay_as_they_are(tmp_path: Path):
    for name in ("a:b", "a\\b", "NUL", "end. "):
        assert local_path(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize("path", ["../up", "/root", "a/../../b", "", "a\0b"])
def test_paths_never_lead_out_of_the_directory(path, server, tmp_path: Path):
    server.pages["runs/r/artifacts/download"] = answer(b"x", "text/plain")
    list_artifacts(server, "good", path)
    with pytest.raises(ValueError, match="leads outside"):
        reading(server).download_artifacts(tmp_path / "all")
    assert not (tmp_path / "all").exists()


# Objects.


def serve_objects(server: FakeServer, kind: str, values: list) -> None:
    trace = {"name": "n", "context": {"a": 1}, "values": values}
    columns = {"iters": [0, 7], "epochs": [None, 1.5], "timestamps": [1.0, 2.0]}
    tree = {"params": {"lr": 1}, "props": {}, "traces": [{**trace, **columns}]}
    body = encode_tree({"r1": tree})
    stream = "application/octet-stream"
    server.pages[f"runs/search/{kind}"] = answer(body, stream)


def item(uri: str, index: int) -> dict:
    size = {"width": 2, "height": 1}
    return {"caption": uri, "format": "wav", "blob_uri": uri, "index": index, **size}


def serve_blobs(monkeypatch, blobs: dict[str, bytes]) -> list:
    """Stands in for the answer of blob batches: the fake server takes no POST."""
    asked: list = []
    search = RestClient.iter_trees

    def iter_trees(client, path, *, body=None, **params):
        if body is None:
            return search(client, path, **params)
        asked.append((path, body))
        return iter([(uri, blobs[uri]) for uri in body if uri in blobs])

    monkeypatch.setattr(RestClient, "iter_trees", iter_trees)
    return asked


def test_images_and_audios_come_with_their_bytes(server, monkeypatch):
    sound = Audio(np.array([0.25, 0.5]), rate=100).data
    values = [[item("u1", 0), item("u2", 1)], [item("u3", 0)]]
    for kind in ("images", "audios"):
        serve_objects(server, kind, values)
    asked = serve_blobs(monkeypatch, {"u1": b"1", "u3": sound})
    repo = Repo(server.url)
    (images,) = repo.images()
    data = [[one.data for one in step] for step in images.values]
    assert data == [[b"1", b""], [sound]]
    assert (images.run, images.name, images.context) == ("r1", "n", {"a": 1})
    assert (images.steps, images.epochs, len(images)) == ([0, 7], [None, 1.5], 2)
    assert images.values[0][1].index == 1
    assert asked == [("runs/images/get-batch/", ["u1", "u2", "u3"])]
    (audios,) = repo.audios()
    samples, rate = audios.values[1][0].numpy()
    assert (samples[:, 0].tolist(), rate) == ([8192, 16384], 100)
    (plain,) = repo.query_images(blobs=True)
    assert plain["traces"][0]["values"][0][0]["blob"] == b"1"


def test_texts_distributions_and_figures_are_plain_values(server):
    serve_objects(server, "texts", [[{"data": "a", "index": 0}], [{"data": "b"}]])
    serve_objects(
        server, "distributions", [{"data": np.ones(3), "bin_count": 3, "range": [0, 1]}]
    )
    serve_objects(server, "figures", [{"data": '{"data": [1]}', "index": 0}])
    repo = Repo(server.url)
    assert [series.values for series in repo.texts()] == [[["a"], ["b"]]]
    (bins,) = repo.distributions(steps=0)
    assert list(bins.values[0].weights) == [1, 1, 1]
    assert bins.values[0].bin_range == (0, 1)
    assert [series.values for series in repo.figures()] == [[{"data": [1]}]]
    assert server.received.queries[1]["record_density"] == ["0"]

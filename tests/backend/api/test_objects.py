"""Images, texts, distributions, audio and figures over HTTP."""

import asyncio
import json

import numpy as np
import pytest
from django.test import AsyncClient

from backend import runtime as opened
from backend.api import blob_frames
from backend.api.observability import STREAMS_OPEN
from backend.blobs.uris import BlobAddress
from backend.domain.blobs import blob_key, new_blob_id
from backend.errors import BlobStoreUnavailableError
from matyan_wire import batch as wire
from matyan_wire.tree_stream import iter_trees
from tests.backend.api.conftest import REST, T0_US, pairs

KINDS = ("images", "texts", "distributions", "audios", "figures")
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


def image(run_id, step, name="img"):
    return {
        "type": "image",
        "format": "PNG",
        "caption": f"step {step}",
        "width": 3,
        "height": 2,
        "s3_key": f"{run_id}/seq/{name}/{step}.png",
    }


def audio(run_id, step):
    return {
        "type": "audio",
        "format": "wav",
        "caption": "",
        "rate": 8000,
        "s3_key": f"{run_id}/seq/beep/{step}.wav",
    }


PAYLOADS = {
    "images": image,
    "audios": audio,
    "texts": lambda _, step: {"type": "text", "data": f"text {step}"},
    "distributions": lambda _, step: {
        "type": "distribution",
        "bin_count": 2,
        "range": [0, 1],
        "data": [step, 1],
    },
    "figures": lambda _, step: {"type": "figure", "data": {"data": [{"y": [step]}]}},
}


def track(writer, run_id, kind, *, steps=range(3), name="obj", context=None):
    steps = list(steps)
    payloads = [PAYLOADS[kind](run_id, step) for step in steps]
    writer.objects(run_id, kind, name, payloads, steps=steps, context=context)


@pytest.fixture
def run(writer):
    """A run with three steps of every kind."""
    writer.run("r1", attributes={"lr": 0.1, "__system_params": {"x": 1}})
    for kind in KINDS:
        track(writer, "r1", kind, context={"subset": "val"})


def listed(tree):
    """Return a decoded array, whose keys are its indices, as a list."""
    return list(tree)


# --- searches ------------------------------------------------------------------------


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("kind", KINDS)
def test_search_has_the_shape_pages_expect(api, run, kind, slash):
    found = api.trees(f"runs/search/{kind}{slash}?q=")

    (tree,) = found.values()
    assert list(found) == ["r1"]
    assert tree["params"] == {"lr": 0.1}
    assert tree["props"]["experiment"] == {
        "id": None,
        "name": None,
        "description": None,
    }
    (trace,) = tree["traces"]
    assert (trace["name"], trace["context"]) == ("obj", {"subset": "val"})
    assert trace["iters"] == [0, 1, 2]
    assert trace["epochs"] == [None, None, None]
    assert trace["timestamps"] == pytest.approx(
        [T0_US / 1e6 + s / 1e3 for s in range(3)]
    )
    assert len(trace["values"]) == 3
    assert tree["ranges"]["record_range_total"] == [0, 3]
    assert tree["ranges"]["record_range_used"] == [0, 3]
    has_lists = kind in {"images", "audios", "texts"}
    assert tree["ranges"].get("index_range_total") == ([0, 1] if has_lists else None)
    assert tree["ranges"].get("index_range_used") == ([0, 1] if has_lists else None)


def values(api, kind, query="q="):
    (tree,) = api.trees(f"runs/search/{kind}?{query}").values()
    return tree["traces"][0]["values"]


def test_values_of_each_kind(api, run):
    ((picture,), *_) = values(api, "images")
    assert picture.pop("blob_uri").startswith("b1_")
    assert picture == {
        "caption": "step 0",
        "width": 3,
        "height": 2,
        "format": "PNG",
        "index": 0,
    }
    ((sound,), *_) = values(api, "audios")
    assert set(sound) == {"caption", "format", "blob_uri", "index"}
    assert values(api, "texts")[2] == [{"data": "text 2", "index": 0}]
    assert json.loads(values(api, "figures")[1]["data"]) == {"data": [{"y": [1]}]}
    histogram = values(api, "distributions")[2]
    assert np.asarray(histogram["data"]).tolist() == [2.0, 1.0]
    assert (histogram["bin_count"], histogram["range"]) == (2, [0.0, 1.0])


def test_uris_are_the_same_every_time_and_differ_between_steps(api, run):
    first, again = (
        [step[0]["blob_uri"] for step in values(api, "images")] for _ in range(2)
    )

    assert first == again
    assert len(set(first)) == 3


def test_an_object_whose_key_is_of_another_run_has_no_uri(api, writer):
    writer.run("r1")
    writer.objects("r1", "images", "img", [image("r2", 0), {"s3_key": 5}, {}])

    assert [step[0]["blob_uri"] for step in values(api, "images")] == ["none"] * 3


@pytest.fixture
def long(writer):
    """Steps 0 to 19 of texts, and of a second series steps 100 to 102."""
    writer.run("r1")
    track(writer, "r1", "texts", steps=range(20))
    track(writer, "r1", "texts", steps=range(100, 103), name="other")


def traces(api, query, kind="texts"):
    (tree,) = api.trees(f"runs/search/{kind}?q=&{query}").values()
    return {trace["name"]: trace["iters"] for trace in tree["traces"]}, tree["ranges"]


@pytest.mark.parametrize(
    ("query", "obj", "other", "used"),
    [
        ("record_range=", 20, 3, [0, 103]),
        ("record_range=5:", 15, 3, [5, 103]),
        ("record_range=:10", 10, 0, [0, 10]),
        ("record_range=5:8", 3, 0, [5, 8]),
        ("record_range=7", 20, 3, [0, 103]),
        ("record_range=50:60", 0, 0, [50, 60]),
        ("record_range=8:5", 0, 0, [8, 5]),
    ],
)
def test_ranges_are_half_open_on_steps(api, long, query, obj, other, used):
    found, ranges = traces(api, query)

    assert {name: len(iters) for name, iters in found.items()} == {
        "obj": obj,
        "other": other,
    }
    assert ranges["record_range_total"] == [0, 103]
    assert ranges["record_range_used"] == used


@pytest.mark.parametrize(
    ("query", "steps"),
    [
        ("record_range=0:6&record_density=5", [0, 1, 2, 3, 4, 5]),
        ("record_range=0:6&record_density=4", [0, 2, 3, 5]),
        ("record_range=0:20&record_density=2", [0, 19]),
        ("record_range=0:20&record_density=1", [0]),
        ("record_range=0:20&record_density=0", list(range(20))),
        ("record_range=0:20&record_density=-3", list(range(20))),
        ("record_range=0:20&record_density=undefined", list(range(20))),
        ("record_range=0:20&record_density=", list(range(20))),
    ],
)
def test_density(api, long, query, steps):
    assert traces(api, query)[0]["obj"] == steps


@pytest.mark.parametrize("name", ["record_range", "index_range"])
@pytest.mark.parametrize("bad", ["a:b", "1.5:2", "1:2:3", "0x1:"])
def test_bad_ranges_are_a_400(api, run, name, bad):
    for path in ("runs/search/images", "runs/search/figures"):
        answer = api.get(f"{path}?q=&{name}={bad}")
        assert answer.status_code == 400
        assert answer.json()["error"]["fields"]["parameter"] == name


def test_a_bad_query_is_a_400(api, run):
    answer = api.get("runs/search/texts?q=texts.name ==")

    assert answer.status_code == 400
    assert answer.json()["message"] == "SyntaxError"


def test_items_keep_their_place_in_the_list(api, writer):
    writer.run("r1")
    writer.objects(
        "r1",
        "texts",
        "lists",
        [
            [{"type": "text", "data": f"{step}/{index}"} for index in range(8)]
            for step in range(2)
        ],
    )

    def items(query):
        return [
            [(item["index"], item["data"]) for item in step]
            for step in values(api, "texts", f"q=&{query}")
        ]

    assert items("index_range=2:5") == [
        [(index, f"{step}/{index}") for index in (2, 3, 4)] for step in range(2)
    ]
    assert items("index_range=6:&index_density=5")[0] == [(6, "0/6"), (7, "0/7")]
    assert [index for index, _ in items("index_density=3")[0]] == [0, 4, 7]
    assert len(items("index_density=7")[0]) == 8
    assert items("index_range=8:") == [[], []]
    (tree,) = api.trees("runs/search/texts?q=&index_range=2:5").values()
    assert tree["ranges"]["index_range_total"] == [0, 8]
    assert tree["ranges"]["index_range_used"] == [2, 5]


def test_queries_choose_runs_and_series(api, writer):
    for run_id, lr in (("r1", 0.1), ("r2", 0.2)):
        writer.run(run_id, attributes={"lr": lr})
        track(writer, run_id, "texts", name="a")
        track(writer, run_id, "texts", name="b")

    query = "run.lr > 0.15 and texts.name == 'b'"
    found = api.trees(f"runs/search/texts?q={query}&report_progress=0")

    assert list(found) == ["r2"]
    assert [trace["name"] for trace in found["r2"]["traces"]] == ["b"]


def test_progress_frames_surround_the_runs(api, run):
    keys = [key for key, _ in api.stream("runs/search/figures?q=")]
    silent = [
        key for key, _ in api.stream("runs/search/figures?q=&report_progress=False")
    ]
    nothing = api.stream("runs/search/figures?q=run.hash == 'x'")

    assert keys == ["progress_0", "r1", "progress_1", "progress_2"]
    assert silent == ["r1"]
    assert nothing == [("progress_0", [0, 0]), ("progress_1", [0, 0])]


def test_runs_without_objects_of_the_kind_are_not_sent(api, writer):
    writer.run("r1")
    writer.metric("r1", "loss", [1.0])

    assert api.trees("runs/search/images?q=") == {}


# --- one run -------------------------------------------------------------------------

REF = {"name": "obj", "context": {"subset": "val"}, "last_value": 0.1}


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("kind", KINDS)
def test_get_batch_sends_one_tree_without_a_run(api, run, kind, slash):
    found = dict(pairs(api.post(f"runs/r1/{kind}/get-batch{slash}", [REF])))

    has_lists = kind in {"images", "audios", "texts"}
    assert set(found) == {
        "name",
        "context",
        "values",
        "iters",
        "record_range_used",
        "record_range_total",
        "index_range_used",
        "index_range_total",
    }
    assert found["iters"] == [0, 1, 2]
    assert len(found["values"]) == 3
    assert found["record_range_total"] == [0, 3]
    assert found["index_range_total"] == ([0, 1] if has_lists else None)


def test_get_batch_follows_ranges(api, long):
    ref = {"name": "obj", "context": {}}

    found = dict(
        pairs(
            api.post(
                "runs/r1/texts/get-batch?record_range=4:15&record_density=2"
                "&index_range=&index_density=5",
                [ref],
            )
        )
    )

    assert found["iters"] == [4, 14]
    assert found["record_range_used"] == [4, 15]
    assert found["record_range_total"] == [0, 20]


def test_get_batch_leaves_out_unknown_series_and_keeps_the_order(api, long):
    refs = [{"name": name, "context": {}} for name in ("other", "none", "obj")]

    names = [
        tree
        for key, tree in pairs(api.post("runs/r1/texts/get-batch", refs))
        if key == "name"
    ]

    assert names == ["other", "obj"]
    assert pairs(api.post("runs/r1/images/get-batch", refs)) == []
    assert pairs(api.post("runs/r1/texts/get-batch", [])) == []


@pytest.mark.parametrize("kind", KINDS)
def test_get_step_is_flat(api, run, kind):
    last = dict(pairs(api.post(f"runs/r1/{kind}/get-step?record_density=50", [REF])))
    first = dict(pairs(api.post(f"runs/r1/{kind}/get-step/?record_step=0", [REF])))

    assert (last["iters"], first["iters"]) == ([2], [0])
    assert last["record_range_used"] == [2, 2]
    assert last["record_range_total"] == [0, 3]
    (value,) = last["values"]
    assert isinstance(value, dict)


def test_get_step_of_a_step_that_is_not_there_is_empty(api, run):
    assert pairs(api.post("runs/r1/figures/get-step?record_step=7", [REF])) == []


def test_get_step_reads_one_chunk_of_a_long_series(api, store, writer, monkeypatch):
    writer.run("r1")
    track(writer, "r1", "texts", steps=range(5000))
    run = store.engine.read(lambda tr: store.runs.get(tr, "r1"))
    store.series.seal(store.engine, run.number)
    read = []
    read_objects = store.series.read_objects
    monkeypatch.setattr(
        store.series,
        "read_objects",
        lambda *args, **kwargs: read.append(kwargs) or read_objects(*args, **kwargs),
    )

    answer = api.post(
        "runs/r1/texts/get-step?record_step=3210", [{"name": "obj", "context": {}}]
    )

    assert dict(pairs(answer))["values"] == [{"data": "text 3210", "index": 0}]
    assert read == [{"start": 3210, "stop": 3211}]


@pytest.mark.parametrize("action", ["get-batch", "get-step"])
def test_what_batches_refuse(api, run, action):
    path = f"runs/r1/images/{action}"

    assert api.post(f"runs/none/images/{action}", [REF]).status_code == 404
    assert api.post(path, [{"name": "obj"}]).status_code == 422
    assert api.post(path, {"name": "obj"}).status_code == 422
    assert api.post(f"{path}?index_range=x:", [REF]).status_code == 400
    assert api.get(path).status_code == 405
    assert api.post(f"runs/r1/videos/{action}", [REF]).status_code == 404


# --- blobs ---------------------------------------------------------------------------


def upload(writer, run_id, path, data):
    """Let a blob arrive, as the gateway and the client do."""
    blob_id = new_blob_id(now_us=T0_US)
    writer.send(run_id, events=[wire.BlobGrant(path, blob_id)])
    opened.get_blobs().put(blob_key(run_id, path, blob_id), [data])


@pytest.fixture
def pictures(runtime, writer):
    """Three images, of which the last has not arrived."""
    writer.run("r1")
    track(writer, "r1", "images")
    upload(writer, "r1", "seq/img/0.png", PNG)
    upload(writer, "r1", "seq/img/1.png", PNG * 5000)


def uris(api, kind="images"):
    return [step[0]["blob_uri"] for step in values(api, kind)]


@pytest.mark.parametrize("kind", ["images", "audios"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_blobs_come_in_the_order_asked(api, pictures, kind, slash):
    first, large, missing = uris(api)

    found = pairs(
        api.post(
            f"runs/{kind}/get-batch{slash}", [large, "junk", missing, first, first]
        )
    )

    assert found == [(large, PNG * 5000), (missing, b""), (first, PNG)]


def test_a_uri_that_was_not_made_here_is_left_out(api, pictures):
    first = uris(api)[0]
    other = "A" if first[20] != "A" else "B"
    forged = [first[:20] + other + first[21:], "", "b1_", "gAAAA", "é"]

    assert pairs(api.post("runs/images/get-batch", forged)) == []
    assert api.post("runs/images/get-batch", {}).status_code == 422
    assert api.post("runs/images/get-batch", [1]).status_code == 422


def test_blobs_of_a_deleted_run_are_empty(api, pictures):
    first = uris(api)[0]
    assert api.delete("runs/r1").status_code == 200

    assert pairs(api.post("runs/images/get-batch", [first])) == [(first, b"")]


def test_many_blobs_are_looked_up_in_groups(api, pictures, monkeypatch):
    monkeypatch.setattr(blob_frames, "LOOKUP_URIS", 2)
    found = pairs(api.post("runs/images/get-batch", uris(api)))

    assert [len(data) for _, data in found] == [len(PNG), 5000 * len(PNG), 0]


def test_a_blob_store_that_fails_is_an_error(api, pictures, monkeypatch):
    wanted = uris(api)

    def fail(key):
        raise BlobStoreUnavailableError(reason="tested")

    monkeypatch.setattr(opened.get_blobs(), "open", fail)

    answer = api.post("runs/images/get-batch", wanted)

    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "blob_store_unavailable"


def test_one_blob_is_open_at_a_time(api, pictures, monkeypatch):
    blobs = opened.get_blobs()
    open_blob = blobs.open
    states = []

    class Watched:
        def __init__(self, blob):
            self.blob, self.stat = blob, blob.stat
            states.append("open")

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.blob.close()
            states.append("closed")

        def __iter__(self):
            return iter(self.blob)

    monkeypatch.setattr(blobs, "open", lambda key: Watched(open_blob(key)))

    first, large, _ = uris(api)
    pairs(api.post("runs/images/get-batch", [first, large]))

    assert states == ["open", "closed"] * 2


async def test_a_reader_that_leaves_has_the_blob_closed(api, pictures, monkeypatch):
    large = uris(api)[1]
    blobs = opened.get_blobs()
    open_blob = blobs.open
    handles = []

    def watched(key):
        handles.append(open_blob(key))
        return handles[-1]

    monkeypatch.setattr(blobs, "open", watched)
    closed = []
    before = STREAMS_OPEN._value.get()
    response = await AsyncClient().post(
        f"{REST}/runs/images/get-batch", [large], content_type="application/json"
    )
    chunks = aiter(response)
    await anext(chunks)
    (handle,) = handles
    close = handle.close
    monkeypatch.setattr(handle, "close", lambda: closed.append(close()))

    response.close()

    async with asyncio.timeout(20):
        while STREAMS_OPEN._value.get() != before:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.005)
    assert closed


async def test_searches_stream_on_asgi(run):
    response = await AsyncClient().get(f"{REST}/runs/search/figures?q=")

    found = dict(iter_trees([chunk async for chunk in response]))

    assert len(found["r1"]["traces"][0]["values"]) == 3


def test_a_uri_names_its_object(api, pictures):
    found = [opened.get_blob_uris().decode(uri) for uri in uris(api)]

    assert found == [
        BlobAddress("r1", f"seq/img/{step}.png", found[0].series_number, step)
        for step in range(3)
    ]

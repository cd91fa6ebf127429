"""Points of many series of a run in one request."""

import json
import math
import random
import tracemalloc

import pytest

from backend.api import point_groups


@pytest.fixture
def run(writer):
    writer.run("r1")
    return "r1"


def get_batch(api, run, refs, query=""):
    response = api.post(f"runs/{run}/metric/get-batch{query}", refs)
    assert response.status_code == 200, response.content
    assert response.headers["Content-Type"] == "application/json"
    return json.loads(b"".join(response.streaming_content))


def test_series_come_in_the_order_asked_for(api, writer, run):
    writer.metric(run, "loss", [3.0, 2.0, 1.0], context={"subset": "train"})
    writer.metric(run, "acc", [0.5])
    refs = [
        {"name": "acc", "context": {}, "last_value": 0.1},
        {"name": "unknown", "context": {}},
        {"name": "loss", "context": {"subset": "train"}},
        {"name": "loss", "context": {"subset": "val"}},
        {"name": "acc"},
    ]

    found = get_batch(api, run, refs)

    acc = {"name": "acc", "context": {}, "iters": [0], "values": [0.5]}
    assert found == [
        acc,
        {
            "name": "loss",
            "context": {"subset": "train"},
            "iters": [0, 1, 2],
            "values": [3.0, 2.0, 1.0],
        },
        acc,
    ]


def test_density_bounds_the_points_and_keeps_both_ends(api, writer, run):
    writer.metric(run, "loss", [float(step) for step in range(1000)])
    ref = [{"name": "loss", "context": {}}]

    [default] = get_batch(api, run, ref)
    [few] = get_batch(api, run, ref, "?record_density=10")
    [everything] = get_batch(api, run, ref, "?record_density=0")

    assert len(default["iters"]) == 50
    assert len(few["iters"]) == 10
    assert few["iters"] == sorted(set(few["iters"]))
    assert (few["iters"][0], few["iters"][-1]) == (0, 999)
    assert few["values"] == [float(step) for step in few["iters"]]
    assert everything["iters"] == list(range(1000))


@pytest.mark.parametrize(
    ("steps", "first", "last"), [("5:10", 5, 9), (":3", 0, 2), ("97:", 97, 99)]
)
def test_ranges_are_half_open_on_steps(api, writer, run, steps, first, last):
    writer.metric(run, "loss", [0.0] * 100)

    [found] = get_batch(
        api, run, [{"name": "loss", "context": {}}], f"?record_range={steps}"
    )

    assert found["iters"] == list(range(first, last + 1))


def test_what_the_browser_calls_nothing_is_the_default(api, writer, run):
    writer.metric(run, "loss", [0.0] * 100)

    query = "?record_range=&record_density=undefined"
    [found] = get_batch(api, run, [{"name": "loss", "context": {}}], query)

    assert len(found["iters"]) == 50


def test_values_that_are_no_numbers_are_null(api, writer, run):
    writer.metric(run, "loss", [1.0, math.nan, math.inf, -math.inf])

    [found] = get_batch(api, run, [{"name": "loss", "context": {}}])

    assert found["values"] == [1.0, None, None, None]


def test_a_context_is_found_after_a_browser_has_rounded_it(api, writer, run):
    writer.metric(run, "loss", [1.0], context={"lr": 1.0, "at": [2.0]})

    [found] = get_batch(api, run, [{"name": "loss", "context": {"at": [2], "lr": 1}}])

    assert found["values"] == [1.0]


@pytest.mark.parametrize(
    "body", [{}, [{}], [{"name": 1}], [{"name": "a", "context": []}], ["loss"], None]
)
def test_bodies_that_name_no_series_are_refused(api, writer, run, body):
    response = api.post(f"runs/{run}/metric/get-batch", body)

    assert response.status_code == 422
    assert response.json()["error"]["code"] == "validation_error"


@pytest.mark.parametrize("query", ["?record_range=a:b", "?record_range=1.5:2"])
def test_ranges_of_words_are_refused(api, run, query):
    response = api.post(f"runs/{run}/metric/get-batch{query}", [])

    assert response.status_code == 400
    assert response.json()["error"]["fields"]["parameter"] == "record_range"


@pytest.mark.parametrize("bounds", [(10_000, 4_000_000), (100, 4_000_000), (10_000, 7)])
def test_many_series_in_one_request(api, writer, run, monkeypatch, bounds):
    monkeypatch.setattr(point_groups, "GROUP_SERIES", bounds[0])
    monkeypatch.setattr(point_groups, "GROUP_POINTS", bounds[1])
    names = [f"m{number}" for number in range(1_000)]
    writer.metrics(run, [(name, None, [1.0, 2.0]) for name in names])
    random.Random(1).shuffle(names)

    found = get_batch(api, run, [{"name": name, "context": {}} for name in names])

    assert [one["name"] for one in found] == names
    assert all(one["values"] == [1.0, 2.0] for one in found)


def peak_bytes(response):
    """Return the most memory that taking an answer piece by piece needs."""
    tracemalloc.start()
    try:
        for _ in response.streaming_content:
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "named", [["a"] * 60, ["a", "b"] * 30, ["a"] * 30 + ["b"] * 30]
)
def test_naming_a_series_often_takes_no_more_memory(
    api, writer, run, monkeypatch, named
):
    monkeypatch.setattr(point_groups, "HELD_POINTS", 50_000)
    values = [0.5] * 50_000
    writer.metric(run, "a", values)
    writer.metric(run, "b", values)
    writer.metric(run, "x", values)
    refs = [{"name": name, "context": {}} for name in named]
    body = {"align_by": "x", "runs": [{"run_id": run, "traces": refs}]}

    batch = api.post(f"runs/{run}/metric/get-batch?record_density=0", refs)
    aligned = api.post("runs/search/metric/align", body)

    # 60 of them as Python's numbers are 200 MB.
    assert peak_bytes(batch) < 16_000_000
    assert peak_bytes(aligned) < 16_000_000


def test_an_answer_has_a_greatest_number_of_points(api, writer, run, monkeypatch):
    monkeypatch.setattr(point_groups, "MAX_ANSWER_POINTS", 300)
    writer.metric(run, "loss", [0.0] * 100)
    refs = [{"name": "loss", "context": {}}]
    body = {"align_by": "loss", "runs": [{"run_id": run, "traces": refs * 4}]}

    for answer in (
        api.post(f"runs/{run}/metric/get-batch?record_density=0", refs * 4),
        api.post("runs/search/metric/align", body),
    ):
        assert answer.status_code == 422
        assert answer.json()["error"]["code"] == "limit_exceeded"
    assert len(get_batch(api, run, refs * 3, "?record_density=0")) == 3
    assert len(get_batch(api, run, refs * 20, "?record_density=10")) == 20
    query = "?record_density=0&record_range=0:9"
    assert len(get_batch(api, run, refs * 20, query)) == 20


def test_no_series_is_an_empty_list(api, run):
    assert get_batch(api, run, []) == []
    assert get_batch(api, run, [{"name": "unknown"}]) == []

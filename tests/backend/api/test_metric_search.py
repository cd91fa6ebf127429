"""Metric search and alignment: columns, sampling, x axis."""

import math
from urllib.parse import quote

import numpy as np
import pytest

from backend.api import search_frames
from matyan_wire import batch as wire
from matyan_wire.tree_stream import iter_trees

T0_S = 1_795_420_800.0
LOSS = quote('metric.name == "loss"')
COLUMNS = ("values", "iters", "epochs", "timestamps")


@pytest.fixture
def run(writer):
    writer.run("r1", attributes={"hparams": {"lr": 0.5}}, name="first")
    return "r1"


def search(api, query=LOSS, rest=""):
    return api.trees(f"runs/search/metric?q={query}{rest}")


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_run_has_its_matching_metrics_with_columns(api, writer, run, slash):
    writer.metric(
        run,
        "loss",
        [2.0, math.nan, math.inf],
        context={"subset": "train"},
        steps=[0, 10, 20],
        epochs=[0.0, 0.5, math.nan],
    )
    writer.metric(run, "acc", [1.0])

    tree = api.trees(f"runs/search/metric{slash}?q={LOSS}")[run]

    assert tree["params"] == {"hparams": {"lr": 0.5}}
    assert tree["props"]["name"] == "first"
    [trace] = tree["traces"]
    assert (trace["name"], trace["context"], trace["slice"]) == (
        "loss",
        {"subset": "train"},
        [0, 20, 1],
    )
    assert {trace[name].dtype for name in COLUMNS} == {np.dtype(np.float64)}
    np.testing.assert_array_equal(trace["values"], [2.0, math.nan, math.inf])
    np.testing.assert_array_equal(trace["iters"], [0.0, 10.0, 20.0])
    np.testing.assert_array_equal(trace["epochs"], [0.0, 0.5, math.nan])
    np.testing.assert_allclose(
        trace["timestamps"], [T0_S, T0_S + 0.01, T0_S + 0.02], rtol=0, atol=1e-6
    )
    assert "x_axis_values" not in trace


def test_epochs_are_there_even_when_none_was_tracked(api, writer, run):
    writer.metric(run, "loss", [1.0, 2.0])

    [trace] = search(api)[run]["traces"]

    assert np.isnan(trace["epochs"]).tolist() == [True, True]


@pytest.mark.parametrize(("p", "count"), [(1, 1), (2, 2), (50, 50), (500, 500)])
def test_sampling_keeps_both_ends(api, writer, run, p, count):
    writer.metric(run, "loss", np.arange(1000.0))

    [trace] = search(api, rest=f"&p={p}")[run]["traces"]

    iters = trace["iters"]
    assert {len(trace[name]) for name in COLUMNS} == {count}
    assert (np.diff(iters) > 0).all()
    assert iters[0] == 0
    assert iters[-1] == (999 if p > 1 else 0)
    np.testing.assert_array_equal(trace["values"], iters)


def test_times_are_on_the_servers_clock(api, writer):
    late_us = 1_000_000_000
    writer.send("r1", events=[wire.CreateRun(client_time_us=int(T0_S * 1e6) - late_us)])
    writer.metric("r1", "loss", [1.0], times_us=[int(T0_S * 1e6) - late_us])

    tree = search(api)["r1"]

    [time_s] = tree["traces"][0]["timestamps"]
    assert time_s == pytest.approx(tree["props"]["creation_time"], abs=1e-3)


def test_runs_without_a_match_are_left_out(api, writer, run):
    writer.metric(run, "loss", [1.0])
    writer.run("r2", second=1)
    writer.metric("r2", "acc", [1.0])

    assert list(search(api)) == [run]
    assert list(search(api, quote("metric.last > 5"))) == []
    assert search(api, quote("()")) == {}


def test_progress_opens_follows_each_run_and_closes(api, writer, run):
    writer.metric(run, "loss", [1.0])

    found = api.stream(f"runs/search/metric?q={LOSS}")
    bare = api.stream(f"runs/search/metric?q={LOSS}&report_progress=False")

    assert [key for key, _ in found] == ["progress_0", run, "progress_1", "progress_2"]
    assert [value for key, value in found if key != run] == [[0, 1], [1, 1], [0, 0]]
    assert [key for key, _ in bare] == [run]


def test_the_x_axis_comes_from_the_same_context(api, writer, run):
    writer.metric(run, "loss", [1.0, 2.0], context={"subset": "train"})
    writer.metric(run, "loss", [3.0, 4.0], context={"subset": "val"})
    writer.metric(run, "lr", [0.1, 0.2], context={"subset": "train"})

    train, val = search(api, rest="&x_axis=lr")[run]["traces"]

    assert train["x_axis_values"].tolist() == [0.1, 0.2]
    assert train["x_axis_iters"].tolist() == [0.0, 1.0]
    assert val["x_axis_values"].tolist() == val["x_axis_iters"].tolist() == []


@pytest.mark.parametrize("bounds", [(7, 100_000), (400, 5), (400, 1)])
def test_a_run_with_very_many_metrics_is_one_tree(
    api, writer, run, monkeypatch, bounds
):
    monkeypatch.setattr(search_frames, "GROUP_SERIES", bounds[0])
    monkeypatch.setattr(search_frames, "GROUP_POINTS", bounds[1])
    writer.metrics(run, [(f"m{i:03}", None, [float(i)]) for i in range(50)])
    for number in range(2, 12):
        writer.run(f"r{number}", second=number)
        writer.metrics(f"r{number}", [("a", None, [1.0]), ("b", None, [2.0])])

    found = api.trees("runs/search/metric?q=")

    values = [trace["values"].tolist() for trace in found[run]["traces"]]
    assert values == [[float(i)] for i in range(50)]
    assert len(found) == 11
    assert all(len(found[f"r{number}"]["traces"]) == 2 for number in range(2, 12))


def test_awkward_numbers_of_points_are_a_default(api, writer, run):
    writer.metric(run, "loss", np.arange(1000.0))

    [trace] = search(api, rest="&p=undefined")[run]["traces"]

    assert len(trace["iters"]) == 50


def align(api, body):
    response = api.post("runs/search/metric/align", body)
    assert response.status_code == 200, response.content
    return list(iter_trees(response.streaming_content))


def test_align_sends_the_axis_of_each_trace_unsampled(api, writer, run):
    writer.metric(run, "loss", np.arange(300.0), context={"subset": "train"})
    writer.metric(run, "loss", np.arange(300.0))
    writer.metric(run, "lr", np.arange(300.0) / 2, context={"subset": "train"})
    trace = {"name": "loss", "context": {"subset": "train"}, "slice": [0, 99, 1]}
    body = {
        "align_by": "lr",
        "runs": [
            {"run_id": "none", "traces": [trace]},
            {
                "run_id": run,
                "traces": [trace, {"name": "loss", "context": {}, "slice": [0, 9, 1]}],
            },
        ],
    }

    [(key, [found])] = align(api, body)

    assert key == run
    assert (found["name"], found["context"]) == ("loss", {"subset": "train"})
    assert found["x_axis_iters"].tolist() == list(range(100))
    assert found["x_axis_values"].tolist() == [i / 2 for i in range(100)]


def test_align_with_nothing_to_align_is_empty(api, run):
    assert align(api, {"align_by": "lr", "runs": []}) == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"align_by": "lr"},
        {"align_by": 1, "runs": []},
        {"align_by": "lr", "runs": [{"run_id": "r", "traces": [{"slice": "x"}]}]},
    ],
)
def test_align_refuses_what_does_not_fit(api, body):
    response = api.post("runs/search/metric/align", body)

    assert response.status_code == 422
    assert response.json()["error"]["code"] == "validation_error"


def test_a_writer_whose_clock_is_none_does_not_break_the_search(api, writer):
    writer.run("good")
    writer.metric("good", "loss", [1.0])
    writer.send("odd", sent_us=5 - 2**63, received_us=1_795_420_900_000_000)
    writer.metric("odd", "loss", [1.0])

    found = api.trees("runs/search/metric?q=")

    assert set(found) >= {"good", "odd"}
    assert len(found["good"]["traces"][0]["values"]) == 1

from __future__ import annotations

import numpy as np
import pytest

from matyan_client import NotFoundError, QueryError, Repo, Run, ServerError
from matyan_wire.tree_stream import encode_progress, encode_tree
from tests.client.fake_server import FakeServer, answer, answer_json, free_port

STREAM = "application/octet-stream"


def stream(*trees: dict) -> bytes:
    parts = [encode_progress(0, 0, len(trees))]
    parts += [encode_tree(tree) for tree in trees]
    return b"".join([*parts, encode_progress(1, 0, 0)])


def run_tree(run_hash: str, **params: object) -> dict:
    props = {"name": run_hash, "active": True, "tags": [{"name": "t"}]}
    traces = {"metric": [{"name": "loss", "context": {}, "values": {"last": 0.5}}]}
    return {run_hash: {"params": params, "traces": traces, "props": props}}


@pytest.fixture
def repo(server: FakeServer):
    with Repo(server.url) as opened:
        yield opened


def test_runs_come_as_dicts_and_lists_as_lists(server, repo):
    body = stream(run_tree("a", layers=[1, [2]], empty=[]), run_tree("b"))
    server.pages["runs/search/run"] = answer(body, STREAM)
    first, second = repo.query_runs('run.name == "x" & y')
    assert (first["hash"], second["hash"]) == ("a", "b")
    assert first["params"] == {"layers": [1, [2]], "empty": []}
    assert first["traces"]["metric"][0]["values"] == {"last": 0.5}
    assert server.received.queries[0]["q"] == ['run.name == "x" & y']


def test_pages_follow_each_other(server, repo):
    body = stream(run_tree("a"), run_tree("b"))
    server.pages["runs/search/run"] = answer(body, STREAM)
    pages = repo.query_runs(paginated=True, limit=2)
    assert [run["hash"] for run in next(pages)] == ["a", "b"]
    server.pages["runs/search/run"] = answer(stream(run_tree("c")), STREAM)
    assert [[run["hash"] for run in page] for page in pages] == [["c"]]
    first, second = server.received.queries
    assert (first["limit"], first.get("offset")) == (["2"], None)
    assert (second["limit"], second["offset"]) == (["2"], ["b"])


def test_lists_of_runs(server, repo):
    body = stream(run_tree("a"), run_tree("b"))
    server.pages["runs/search/run"] = answer(body, STREAM)
    assert repo.list_all_runs() == ["a", "b"]
    assert repo.total_runs_count() == 2
    assert [run.hash for run in repo.iter_runs()] == ["a", "b"]
    repo.list_active_runs()
    assert server.received.queries[-1]["q"] == ["run.active == True"]
    assert set(repo.collect_params_info()) == {"a", "b"}


def metric_tree() -> dict:
    columns = {
        "values": np.array([0.5, np.nan]),
        "iters": np.array([0.0, 1.0]),
        "epochs": np.array([1.0, np.nan]),
        "timestamps": np.array([1.5, 2.5]),
    }
    trace = {"name": "loss", "context": {"subset": "val"}, **columns}
    return {"a": {"params": {"lr": 0.1}, "traces": [trace], "props": {"name": "n"}}}


def test_metric_series_come_as_arrays(server, repo):
    server.pages["runs/search/metric"] = answer(stream(metric_tree()), STREAM)
    (series,) = repo.metrics('metric.name == "loss"', points=10)
    assert (series.run, series.name, len(series)) == ("a", "loss", 2)
    assert series.context == {"subset": "val"}
    assert series.params == {"lr": 0.1}
    columns = series.numpy()
    np.testing.assert_array_equal(columns["values"], [0.5, np.nan])
    np.testing.assert_array_equal(columns["steps"], [0, 1])
    np.testing.assert_array_equal(columns["times"], [1.5, 2.5])
    assert server.received.queries[0]["p"] == ["10"]
    (tree,) = repo.query_metrics()
    assert tree["hash"] == "a"


def test_a_query_with_a_mistake_points_at_it(server, repo):
    detail = {"statement": "(run.hash ==)", "line": 1, "offset": 13}
    error = {"code": "bad_request", "message": "an operand is missing"}
    body = {"message": "SyntaxError", "detail": detail, "error": error}
    server.pages["runs/search/run"] = answer_json(body, status=400)
    with pytest.raises(QueryError, match=r"\(run.hash ==\)\n {12}\^") as caught:
        repo.query_runs("run.hash ==")
    assert str(caught.value).startswith("an operand is missing in line 1")
    assert (caught.value.line, caught.value.offset) == (1, 13)


@pytest.mark.parametrize("status", [200, 404])
def test_an_address_that_serves_pages_is_named(server, repo, status):
    page = answer(b"<!doctype html>", "text/html; charset=utf-8", status=status)
    for path in ("runs/search/run", "runs/a/info", "projects/activity"):
        server.pages[path] = page
    address = rf"{server.url}/api/v1/rest/runs/.* is no Matyan API address"
    with pytest.raises(ServerError, match=address):
        repo.query_runs()
    with pytest.raises(ServerError, match=address):
        Run("a", repo=server.url, read_only=True).download_artifacts("x")


def test_an_address_that_answers_anything_is_named(server):
    server.pages["runs/a/info"] = answer(b"hello", "text/plain")
    with pytest.raises(ServerError, match=r"is no Matyan API address.*text/plain"):
        Run("a", repo=server.url, read_only=True).download_artifacts("x")


def test_a_stream_cut_in_the_middle_is_an_error(server, repo):
    body = stream(run_tree("a"), run_tree("b"))
    server.pages["runs/search/run"] = answer(body[:-3], STREAM)
    with pytest.raises(ServerError, match="inside a pair"):
        repo.query_runs()


def test_a_failing_server_is_named(server, repo):
    server.pages["runs/search/run"] = answer_json({"message": "oh"}, status=500)
    with pytest.raises(ServerError, match=rf"{server.url}.*500.*oh"):
        repo.query_runs()


def test_an_absent_server_is_named():
    url = f"http://127.0.0.1:{free_port()}"
    with Repo(url) as repo, pytest.raises(ServerError, match=rf"{url}.*MATYAN_BACKEND"):
        repo.list_all_runs()


def test_a_run_is_found_or_not(server, repo):
    server.pages["runs/a/info"] = answer_json({"params": {}, "props": {}})
    assert repo.get_run("a").hash == "a"
    assert repo.get_run("b") is None
    assert not repo.run_exists("b")
    with pytest.raises(NotFoundError, match="Not Found"):
        repo._rest.get("runs/b/info/")


def test_a_read_only_run_reads_everything_back(server):
    traces = {"metric": [{"name": "loss", "context": {"a": 1}, "last_value": 0.5}]}
    props = {
        "name": "n",
        "description": "d",
        "experiment": {"id": None, "name": "e"},
        "tags": [{"name": "t"}],
        "creation_time": 10.0,
        "end_time": 15.0,
        "archived": False,
        "active": False,
    }
    info = {"params": {"hp": {"lr": 1}}, "props": props, "traces": traces}
    server.pages["runs/a/info"] = answer_json({**info, "artifacts": []})
    run = Repo(server.url).get_run("a")
    assert (run.name, run.description, run.experiment) == ("n", "d", "e")
    assert (run.archived, run.active, run.tags) == (False, False, ["t"])
    assert (run.creation_time, run.end_time, run.duration) == (10.0, 15.0, 5.0)
    assert run.created_at.timestamp() == 10
    assert run.finalized_at.timestamp() == 15
    assert run["hp.lr"] == 1
    assert run.get("hp.none") is None
    assert run.metrics() == traces["metric"]
    assert run.get_metric("loss", {"a": 1})["last_value"] == 0.5
    assert run.get_metric("loss") is None
    assert run.collect_sequence_info() == traces
    assert (run.props, run.artifacts) == (props, [])


def test_a_resumed_run_reads_under_what_is_set_here(server, open_run):
    info = {"params": {"hp": {"lr": 1, "bs": 2}}, "props": {"name": "old"}}
    server.pages["runs/known/info"] = answer_json(info)
    run = open_run(server.url, "known")
    run["hp.lr"] = 5
    assert run["hp"] == {"lr": 5, "bs": 2}
    assert run.name == "old"
    run.name = "new"
    assert run.name == "new"


def test_the_published_helpers(server, repo):
    assert Repo.is_remote_path("https://h")
    assert not Repo.is_remote_path("relative/path")
    assert repo.is_remote_repo
    assert Repo.from_path(server.url).url == server.url
    assert Repo.default_repo().url == "http://localhost:53800"
    assert "metric" in repo.available_sequence_types()
    assert Run(repo=repo, read_only=True)._reader.backend == repo._rest.backend

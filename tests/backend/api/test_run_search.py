"""Run search and active runs: trees, order, pages, progress, errors."""

import json
import math
from urllib.parse import quote

import pytest

from matyan_wire import batch as wire


def search(api, q="", **params):
    query = "&".join(f"{name}={quote(str(value))}" for name, value in params.items())
    return api.trees(f"runs/search/run?q={quote(q)}&{query}")


@pytest.fixture
def three(writer):
    """Runs r0, r1, r2, a second apart, r2 newest."""
    for number in range(3):
        writer.run(f"r{number}", second=number)


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_run_is_one_tree(api, writer, slash):
    writer.run(
        "r1",
        attributes={
            "hparams": {"lr": 0.5, "layers": [1, 2], "": "odd", "seed": 2**40},
            "__system_params": {"cpu": 1},
            "__blobs__": {"a": 1},
        },
        name="first",
        experiment="base",
        tags=("t",),
    )
    writer.metric("r1", "loss", [3.0, 5.0, 1.0, 2.0], context={"subset": "train"})
    writer.objects("r1", "texts", "say", [{"data": "x"}])
    writer.objects("r1", "logs", "logs", ["line"])

    tree = api.trees(f"runs/search/run{slash}?q=")["r1"]

    assert tree["params"] == {
        "hparams": {"lr": 0.5, "layers": [1, 2], "_": "odd", "seed": 2.0**40}
    }
    assert tree["traces"] == {
        "metric": [
            {
                "name": "loss",
                "context": {"subset": "train"},
                "values": {
                    "last": 2.0,
                    "last_step": 3,
                    "first": 3.0,
                    "min": 1.0,
                    "max": 5.0,
                },
            }
        ]
    }
    props = tree["props"]
    assert props["experiment"]["name"] == "base"
    assert [tag["name"] for tag in props["tags"]] == ["t"]
    assert props["creation_time"] == 1_795_420_800.0
    assert (props["active"], props["archived"], props["end_time"]) == (
        True,
        False,
        None,
    )


def test_parts_can_be_left_out_or_brought_in(api, writer):
    writer.run("r1", attributes={"__system_params": {"cpu": 1}, "a": 1})
    writer.metric("r1", "loss", [1.0])

    with_system = search(api, skip_system="False")["r1"]
    bare = search(api, exclude_params="true", exclude_traces="1")["r1"]

    assert with_system["params"] == {"__system_params": {"cpu": 1}, "a": 1}
    assert bare["params"] == {}
    assert bare["traces"] == {"metric": []}


def test_a_last_value_that_is_not_finite_is_itself(api, writer):
    writer.run("r1")
    writer.metric("r1", "loss", [1.0, math.nan])
    writer.metric("r1", "grad", [1.0, math.inf])

    values = [one["values"] for one in search(api)["r1"]["traces"]["metric"]]

    assert math.isnan(values[0]["last"])
    assert (values[0]["min"], values[0]["max"]) == (1.0, 1.0)
    assert values[1]["last"] == math.inf


def test_progress_opens_follows_each_run_and_closes(api, three):
    found = api.stream("runs/search/run?q=")

    keys = [key for key, _ in found]
    assert [key for key in keys if key[0] == "r"] == ["r2", "r1", "r0"]
    assert [key for key in keys if key[0] == "p"] == [f"progress_{n}" for n in range(5)]
    assert (keys[0], keys[1], keys[-1]) == ("progress_0", "r2", "progress_4")
    assert found[0][1] == [0, 3]
    assert found[-2][1] == [3, 3]
    assert found[-1][1] == [0, 0]


def test_progress_comes_when_nothing_matches(api, three):
    assert api.stream("runs/search/run?q=()") == [
        ("progress_0", [0, 0]),
        ("progress_1", [0, 0]),
    ]


def test_progress_can_be_left_out(api, three):
    found = api.stream("runs/search/run?q=&report_progress=False")

    assert [key for key, _ in found] == ["r2", "r1", "r0"]


def test_pages_follow_each_other(api, three):
    first = search(api, limit=2)
    second = search(api, limit=2, offset="r1")
    beyond = search(api, limit=2, offset="r0")
    unknown = search(api, offset="never")

    assert list(first) == ["r2", "r1"]
    assert list(second) == ["r0"]
    assert beyond == unknown == {}


def test_a_page_goes_on_after_a_run_deleted_since(api, three):
    api.delete("runs/r1")

    assert list(search(api, offset="r1")) == ["r0"]


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ([], ["c", "b", "a"]),
        ({}, ["c", "b", "a"]),
        ([{"field": "date", "order": "asc"}], ["a", "b", "c"]),
        ([{"field": "run"}], ["b", "c", "a"]),
        ([{"field": "run", "order": "desc"}], ["a", "b", "c"]),
        (
            [{"field": "experiment"}, {"field": "hash", "order": "desc"}],
            ["c", "a", "b"],
        ),
        ([{"field": "creator"}], ["a", "b", "c"]),
    ],
)
def test_sort(api, writer, sort, order):
    writer.run("a", second=0, name="zz", experiment="e")
    writer.run("b", second=1, name="aa", experiment="f")
    writer.run("c", second=2, name="aa")

    assert list(search(api, sort=json.dumps(sort))) == order


def test_pages_of_equal_sort_keys_are_stable(api, writer):
    hashes = [f"r{number:02}" for number in range(25)]
    for number, run_id in enumerate(hashes):
        writer.run(run_id, second=number, name="same")
    sort = json.dumps([{"field": "run", "order": "asc"}])

    seen, offset = [], ""
    while page := list(search(api, sort=sort, limit=4, offset=offset)):
        seen += page
        offset = page[-1]

    assert seen == hashes


@pytest.mark.parametrize(
    ("sort", "message"),
    [
        ("{", "Invalid sort JSON"),
        ('[{"field":"x"}]', "Unknown sort field: 'x'"),
        ('[{"field":"run","order":"up"}]', "Invalid sort order"),
    ],
)
def test_a_bad_sort_is_refused(api, sort, message):
    response = api.get(f"runs/search/run?sort={quote(sort)}")

    assert response.status_code == 400
    assert response.json()["message"].startswith(message)


@pytest.mark.parametrize("path", ["runs/search/run", "runs/search/metric"])
@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("run.hash ==", {"statement": "(run.hash ==)", "line": 1, "offset": 13}),
        ("a b", {"statement": "(a b)", "line": 1, "offset": 2}),
        ("run._x", {"statement": "(run._x)", "line": 1, "offset": 2}),
        ("__import__('os')", {"statement": "(__import__('os'))", "line": 1}),
        ("exec('1')", {"statement": "(exec('1'))", "line": 1}),
    ],
)
def test_a_bad_query_is_refused_with_its_place(api, path, query, detail):
    response = api.get(f"{path}?q={quote(query)}")

    body = response.json()
    assert response.status_code == 400
    assert response.headers["Content-Type"] == "application/json"
    assert set(body) == {"message", "detail", "error"}
    assert body["message"] == "SyntaxError"
    assert body["error"]["code"] == "bad_request"
    assert set(body["detail"]) == {"statement", "line", "offset", "end_offset"}
    assert body["detail"]["end_offset"] == body["detail"]["offset"]
    assert body["detail"].items() >= detail.items()


def test_a_query_need_not_be_escaped(api, writer):
    writer.run("r1", name="a&b", attributes={"note": "x=1"})
    writer.run("r2", second=1, name="other")

    found = api.trees('runs/search/run?q=run.name == "a&b"&limit=5')

    assert list(found) == ["r1"]


def test_archived_runs_show_when_asked_for(api, three):
    api.post("runs/archive-batch", ["r0"])

    assert list(search(api)) == ["r2", "r1"]
    assert list(search(api, "run.archived")) == ["r0"]
    assert list(search(api, "run.archived == True")) == ["r0"]


def test_tags_can_be_iterated_and_follow_a_rename(api, writer):
    writer.run("r1", tags=("old",))
    [tag] = api.get("tags").json()
    api.put(f"tags/{tag['id']}", {"name": "new"})

    assert list(search(api, 'any([t in ["new"] for t in run.tags])')) == ["r1"]
    assert list(search(api, '"new" in run.tags')) == ["r1"]
    assert search(api, '"old" in run.tags') == {}


def test_dates_are_in_the_callers_zone(api, writer):
    writer.run("r1", second=-8 * 3600 + 60)  # 2026-11-23 00:01 UTC
    query = quote("datetime(2026, 11, 23) <= run.created_at < datetime(2026, 11, 24) ")

    east = api.trees(f"runs/search/run?q={query}", **{"X-Timezone-Offset": "-180"})
    west = api.trees(f"runs/search/run?q={query}", **{"X-Timezone-Offset": "180"})

    assert list(east) == ["r1"]
    assert west == {}


def test_a_deleted_experiment_matches_nothing(api, writer):
    writer.run("r1", experiment="x")
    [experiment] = api.get("experiments").json()
    api.delete(f"experiments/{experiment['id']}")

    assert search(api, 'run.experiment == "x"') == {}
    assert list(search(api, "run.experiment == None")) == ["r1"]


def test_active_lists_running_runs_with_their_last_points(api, writer):
    writer.run("r1", attributes={"a": 1})
    writer.run("r2", second=1)
    writer.finish("r2", second=2)
    writer.metric("r1", "loss", [2.0, 1.0])
    writer.objects("r1", "texts", "say", [{"data": "x"}])

    found = api.stream("runs/active")

    assert [key for key, _ in found] == ["progress_0", "r1", "progress_1", "progress_2"]
    tree = found[1][1]
    assert set(tree) == {"traces", "props"}
    assert tree["traces"] == {
        "metric": [
            {"name": "loss", "context": {}, "values": {"last": 1.0, "last_step": 1}}
        ]
    }
    assert found[-1][1] == [0, 0]
    assert api.trees("runs/active/?report_progress=false").keys() == {"r1"}


def test_many_matching_runs_with_a_limit_end(api, writer):
    for number in range(60):
        writer.send(f"r{number:03}", events=[wire.CreateRun(wire.UNKNOWN_TIME)])

    for _ in range(20):
        assert len(search(api, "run.active == True", limit=3)) == 3

"""One run over HTTP: reading it, changing it, deleting it."""

import math
import time

import pytest

from matyan_wire import batch as wire

T0_S = 1_795_420_800.0


@pytest.fixture
def run(writer):
    writer.run(
        "r1",
        attributes={"hparams": {"lr": 0.1}, "__system_params": {"cpu": 1}},
        tags=("zeta", "alpha"),
        name="first",
        experiment="base",
    )
    return "r1"


@pytest.mark.parametrize("slash", ["", "/"])
def test_info_tells_everything_but_points(api, writer, run, slash):
    writer.metric(run, "loss", [2.0, 1.0], context={"subset": "train"})
    writer.objects(run, "texts", "say", [{"data": "x"}])
    writer.objects(run, "logs", "logs", ["line"])
    writer.send(run, events=[wire.BlobRef("dir/a.txt", "r1/key", "text/plain")])

    info = api.get(f"runs/{run}/info{slash}").json()

    assert set(info) == {"params", "traces", "props", "artifacts"}
    assert info["params"] == {"hparams": {"lr": 0.1}, "__system_params": {"cpu": 1}}
    assert info["traces"]["metric"] == [
        {"context": {"subset": "train"}, "name": "loss", "last_value": 1.0}
    ]
    assert info["traces"]["texts"] == [
        {"context": {}, "name": "say", "last_value": 0.0}
    ]
    assert set(info["traces"]) == {
        *("metric", "images", "texts", "distributions", "audios", "figures")
    }
    [artifact] = info["artifacts"]
    assert (artifact["name"], artifact["path"]) == ("a.txt", "dir/a.txt")
    assert "r1/key" in artifact["uri"]


def test_props_have_the_types_pages_rely_on(api, writer, run):
    props = api.get(f"runs/{run}/info").json()["props"]

    assert set(props.pop("experiment")) == {"id", "name", "description"}
    tags = props.pop("tags")
    assert [tag["name"] for tag in tags] == ["alpha", "zeta"]
    assert set(tags[0]) == {"id", "name", "color", "description"}
    assert props == {
        "name": "first",
        "description": "",
        "creation_time": T0_S,
        "end_time": None,
        "archived": False,
        "active": True,
        "notes": 0,
    }


def test_info_lists_only_the_kinds_asked_for(api, writer, run):
    writer.metric(run, "loss", [1.0])

    traces = api.get(f"runs/{run}/info?sequence=images&sequence=whatever").json()

    assert traces["traces"] == {"images": []}


def test_info_can_leave_out_system_params(api, run):
    info = api.get(f"runs/{run}/info?skip_system=True").json()

    assert info["params"] == {"hparams": {"lr": 0.1}}


def test_a_last_value_that_is_no_number_is_null(api, writer, run):
    writer.metric(run, "loss", [1.0, math.nan])

    [trace] = api.get(f"runs/{run}/info").json()["traces"]["metric"]

    assert trace["last_value"] is None


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "runs/none/info", None),
        ("PUT", "runs/none", {"name": "x"}),
        ("DELETE", "runs/none", None),
        ("POST", "runs/none/tags/new", {"tag_name": "x"}),
        ("DELETE", "runs/none/tags/x", None),
        ("GET", "runs/none/note", None),
        ("POST", "runs/none/note", {"content": "x"}),
        ("GET", "runs/none/note/x", None),
        ("POST", "runs/none/metric/get-batch", []),
        ("GET", "runs/none/durable?writer=w", None),
    ],
)
def test_an_unknown_run_is_not_found(api, method, path, body):
    response = api(method, path, body)

    assert response.status_code == 404
    assert response.json() == {
        "message": "Run not found",
        "detail": "Run not found (run_id='none')",
        "error": {
            "code": "not_found",
            "message": "Run not found",
            "fields": {"run_id": "none"},
        },
    }


def test_update_changes_what_is_given(api, run):
    before = api.get(f"runs/{run}/info").json()["props"]

    answer = api.put(f"runs/{run}/", {"description": "about", "name": None})

    assert answer.json() == {"id": run, "status": "OK"}
    after = api.get(f"runs/{run}/info").json()["props"]
    assert after == {**before, "description": "about"}


def test_update_finishes_and_reopens(api, run):
    api.put(f"runs/{run}", {"active": False})
    finished = api.get(f"runs/{run}/info").json()["props"]
    api.put(f"runs/{run}", {"active": False})
    again = api.get(f"runs/{run}/info").json()["props"]
    api.put(f"runs/{run}", {"active": True})
    reopened = api.get(f"runs/{run}/info").json()["props"]

    assert finished["active"] is False
    assert isinstance(finished["end_time"], float)
    assert again["end_time"] == finished["end_time"]
    assert (reopened["active"], reopened["end_time"]) == (True, None)


def test_update_moves_between_experiments(api, run):
    api.post("experiments", {"name": "other"})

    api.put(f"runs/{run}", {"experiment": "other"})
    moved = api.get(f"runs/{run}/info").json()["props"]["experiment"]["name"]
    unknown = api.put(f"runs/{run}", {"experiment": "nowhere"})
    api.put(f"runs/{run}", {"experiment": ""})
    out = api.get(f"runs/{run}/info").json()["props"]["experiment"]

    assert moved == "other"
    assert unknown.status_code == 404
    assert out == {"id": None, "name": None, "description": None}


@pytest.mark.parametrize("body", [[], "text", {"archived": "maybe"}, {"name": []}])
def test_update_refuses_what_does_not_fit(api, run, body):
    response = api.put(f"runs/{run}", body)

    assert response.status_code == 422
    assert response.json()["error"]["code"] == "validation_error"


def test_a_deleted_run_is_gone_at_once(api, writer, run):
    answer = api.delete(f"runs/{run}")

    assert answer.json() == {"id": run, "status": "OK"}
    assert api.get(f"runs/{run}/info").status_code == 404
    assert api.delete(f"runs/{run}").status_code == 404
    writer.metric(run, "late", [1.0])
    assert api.get(f"runs/{run}/info").status_code == 404


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_cleared_tombstone_lets_the_run_in_again(api, writer, run, slash):
    api.delete(f"runs/{run}")

    answer = api.post(f"runs/{run}/clear-tombstone{slash}")
    never = api.post("runs/never/clear-tombstone")
    writer.run(run, name="again")

    assert answer.status_code == never.status_code == 200
    assert api.get(f"runs/{run}/info").json()["props"]["name"] == "again"


def test_batches_change_many_and_ignore_the_unknown(api, writer):
    for number in range(3):
        writer.run(f"r{number}", second=number)

    assert api.post("runs/archive-batch", ["r0", "r1", "ghost"]).json() == {
        "status": "OK"
    }
    archived = [
        api.get(f"runs/r{number}/info").json()["props"]["archived"]
        for number in range(3)
    ]
    api.post("runs/archive-batch?archive=false", ["r0"])
    api.post("runs/finish-batch/", ["r0", "ghost"])
    back = api.get("runs/r0/info").json()["props"]
    api.post("runs/delete-batch", ["r0", "r1", "ghost"])

    assert archived == [True, True, False]
    assert (back["archived"], back["active"]) == (False, False)
    assert api.get("runs/r0/info").status_code == 404
    assert api.get("runs/ghost/info").status_code == 404
    assert api.get("runs/r2/info").status_code == 200
    assert api.get("projects/activity").json()["num_runs"] == 1


@pytest.mark.parametrize("body", [{}, "r0", [1], None])
@pytest.mark.parametrize("path", ["delete-batch", "archive-batch", "finish-batch"])
def test_batches_refuse_what_is_no_list_of_hashes(api, path, body):
    assert api.post(f"runs/{path}", body).status_code == 422


def test_tags_are_attached_by_name_and_detached_by_id(api, run):
    added = api.post(f"runs/{run}/tags/new", {"tag_name": " new "}).json()
    tag_id = added.pop("tag_id")
    assert added == {"id": run, "status": "OK"}
    assert "new" in tag_names(api, run)

    removed = api.delete(f"runs/{run}/tags/{tag_id}/").json()
    again = api.delete(f"runs/{run}/tags/{tag_id}").json()

    assert removed == again == {"id": run, "removed": True, "status": "OK"}
    assert tag_names(api, run) == ["alpha", "zeta"]


def tag_names(api, run):
    return [tag["name"] for tag in api.get(f"runs/{run}/info").json()["props"]["tags"]]


def test_a_tag_needs_a_name(api, run):
    assert api.post(f"runs/{run}/tags/new", {"tag_name": " "}).status_code == 422


def test_the_durable_watermark_follows_the_writer(api, writer, run):
    assert api.get(f"runs/{run}/durable?writer=w").json() == {
        "epoch": 0,
        "seq": 0,
        "part": None,
        "deleted_us": None,
    }
    writer.send(run, position=wire.Position(2, 7, writer="w"))
    whole = api.get(f"runs/{run}/durable/?writer=w").json()
    writer.send(run, position=wire.Position(2, 8, 0, last_part=False, writer="w"))
    begun = api.get(f"runs/{run}/durable?writer=w").json()

    assert whole == {"epoch": 2, "seq": 7, "part": None, "deleted_us": None}
    assert begun == {"epoch": 2, "seq": 7, "part": 0, "deleted_us": None}
    assert api.get(f"runs/{run}/durable").status_code == 422


def test_the_durable_watermark_of_a_deleted_run_says_so(api, writer, run):
    writer.send(run, position=wire.Position(2, 7, writer="w"))
    before_us = time.time_ns() // 1000
    api.delete(f"runs/{run}")
    writer.send(run, position=wire.Position(2, 8, writer="w"))
    found = api.get(f"runs/{run}/durable?writer=w").json()

    assert before_us <= found.pop("deleted_us") <= time.time_ns() // 1000
    assert found == {"epoch": 0, "seq": 0, "part": None}

"""The project: activity and autocompletion."""

import pytest

from backend.api import project_params


def test_the_project_asks_for_nothing(api):
    assert api.get("projects").json() == {
        "name": "My project",
        "path": "",
        "description": "",
        "telemetry_enabled": 0,
        "warn_index": False,
        "warn_runs": False,
    }
    assert api.get("projects/status").json() == "up-to-date"


@pytest.mark.parametrize(
    ("offset", "days"),
    [
        ("0", {"2026-11-23T00:00:00": 2, "2026-11-24T00:00:00": 1}),
        ("600", {"2026-11-22T00:00:00": 2, "2026-11-23T00:00:00": 1}),
    ],
)
def test_activity_counts_by_local_day(api, writer, offset, days):
    writer.run("r1", experiment="base")
    writer.run("r2", second=60, archived=True)
    writer.run("r3", second=24 * 3600)
    writer.finish("r3", second=24 * 3600 + 1)

    activity = api.get("projects/activity", **{"X-Timezone-Offset": offset}).json()

    assert activity == {
        "num_experiments": 1,
        "num_runs": 3,
        "num_archived_runs": 1,
        "num_active_runs": 2,
        "activity_map": days,
    }


def test_activity_reads_page_by_page(api, writer, monkeypatch):
    monkeypatch.setattr("backend.api.run_lists._PAGE", 2)
    for second in range(5):
        writer.run(f"r{second}", second=second)

    assert api.get("projects/activity").json()["num_runs"] == 5


@pytest.fixture
def tracked(writer):
    writer.run(
        "r1",
        attributes={
            "hparams": {"lr": 0.1, "opt": "adam"},
            "mixed": 1,
            "__system_params": {"cpu": 1},
            "long": "x" * 1000,
        },
    )
    writer.run("r2", second=1, attributes={"hparams": {"depth": 3}, "mixed": {"a": 1}})
    writer.metric("r1", "loss", [1.0], context={"subset": "train"})
    writer.metric("r2", "loss", [1.0])
    writer.objects("r2", "texts", "say", [{"data": "x"}])
    writer.objects("r2", "logs", "logs", ["line"])


def test_params_merge_what_all_runs_have(api, tracked):
    found = api.get("projects/params").json()

    assert found["params"] == {
        "hparams": {"lr": 0.1, "opt": "adam", "depth": 3},
        "mixed": {"a": 1},
        "long": "x" * 100,
    }
    assert set(found) == {
        *("params", "metric", "images", "texts"),
        *("distributions", "audios", "figures"),
    }
    assert sorted(found["metric"]["loss"], key=str) == [{"subset": "train"}, {}]
    assert found["texts"] == {"say": [{}]}
    assert found["images"] == {}


def test_only_the_kinds_asked_for(api, tracked):
    found = api.get(
        "projects/params/?sequence=metric&sequence=images&sequence=x"
        "&exclude_params=true"
    ).json()

    assert set(found) == {"metric", "images"}


def test_params_are_kept_for_a_while(api, writer, tracked, monkeypatch):
    api.get("projects/params")
    writer.run("r3", second=2, attributes={"new": 1})

    assert "new" not in api.get("projects/params").json()["params"]
    monkeypatch.setattr(project_params, "FRESH_S", -1.0)
    assert "new" in api.get("projects/params").json()["params"]


def test_params_are_merged_page_by_page_without_deleted_runs(api, writer, monkeypatch):
    monkeypatch.setattr(project_params, "_PAGE", 2)
    for number in range(5):
        writer.run(f"r{number}", second=number, attributes={f"p{number}": 1})
    api.delete("runs/r2")

    assert set(api.get("projects/params").json()["params"]) == {"p0", "p1", "p3", "p4"}


def test_pinned_sequences_are_kept(api):
    body = {"sequences": [{"name": "loss", "context": {"subset": "train"}}]}

    assert api.get("projects/pinned-sequences").json() == {"sequences": []}
    assert api.post("projects/pinned-sequences/", body).json() == body
    assert api.get("projects/pinned-sequences").json() == body


@pytest.mark.parametrize("body", [{}, {"sequences": [{"name": "x"}]}, []])
def test_pinned_sequences_refuse_what_does_not_fit(api, body):
    assert api.post("projects/pinned-sequences", body).status_code == 422

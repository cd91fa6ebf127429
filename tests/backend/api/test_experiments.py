"""Experiments over HTTP."""

import pytest

NO_SUCH = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def experiment(api):
    return api.post("experiments", {"name": " base "}).json()["id"]


def add_run(store, run_id, created_us, *, experiment=None, **changes):
    from backend.services.runs import update_run

    store.engine.transact(
        lambda tr: store.runs.create(
            tr, run_id=run_id, name=run_id, created_us=created_us
        )
    )
    if experiment is not None:
        changes["experiment"] = experiment
    if changes:
        update_run(store, run_id=run_id, now_us=created_us + 5_000_000, **changes)


@pytest.mark.parametrize("slash", ["", "/"])
def test_an_experiment_is_made_listed_and_read(api, slash):
    made = api.post(f"experiments{slash}", {"name": " base "})
    assert made.status_code == 200
    assert made.json()["status"] == "OK"
    experiment_id = made.json()["id"]

    [listed] = api.get(f"experiments{slash}").json()
    read = api.get(f"experiments/{experiment_id}{slash}").json()

    assert listed == read
    assert isinstance(read.pop("creation_time"), float)
    assert read == {
        "id": experiment_id,
        "name": "base",
        "description": "",
        "run_count": 0,
        "archived": False,
    }


def test_two_experiments_cannot_have_one_name(api, experiment):
    response = api.post("experiments/", {"name": "base"})

    assert response.status_code == 409
    assert response.json()["message"] == "Name already taken"
    assert response.json()["error"]["code"] == "conflict"


@pytest.mark.parametrize("body", [{}, {"name": "  "}, {"name": None}, [], {"name": {}}])
def test_an_experiment_needs_a_name(api, body):
    response = api.post("experiments", body)

    assert response.status_code == 422
    assert response.json()["error"]["code"] == "validation_error"
    assert response.json()["message"]


def test_search_finds_part_of_a_name_in_any_case(api, experiment):
    api.post("experiments", {"name": "other"})

    found = api.get("experiments/search?q=BAS").json()

    assert [one["name"] for one in found] == ["base"]
    assert len(api.get("experiments/search").json()) == 2


def test_only_what_is_given_changes(api, experiment):
    api.put(f"experiments/{experiment}", {"description": "about"})

    response = api.put(f"experiments/{experiment}/", {"archived": True, "name": ""})

    assert response.json() == {"id": experiment, "status": "OK"}
    read = api.get(f"experiments/{experiment}").json()
    assert (read["name"], read["description"], read["archived"]) == (
        "base",
        "about",
        True,
    )
    api.put(f"experiments/{experiment}", {"description": ""})
    assert api.get(f"experiments/{experiment}").json()["description"] == ""


def test_rename_to_a_taken_name_is_refused(api, experiment):
    other = api.post("experiments", {"name": "other"}).json()["id"]

    assert api.put(f"experiments/{other}", {"name": "base"}).status_code == 409
    assert api.get(f"experiments/{other}").json()["name"] == "other"


def test_runs_of_a_deleted_experiment_stay_without_it(api, store, experiment):
    add_run(store, "r1", 1_000_000, experiment="base")

    assert api.delete(f"experiments/{experiment}").json() == {"status": "OK"}

    assert api.get(f"experiments/{experiment}").status_code == 404
    props = api.get("runs/r1/info").json()["props"]
    assert props["experiment"] == {"id": None, "name": None, "description": None}


def test_runs_are_listed_newest_first_and_paged(api, store, experiment):
    for second in (1, 2, 3):
        add_run(store, f"r{second}", second * 1_000_000, experiment="base")
    add_run(store, "elsewhere", 4_000_000)

    everything = api.get(f"experiments/{experiment}/runs").json()
    first = api.get(f"experiments/{experiment}/runs?limit=2").json()["runs"]
    rest = api.get(f"experiments/{experiment}/runs?limit=2&offset=r2").json()["runs"]

    assert everything["id"] == experiment
    assert [run["run_id"] for run in everything["runs"]] == ["r3", "r2", "r1"]
    assert [run["run_id"] for run in first] == ["r3", "r2"]
    assert rest == [
        {
            "run_id": "r1",
            "name": "r1",
            "creation_time": 1.0,
            "end_time": None,
            "archived": False,
        }
    ]
    assert api.get(f"experiments/{experiment}").json()["run_count"] == 3


def test_paging_goes_on_after_a_run_deleted_since(api, store, experiment):
    for second in (1, 2, 3):
        add_run(store, f"r{second}", second * 1_000_000, experiment="base")
    api.delete("runs/r2")

    page = api.get(f"experiments/{experiment}/runs?offset=r2").json()["runs"]

    assert [run["run_id"] for run in page] == ["r1"]


def test_activity_counts_by_local_hour(api, store, experiment):
    at_us = 1_795_420_800 * 1_000_000  # 2026-11-23 08:00 UTC
    add_run(store, "a", at_us, experiment="base")
    add_run(store, "b", at_us + 60_000_000, experiment="base", archived=True)
    add_run(store, "c", at_us + 3_600_000_000, experiment="base", active=False)

    activity = api.get(
        f"experiments/{experiment}/activity", **{"X-Timezone-Offset": "-180"}
    ).json()

    assert activity == {
        "num_runs": 3,
        "num_archived_runs": 1,
        "num_active_runs": 2,
        "activity_map": {"2026-11-23T11:00:00": 2, "2026-11-23T12:00:00": 1},
    }


@pytest.mark.parametrize("path", ["", "/runs", "/activity", "/note"])
@pytest.mark.parametrize("experiment_id", [NO_SUCH, "not-a-uuid"])
def test_an_unknown_experiment_is_not_found(api, path, experiment_id):
    response = api.get(f"experiments/{experiment_id}{path}")

    assert response.status_code == 404
    assert response.json()["message"] == "Experiment not found"
    assert response.json()["error"]["code"] == "not_found"


def test_changes_to_an_unknown_experiment_are_not_found(api):
    assert api.put(f"experiments/{NO_SUCH}", {"name": "x"}).status_code == 404
    assert api.delete(f"experiments/{NO_SUCH}").status_code == 404
    assert api.post(f"experiments/{NO_SUCH}/note", {"content": "x"}).status_code == 404

"""Tags over HTTP."""

import pytest

NO_SUCH = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def tag(api):
    body = {"name": " best ", "color": "#fff", "description": "d"}
    return api.post("tags", body).json()["id"]


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_tag_is_made_listed_and_read(api, slash):
    tag_id = api.post(f"tags{slash}", {"name": " best ", "color": None}).json()["id"]

    [listed] = api.get(f"tags{slash}").json()

    assert listed == api.get(f"tags/{tag_id}{slash}").json()
    assert listed == {
        "id": tag_id,
        "name": "best",
        "color": "",
        "description": "",
        "run_count": 0,
        "archived": False,
    }


def test_tags_are_sorted_by_name_and_searched_in_any_case(api):
    for name in ("b", "C", "a", "bc"):
        api.post("tags", {"name": name})

    assert [one["name"] for one in api.get("tags").json()] == ["a", "b", "bc", "C"]
    assert [one["name"] for one in api.get("tags/search?q=c").json()] == ["bc", "C"]


def test_two_tags_cannot_have_one_name(api, tag):
    other = api.post("tags", {"name": "other"}).json()["id"]

    assert api.post("tags", {"name": "best"}).status_code == 409
    assert api.put(f"tags/{other}", {"name": "best"}).status_code == 409


@pytest.mark.parametrize("body", [{}, {"name": " "}, {"name": "a", "color": {}}, []])
def test_what_is_no_tag_is_refused(api, body):
    assert api.post("tags", body).status_code == 422


def test_only_what_is_given_changes(api, tag):
    assert api.put(f"tags/{tag}/", {"archived": True, "name": ""}).json() == {
        "id": tag,
        "status": "OK",
    }

    read = api.get(f"tags/{tag}").json()
    assert (read["name"], read["color"], read["description"], read["archived"]) == (
        "best",
        "#fff",
        "d",
        True,
    )


def test_runs_with_a_tag_are_listed_newest_first(api, writer, tag):
    writer.run("r1", name="one", tags=("best",), experiment="base")
    writer.run("r2", second=1, tags=("best",))
    writer.run("r3", second=2)

    answer = api.get(f"tags/{tag}/runs").json()

    assert answer["id"] == tag
    assert [run["run_id"] for run in answer["runs"]] == ["r2", "r1"]
    assert answer["runs"][1] == {
        "run_id": "r1",
        "name": "one",
        "experiment": "base",
        "creation_time": 1_795_420_800.0,
        "end_time": None,
    }
    assert api.get(f"tags/{tag}").json()["run_count"] == 2


def test_counts_follow_tagging_twice_and_removing_what_is_not_there(api, writer, tag):
    writer.run("r1")
    for _ in range(2):
        api.post("runs/r1/tags/new", {"tag_name": "best"})
    assert api.get(f"tags/{tag}").json()["run_count"] == 1

    for _ in range(2):
        api.delete(f"runs/r1/tags/{tag}")

    assert api.get(f"tags/{tag}").json()["run_count"] == 0


def test_a_deleted_tag_is_off_its_runs(api, writer, tag):
    writer.run("r1", tags=("best",))

    assert api.delete(f"tags/{tag}").status_code == 200

    assert api.get("runs/r1/info").json()["props"]["tags"] == []
    assert api.get(f"tags/{tag}").status_code == 404
    assert api.trees("runs/search/run?q=%22best%22 in run.tags") == {}


@pytest.mark.parametrize("tag_id", [NO_SUCH, "x"])
def test_an_unknown_tag_is_not_found(api, tag_id):
    answers = [
        api.get(f"tags/{tag_id}"),
        api.get(f"tags/{tag_id}/runs"),
        api.put(f"tags/{tag_id}", {"name": "x"}),
        api.delete(f"tags/{tag_id}"),
    ]

    assert [answer.status_code for answer in answers] == [404] * 4
    assert answers[0].json()["message"] == "Tag not found"

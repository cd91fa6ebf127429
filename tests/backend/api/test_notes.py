"""Notes on runs and experiments over HTTP."""

import datetime

import pytest

NO_SUCH = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(params=["runs", "experiments"])
def owner(request, api, writer):
    writer.run("r1", experiment="base")
    [experiment] = api.get("experiments").json()
    return f"{request.param}/{ {'runs': 'r1'}.get(request.param, experiment['id']) }"


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_note_is_written_listed_and_read(api, owner, slash):
    made = api.post(f"{owner}/note{slash}", {"content": " hello "})
    assert made.status_code == 201
    note_id = made.json()["id"]

    [listed] = api.get(f"{owner}/note{slash}").json()
    read = api.get(f"{owner}/note/{note_id}{slash}").json()

    key = "run_hash" if owner.startswith("runs") else "experiment_id"
    assert listed.pop(key) == owner.split("/")[1]
    assert set(listed) == {"id", "content", "created_at", "updated_at"}
    assert (listed["id"], listed["content"]) == (note_id, "hello")
    assert read == {
        "id": note_id,
        "content": "hello",
        "updated_at": listed["updated_at"],
    }
    assert listed["created_at"] == made.json()["created_at"]


def test_times_are_dates_a_browser_reads(api, owner):
    made = api.post(f"{owner}/note", {"content": "x"}).json()

    moment = datetime.datetime.fromisoformat(made["created_at"])

    assert moment.utcoffset() == datetime.timedelta(0)
    assert abs(datetime.datetime.now(datetime.UTC) - moment).total_seconds() < 3600


def test_a_note_is_changed_and_removed(api, owner):
    note_id = api.post(f"{owner}/note", {"content": "x"}).json()["id"]

    changed = api.put(f"{owner}/note/{note_id}/", {"content": "y"}).json()
    removed = api.delete(f"{owner}/note/{note_id}")

    assert (changed["id"], changed["content"]) == (note_id, "y")
    assert removed.json() == {"status": "OK"}
    assert api.get(f"{owner}/note").json() == []
    assert api.delete(f"{owner}/note/{note_id}").status_code == 404


def test_a_note_belongs_to_its_owner(api, writer, owner):
    writer.run("r2", second=1)
    note_id = api.post(f"{owner}/note", {"content": "x"}).json()["id"]

    answers = [
        api.get(f"runs/r2/note/{note_id}"),
        api.put(f"runs/r2/note/{note_id}", {"content": "y"}),
        api.delete(f"runs/r2/note/{note_id}"),
        api.get(f"{owner}/note/{NO_SUCH}"),
        api.get(f"{owner}/note/x"),
    ]

    assert [answer.status_code for answer in answers] == [404] * 5
    assert answers[0].json()["message"] == "Note not found"


@pytest.mark.parametrize("body", [{}, {"content": None}, {"content": []}, []])
def test_a_note_needs_text(api, owner, body):
    assert api.post(f"{owner}/note", body).status_code == 422


def test_info_counts_notes(api, writer):
    writer.run("r1")
    for _ in range(2):
        api.post("runs/r1/note", {"content": "x"})

    assert api.get("runs/r1/info").json()["props"]["notes"] == 2

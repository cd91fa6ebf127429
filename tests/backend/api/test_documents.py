"""Dashboards, apps and reports over HTTP."""

import datetime

import pytest

NO_SUCH = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def app(api):
    body = {
        "type": "metrics",
        "state": {"select": {"q": "x"}, "deep": [1, {"a": None}]},
    }
    return api.post("apps", body).json()


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_bookmark_is_an_app_and_its_dashboard(api, slash):
    state = {"select": {"q": "x"}}
    app = api.post(f"apps{slash}", {"type": "metrics", "state": state})
    made = api.post(f"dashboards{slash}", {"name": "mine", "app_id": app.json()["id"]})

    assert app.status_code == made.status_code == 201
    assert api.get(f"apps{slash}").json() == [app.json()]
    assert api.get(f"dashboards{slash}").json() == [made.json()]
    assert app.json()["state"] == state
    dashboard = made.json()
    assert (dashboard["app_type"], dashboard["description"]) == ("metrics", None)
    assert isinstance(dashboard["created_at"], float)
    assert api.get(f"dashboards/{dashboard['id']}{slash}").json() == dashboard


def test_every_dashboard_listed_has_its_app(api, app):
    api.post("dashboards", {"name": "with", "app_id": app["id"]})
    api.post("dashboards", {"name": "without"})
    orphan = api.post("dashboards", {"name": "orphan", "app_id": NO_SUCH})
    assert [one["name"] for one in api.get("dashboards").json()] == ["with"]
    assert orphan.status_code == 404

    api.delete(f"apps/{app['id']}")

    assert api.get("dashboards").json() == []


def test_an_app_is_changed(api, app):
    changed = api.put(f"apps/{app['id']}/", {"state": {"select": {}}}).json()

    assert (changed["type"], changed["state"]) == ("metrics", {"select": {}})
    assert changed["updated_at"] >= app["updated_at"]
    assert api.get(f"apps/{app['id']}").json() == changed


def test_a_dashboard_is_changed_and_removed(api, app):
    made = api.post("dashboards", {"name": "a", "app_id": app["id"]}).json()
    path = f"dashboards/{made['id']}"

    changed = api.put(path, {"name": "b", "description": "d"}).json()
    removed = api.delete(path)

    assert (changed["name"], changed["description"]) == ("b", "d")
    assert removed.status_code == 200
    assert removed.json() == {"status": "OK"}
    assert api.get(path).status_code == 404
    assert api.get("dashboards").json() == []


def test_a_report_comes_back_whole_and_its_times_are_dates(api):
    made = api.post("reports", {"name": "r", "code": "# x\n", "description": ""})
    assert made.status_code == 201
    report = made.json()

    changed = api.put(f"reports/{report['id']}", {**report, "code": "# y\n"}).json()

    assert changed["code"] == "# y\n"
    assert changed["created_at"] == report["created_at"]
    assert datetime.datetime.fromisoformat(report["created_at"]).tzinfo is not None
    assert api.get("reports").json() == [changed]
    assert api.delete(f"reports/{report['id']}").json() == {"status": "OK"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("apps", {"type": "metrics"}),
        ("apps", {"type": "metrics", "state": []}),
        ("dashboards", {"description": "x"}),
        ("reports", {"code": "x"}),
        ("reports", []),
    ],
)
def test_what_does_not_fit_is_refused(api, path, body):
    assert api.post(path, body).status_code == 422


@pytest.mark.parametrize("path", ["apps", "dashboards", "reports"])
@pytest.mark.parametrize("document_id", [NO_SUCH, "x"])
def test_unknown_ones_are_not_found(api, path, document_id):
    answers = [
        api.get(f"{path}/{document_id}"),
        api.put(f"{path}/{document_id}", {"name": "x"}),
        api.delete(f"{path}/{document_id}"),
    ]

    assert [answer.status_code for answer in answers] == [404] * 3


def test_a_state_of_megabytes_is_kept(api):
    state = {"select": {}, "blob": ["x" * 1000] * 2000}

    made = api.post("apps", {"type": "metrics", "state": state}).json()

    assert api.get(f"apps/{made['id']}").json()["state"] == state

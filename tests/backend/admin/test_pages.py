"""Operators' pages: who may see them, what they show, how things are changed."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.db import connection
from django.test import AsyncClient, Client
from django.utils import timezone

from backend.admin.cells import now_us
from backend.bus.base import Record, RecordPosition
from backend.bus.topics import TOPICS
from backend.errors import InvalidInputError, StoreUnavailableError
from backend.maintenance import request_job
from backend.models import MaintenanceRequest
from backend.services import runs
from backend.services.tombstones import find_deleted
from backend.storage.factory import Store
from matyan_project.task_settings import celery_settings
from matyan_wire.batch import AddTag, BlobRef, SeriesRef, SetProperties
from tests.backend.writing import START_US, write
from workers.dlq import publish_dead_letters
from workers.tasks.requests import run_request

pytestmark = pytest.mark.django_db

ANCHORS = [
    "runanchor",
    "experimentanchor",
    "taganchor",
    "tombstoneanchor",
    "eventloganchor",
    "deadletteranchor",
    "workeranchor",
    "storesizeanchor",
]
LOSS = SeriesRef("metric", "loss")


def page(anchor: str) -> str:
    return f"/admin/backend/{anchor}/"


@pytest.fixture
def store(runtime: Any, settings: Any, data_dir: Path) -> Store:
    settings.DATA_DIR = data_dir
    settings.CELERY = celery_settings("", data_dir=data_dir)
    store: Store = runtime.get_store()
    runtime.get_event_log().ensure_topics(TOPICS)
    for n in range(3):
        write(
            store,
            f"run{n}",
            SetProperties(name=f"Run number {n}", experiment="baseline"),
            AddTag("red"),
            metrics={LOSS: [1.0, 2.0]},
            at_us=START_US + n,
        )
    return store


@pytest.fixture
def person(db: None, client: Client) -> User:
    """A member of the staff without any permission, signed in."""
    user = User.objects.create_user("ann", password="x", is_staff=True)  # noqa: S106
    client.force_login(user)
    return user


def permit(user: User, *codes: str) -> None:
    user.user_permissions.add(*Permission.objects.filter(codename__in=codes))


def text_of(client: Client, url: str) -> str:
    answer = client.get(url)
    assert answer.status_code == 200, answer.content
    return answer.content.decode()


@pytest.mark.parametrize("anchor", ANCHORS)
def test_a_page_is_for_those_with_the_permission(
    client: Client, store: Store, person: User, anchor: str
) -> None:
    assert client.get(page(anchor)).status_code == 403
    permit(person, f"view_{anchor}")
    assert client.get(page(anchor)).status_code == 200
    assert client.post(page(anchor)).status_code == 405
    assert page(anchor) in text_of(client, "/admin/")
    client.logout()
    assert client.get(page(anchor)).status_code == 302


@pytest.mark.parametrize("anchor", ANCHORS)
def test_an_anchor_has_no_table(anchor: str) -> None:
    assert f"backend_{anchor}" not in connection.introspection.table_names()


def test_runs_are_listed_searched_and_paged(
    admin_client: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.admin.runs.PAGE", 2)
    first = text_of(admin_client, page("runanchor"))
    assert "Run number 2" in first
    assert "Run number 0" not in first
    assert "after=run1" in first
    assert "Run number 0" in text_of(admin_client, page("runanchor") + "?after=run1")
    for search in ("run0", "NUMBER 0", 'run.name == "Run number 0"'):
        answer = admin_client.get(page("runanchor"), {"q": search})
        found = answer.content.decode()
        assert "Run number 0</a>" in found
        assert "Run number 1</a>" not in found
    wrong = admin_client.get(page("runanchor"), {"q": "run.name =="})
    assert "Not a query" in wrong.content.decode()


def test_reading_the_store_asks_no_table_for_runs(
    admin_client: Client, store: Store, django_assert_max_num_queries: Any
) -> None:
    with django_assert_max_num_queries(5) as queries:
        text_of(admin_client, page("runanchor"))
    assert not [q for q in queries if "anchor" in q["sql"].split("WHERE")[0]]


def test_a_run_has_a_page(admin_client: Client, store: Store) -> None:
    shown = text_of(admin_client, page("runanchor") + "of/run1/")
    for wanted in ("Run number 1", "loss", "baseline", "red", "not sealed yet"):
        assert wanted in shown
    assert "Cell(" not in shown
    assert admin_client.get(page("runanchor") + "of/nobody/").status_code == 404


def do(client: Client, anchor: str, action: str, *keys: str, **more: str) -> Any:
    return client.post(f"{page(anchor)}do/{action}/", {"key": keys, **more})


def test_deleting_asks_then_makes_a_job_that_is_audited(
    admin_client: Client, store: Store
) -> None:
    assert admin_client.get(page("runanchor") + "do/delete/").status_code == 405
    asked = do(admin_client, "runanchor", "delete", "run0", "run1")
    assert "cannot be brought back" in asked.content.decode()
    assert not MaintenanceRequest.objects.exists()
    done = do(admin_client, "runanchor", "delete", "run0", "run1", confirmed="yes")
    request = MaintenanceRequest.objects.get()
    assert done.url == f"/admin/backend/maintenancerequest/{request.pk}/change/"
    assert request.requester == "admin"
    assert {entry.object_id for entry in LogEntry.objects.all()} == {"run0", "run1"}
    run_request(request_id=request.pk)
    assert find_deleted(store, "run0") is not None
    watched = text_of(admin_client, done.url)
    assert "100 %" in watched
    assert "http-equiv" not in watched


def test_who_may_only_look_changes_nothing(
    client: Client, store: Store, person: User
) -> None:
    permit(person, "view_runanchor")
    assert "Delete runs" not in text_of(client, page("runanchor"))
    answer = do(client, "runanchor", "delete", "run0", confirmed="yes")
    assert answer.status_code == 403
    assert not MaintenanceRequest.objects.exists()
    assert not LogEntry.objects.exists()


def test_a_change_needs_the_form(store: Store, admin_user: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)
    answer = do(client, "runanchor", "delete", "run0", confirmed="yes")
    assert answer.status_code == 403


def test_runs_are_finished_and_archived(admin_client: Client, store: Store) -> None:
    do(admin_client, "runanchor", "finish", "run0", "nobody", confirmed="yes")
    do(admin_client, "runanchor", "archive", "run1", confirmed="yes")
    found = store.engine.read(lambda tr: store.runs.find_many(tr, ["run0", "run1"]))
    assert (found["run0"].active, found["run1"].archived) == (False, True)


def test_archived_runs_are_found_and_brought_back(
    admin_client: Client, store: Store
) -> None:
    do(admin_client, "runanchor", "archive", "run1", confirmed="yes")
    assert "Run number 1" not in text_of(admin_client, page("runanchor"))
    found = admin_client.get(page("runanchor"), {"q": "run.archived"})
    assert "Run number 1" in found.content.decode()
    shown = text_of(admin_client, page("runanchor") + "of/run1/")
    assert "Bring this run back" in shown
    assert "Archive this run" not in shown
    do(admin_client, "runanchor", "unarchive", "run1", confirmed="yes")
    assert "Run number 1" in text_of(admin_client, page("runanchor"))


def test_a_confirmation_names_what_was_chosen(
    admin_client: Client, store: Store
) -> None:
    asked = do(admin_client, "runanchor", "delete", "run0", "nobody").content.decode()
    assert "Run number 0 (active, created" in asked
    assert "not there (any more)" in asked
    do(admin_client, "runanchor", "delete", "run0", confirmed="yes")
    assert LogEntry.objects.get().object_repr.startswith("Run number 0 (")


@pytest.mark.parametrize("part", ["series", "artifacts"])
def test_parts_of_a_run_are_searched_and_paged(
    admin_client: Client,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
) -> None:
    monkeypatch.setattr("backend.admin.paging.PAGE", 2)
    names = ["part-a", "part-b", "part-c"]
    write(
        store,
        "run1",
        *[BlobRef(name, f"run1/{name}", "text/plain") for name in names],
        metrics={SeriesRef("metric", name): [1.0] for name in names},
    )
    url = f"{page('runanchor')}{part}/run1/"
    first = admin_client.get(url, {"q": "part"})
    shown = first.content.decode()
    assert "part-b" in shown
    assert "part-c" not in shown
    assert "3 of " in shown
    following = text_of(admin_client, first.context["tables"][0].next_url)
    assert "part-c" in following
    assert "part-a" not in following
    assert "part-a" not in admin_client.get(url, {"q": "part b"}).content.decode()
    gone = admin_client.get(url, {"q": "part", "after": "gone"}).content.decode()
    assert "part-a" in gone


@pytest.mark.parametrize(
    ("anchor", "names"),
    [
        ("experimentanchor", ("e1", "e2", "baseline")),
        ("taganchor", ("t1", "t2", "red")),
    ],
)
def test_entities_are_searched_and_paged(
    admin_client: Client,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    anchor: str,
    names: tuple[str, ...],
) -> None:
    monkeypatch.setattr("backend.admin.paging.PAGE", 2)
    for name in names[:2]:
        write(store, name, SetProperties(experiment=name), AddTag(name))
    pages = [admin_client.get(page(anchor))]
    pages.append(admin_client.get(pages[0].context["tables"][0].next_url))
    tables = [answer.context["tables"][0] for answer in pages]
    assert len(tables[0].rows) == 2
    seen = {row[0].text for table in tables for _, row in table.rows}
    assert set(names) <= seen
    found = admin_client.get(page(anchor), {"q": names[0]}).context["tables"][0]
    assert [row[0].text for _, row in found.rows] == [names[0]]
    nothing = admin_client.get(page(anchor), {"q": "nothing"}).content.decode()
    assert "Nothing is called like that." in nothing


def test_what_is_not_there_or_not_permitted_is_a_page(
    client: Client, store: Store, person: User
) -> None:
    answer = client.get(page("runanchor"))
    assert (answer.status_code, "may not do this" in answer.content.decode()) == (
        403,
        True,
    )
    permit(person, "view_runanchor")
    answer = client.get(page("runanchor") + "of/nobody/")
    assert answer.status_code == 404
    assert "Run not found" in answer.content.decode()


def test_data_of_a_deleted_run_that_stays_is_worth_a_look(
    admin_client: Client, store: Store
) -> None:
    runs.delete_run(store, run_id="run0", now_us=now_us())
    shown = text_of(admin_client, page("tombstoneanchor"))
    assert "being cleared" in shown
    assert "mood-bad" not in shown.partition("<h1>")[2]
    runs.delete_run(store, run_id="run1", now_us=START_US + 9)
    assert "is the control worker at work?" in text_of(
        admin_client, page("tombstoneanchor")
    )


def test_a_tombstone_is_cleared(admin_client: Client, store: Store) -> None:
    runs.delete_run(store, run_id="run0", now_us=START_US + 9)
    do(admin_client, "tombstoneanchor", "clear", "run0", confirmed="yes")
    assert find_deleted(store, "run0") is None


@pytest.mark.parametrize("anchor", ["experimentanchor", "taganchor"])
def test_experiments_and_tags_are_deleted_by_jobs(
    admin_client: Client, store: Store, anchor: str
) -> None:
    listed = admin_client.get(page(anchor)).context["tables"][0]
    ((key, _cells),) = listed.rows
    do(admin_client, anchor, "delete", key, confirmed="yes")
    run_request(request_id=MaintenanceRequest.objects.get().pk)
    assert admin_client.get(page(anchor)).context["tables"][0].rows == []


def test_dead_letters_are_read_and_discarded(
    admin_client: Client, store: Store, runtime: Any
) -> None:
    letters = [
        (
            Record(RecordPosition("log", "data-ingestion", 2, n), b"run9", value, 0),
            InvalidInputError(field="points", reason="cut short"),
        )
        for n, value in enumerate([b'{"a": 1}', b"\xc1 rubbish"])
    ]
    publish_dead_letters(runtime.get_producer(), letters, now_us=START_US)
    listed = text_of(admin_client, page("deadletteranchor"))
    assert "cut short" in listed
    origin = "log/data-ingestion/2/0"
    url = page("deadletteranchor") + f"of/{origin}/"
    assert "&quot;a&quot;: 1" in text_of(admin_client, url)
    assert "Not readable" in text_of(admin_client, url.replace("2/0", "2/1"))
    assert do(admin_client, "deadletteranchor", "discard", all="yes").url == page(
        "deadletteranchor"
    )
    do(admin_client, "deadletteranchor", "discard", origin, confirmed="yes")
    request = MaintenanceRequest.objects.get()
    run_request(request_id=request.pk)
    request.refresh_from_db()
    assert request.result == {"replayed": 0, "discarded": 1, "kept": 0}
    assert admin_client.get(url).status_code == 404


def test_all_dead_letters_are_replayed_at_once(
    admin_client: Client, store: Store, runtime: Any
) -> None:
    letters = [
        (
            Record(RecordPosition("log", "data-ingestion", 2, n), b"run9", b"x", 0),
            InvalidInputError(field="points", reason="cut short"),
        )
        for n in range(3)
    ]
    publish_dead_letters(runtime.get_producer(), letters, now_us=START_US)
    asked = do(admin_client, "deadletteranchor", "replay", all="yes").content.decode()
    assert "All of them" in asked
    do(admin_client, "deadletteranchor", "replay", all="yes", confirmed="yes")
    request = MaintenanceRequest.objects.get()
    run_request(request_id=request.pk)
    request.refresh_from_db()
    assert request.result["replayed"] == 3
    assert LogEntry.objects.get().object_repr == "all of them"


def test_workers_say_how_they_are(
    admin_client: Client, store: Store, data_dir: Path
) -> None:
    (data_dir / "health").mkdir()
    silent = {"name": "ingestion", "pid": 7, "state": "ok", "time_us": START_US}
    (data_dir / "health" / "ingestion.json").write_text(json.dumps(silent))
    (data_dir / "health" / "torn.json").write_text("{")
    shown = text_of(admin_client, page("workeranchor"))
    assert "silent (was ok)" in shown
    assert shown.index("ingestion") < shown.index("torn")
    assert "unreadable" in shown


def looks(client: Client) -> dict[str, Any]:
    found = client.get("/admin/").context["looks"]
    return {look.title: look.found for look in found}


def test_the_first_page_tells_how_everything_is(
    admin_client: Client, store: Store, runtime: Any, data_dir: Path
) -> None:
    (data_dir / "health").mkdir()
    report = data_dir / "health" / "ingestion.json"
    body = {"name": "ingestion", "state": "ok", "time_us": now_us()}
    report.write_text(json.dumps(body))
    assert {found.mood for found in looks(admin_client).values()} == {"good"}

    report.write_text(json.dumps({**body, "state": "failing", "reason": "away"}))
    record = Record(RecordPosition("log", "data-ingestion", 2, 7), b"run9", b"x", 0)
    poison = [(record, InvalidInputError(field="points", reason="cut short"))]
    publish_dead_letters(runtime.get_producer(), poison, now_us=START_US)
    MaintenanceRequest.objects.create(
        job="reindex", state="failed", finished_at=timezone.now(), error="broken"
    )
    found = looks(admin_client)
    bad = {title for title, cell in found.items() if cell.mood == "bad"}
    assert bad == {"Workers", "Dead letters", "Jobs"}
    assert found["Workers"].note == "ingestion is failing."


def test_the_first_page_shows_what_one_may_see(
    client: Client, store: Store, person: User
) -> None:
    assert looks(client) == {}
    permit(person, "view_workeranchor")
    assert set(looks(client)) == {"Workers"}


def test_the_first_page_survives_a_store_that_is_away(
    admin_client: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise StoreUnavailableError(reason="away")

    monkeypatch.setattr("backend.admin.overview.runtime.get_store", fail)
    found = looks(admin_client)
    assert (found["Store"].mood, found["Event log"].mood) == ("bad", "good")
    assert "away" in found["Store"].note


def test_a_job_that_does_not_begin_is_worth_a_look(
    admin_client: Client, store: Store
) -> None:
    asked = request_job("reindex", arguments={}, requester="schedule")
    assert looks(admin_client)["Jobs"].mood == "good"
    MaintenanceRequest.objects.update(due_at=timezone.now() - timedelta(minutes=10))
    assert looks(admin_client)["Jobs"].mood == "bad"
    shown = text_of(
        admin_client, f"/admin/backend/maintenancerequest/{asked.pk}/change/"
    )
    assert "Is one at work?" in shown


def test_a_failed_job_says_why(admin_client: Client, store: Store) -> None:
    failed = MaintenanceRequest.objects.create(
        job="reindex", state="failed", finished_at=timezone.now(), error="damaged row"
    )
    url = "/admin/backend/maintenancerequest/"
    assert "damaged row" in text_of(admin_client, url)
    shown = text_of(admin_client, f"{url}{failed.pk}/change/")
    assert "It failed and is not tried again" in shown
    assert "damaged row" in shown
    assert admin_client.post(f"{url}{failed.pk}/change/").status_code == 403
    assert admin_client.get(f"{url}{failed.pk + 1}/change/").status_code == 404


def test_a_dry_run_is_not_mistaken_for_the_work(
    admin_client: Client, store: Store
) -> None:
    asked = request_job("reindex", arguments={"dry_run": True}, requester="ann")
    run_request(request_id=asked.pk)
    url = "/admin/backend/maintenancerequest/"
    assert "only counted: " in text_of(admin_client, url)
    shown = text_of(admin_client, f"{url}{asked.pk}/change/")
    assert "only counted, nothing was changed" in shown


def test_sizes_are_shown_once_measured(admin_client: Client, store: Store) -> None:
    assert "Not measured yet" in text_of(admin_client, page("storesizeanchor"))
    answer = admin_client.post(
        "/admin/backend/maintenancerequest/add/",
        {"job": "measure_store", "confirmed": "on"},
    )
    assert answer.status_code == 302
    run_request(request_id=MaintenanceRequest.objects.get().pk)
    assert "Run number 1" in text_of(admin_client, page("storesizeanchor"))


def test_sizes_measured_by_the_command_are_shown(
    admin_client: Client, store: Store
) -> None:
    call_command("store_sizes")
    assert "Run number 1" in text_of(admin_client, page("storesizeanchor"))
    (row,) = MaintenanceRequest.objects.all()
    assert (row.state, row.requester) == ("done", "manage.py store_sizes")


def test_a_job_needs_to_be_confirmed(admin_client: Client, store: Store) -> None:
    url = "/admin/backend/maintenancerequest/add/"
    answer = admin_client.post(url, {"job": "sweep_blobs"})
    assert answer.status_code == 200
    answer = admin_client.post(url, {"job": "delete_runs", "confirmed": "on"})
    assert answer.status_code == 200
    assert not MaintenanceRequest.objects.exists()


def test_a_job_is_cancelled_by_post(admin_client: Client, store: Store) -> None:
    do(admin_client, "runanchor", "delete", "run0", confirmed="yes")
    request = MaintenanceRequest.objects.get()
    url = f"/admin/backend/maintenancerequest/{request.pk}/cancel/"
    assert admin_client.get(url).status_code == 405
    admin_client.post(url)
    request.refresh_from_db()
    assert request.state == "cancelled"
    assert "Cancelled." in text_of(admin_client, "/admin/admin/logentry/")


def test_a_store_that_is_away_is_a_page(
    admin_client: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise StoreUnavailableError(reason="away")

    monkeypatch.setattr("backend.admin.runs.search_runs", fail)
    answer = admin_client.get(page("runanchor"))
    assert answer.status_code == 503
    assert "Nothing was changed." in answer.content.decode()


@pytest.mark.django_db(transaction=True)
async def test_pages_are_served_under_asgi(
    async_client: AsyncClient, store: Store, admin_user: User
) -> None:
    await async_client.aforce_login(admin_user)
    answer = await async_client.get(page("runanchor"))
    assert answer.status_code == 200


def test_text_of_people_is_not_markup(admin_client: Client, store: Store) -> None:
    write(store, "evil", SetProperties(name="<script>alert(1)</script>"))
    assert "<script>alert" not in text_of(admin_client, page("runanchor"))

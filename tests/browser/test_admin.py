"""Every page of the admin as an operator sees it, in a real browser.

One installation, looked after as in life: something is wrong with it, things are
deleted, replayed and made. Each page is waited for by what a person looks for; no
request may fail and the console must be silent. The pictures are those of
`docs/admin.md`: `MATYAN_SCREENSHOTS=docs/admin make test-browser
OPTIONS=tests/browser/test_admin.py` takes them anew.
"""

from __future__ import annotations

import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from matyan_project.local_server import LocalServer
from tests.browser.browser import PAGE_WIDTH, Browser
from tests.browser.operations import (
    OPERATOR,
    PASSWORD,
    SHARED_EXPERIMENT,
    incident,
    prepare,
    request_at_work,
    server_without_store,
)

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

BACKEND = "/admin/backend"


@pytest.fixture(scope="module")
def installation(
    programs: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalServer]:
    """The whole system, with an operator and things to look after."""
    data_dir = tmp_path_factory.mktemp("operations")
    prepare(data_dir)
    with LocalServer(data_dir, environ={"MATYAN_AUTH": "required"}) as running:
        yield running


@pytest.fixture(scope="module")
def operator(
    programs: tuple[str, str],
    installation: LocalServer,
    screenshots: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Browser]:
    """The operator's browser, signed in."""
    profile = tmp_path_factory.mktemp("operator")
    with Browser(
        programs,
        origin=installation.url,
        profile=profile,
        screenshots=screenshots,
        width=PAGE_WIDTH,
    ) as opened:
        sign_in(opened, picture="sign-in")
        yield opened
    shutil.rmtree(profile, ignore_errors=True)


def sign_in(browser: Browser, *, picture: str = "") -> None:
    """Ask for the admin, and come to it by way of the sign-in page."""
    browser.open("/admin/", ready="form")
    browser.wait_for("Sign in to Matyan", "Name", "Password")
    browser.all("#id_username")[0].send_keys(OPERATOR)
    if picture:
        browser.shoot_whole(picture)
    browser.all("#id_password")[0].send_keys(PASSWORD)
    browser.all("button")[0].click()
    browser.wait_for("Deletions and archiving", "Workers")
    browser.settle()
    browser.check()


def see(browser: Browser, path: str, *texts: str, picture: str = "") -> None:
    """Load a page, wait for its texts, keep a picture, check it."""
    browser.open(path, ready="#content")
    arrive(browser, *texts, picture=picture)


def arrive(browser: Browser, *texts: str, picture: str = "") -> None:
    """Wait for the texts of the page that a click leads to, and check it."""
    browser.wait_for(*texts)
    browser.settle()
    if picture:
        browser.shoot_whole(picture)
    browser.check()


def reload_until(
    browser: Browser,
    path: str,
    holds: Callable[[str], bool],
    *,
    ready: str = "#content",
) -> None:
    """Load a page again and again until its text is as it should become."""
    deadline = time.monotonic() + 60
    browser.open(path, ready=ready)
    while not holds(browser.text()):
        assert time.monotonic() < deadline, browser.text()
        browser.open(path, ready=ready)
    browser.check()


def press(browser: Browser, label: str) -> None:
    """Press the button of this label; a page begins to load."""

    def find() -> list[object]:
        return [
            one
            for one in browser.all("#content button, #content input[type=submit]")
            if label in {one.text.strip(), one.get_attribute("value")}
        ]

    browser.driver.execute_script("arguments[0].click()", browser.wait(find)[0])


def choose(browser: Browser, text: str) -> None:
    """Tick the row that has this text."""
    row = next(one for one in browser.all("tbody tr") if text in one.text)
    row.find_element("css selector", "input[type=checkbox]").click()


def finish_job(browser: Browser, *texts: str, state: str = "done") -> None:
    """Watch the job's page, which renews itself, until the job is over."""
    browser.wait(lambda: f"State\t{state}" in browser.text())
    arrive(browser, *texts)


# --- what is wrong, and where --------------------------------------------------------


def test_an_incident_is_seen_at_a_glance(
    operator: Browser, installation: LocalServer
) -> None:
    reload_until(
        operator, f"{BACKEND}/deadletteranchor/", lambda text: "4 in all." in text
    )
    with incident(installation):
        see(
            operator,
            "/admin/",
            "2 of 5 need attention.",
            "ingestion-2 is silent (was ok), ingestion-3 is failing.",
            "3 records wait, the oldest for 2 h",
            "4 records wait for somebody.",
            "Audit log",
            "Users",
            picture="index",
        )
        see(
            operator,
            f"{BACKEND}/workeranchor/",
            "silent (was ok)",
            "failing",
            "Operation timed out",
            "It tries again by itself",
            "Restart it",
            "1 h",
            picture="workers",
        )
        see(
            operator,
            f"{BACKEND}/eventloganchor/",
            "data-ingestion: 3 records wait, the oldest for 2 h",
            "dead-letters: 4 records wait",
            "None: every deletion has been carried out.",
            picture="event-log",
        )
    # At work again, it catches up.
    reload_until(
        operator,
        f"{BACKEND}/eventloganchor/",
        lambda text: "data-ingestion: Nothing waits." in text,
    )
    see(operator, f"{BACKEND}/runanchor/?q=late1", "Late run 1")
    see(operator, "/admin/", "3 at work.", "Nothing waits.")


def test_red_is_only_what_somebody_has_to_act_on(operator: Browser) -> None:
    see(operator, "/admin/", "3 at work.")
    red = [one.text for one in operator.all(".mood-bad")]
    assert red == ["4 records wait for somebody."]


def test_a_store_that_does_not_answer(
    programs: tuple[str, str], screenshots: Path, tmp_path: Path
) -> None:
    with (
        server_without_store(tmp_path / "away") as url,
        Browser(
            programs,
            origin=url,
            profile=tmp_path / "profile",
            screenshots=screenshots,
            width=PAGE_WIDTH,
        ) as browser,
    ):
        sign_in(browser)
        see(browser, "/admin/", "No answer.", "The store is unavailable")
        place = f"{BACKEND}/runanchor/"
        browser.open(place, ready="#content")
        browser.wait_for(
            "Runs: no answer", "The store is unavailable", "Nothing was changed."
        )
        browser.settle()
        browser.write_over(str(tmp_path / "away"), "/var/lib/matyan")
        browser.shoot_whole("unavailable")
        assert browser.traffic.failed == [f"503 {url}{place}"]
        # Pages that need no store still answer.
        see(browser, f"{BACKEND}/workeranchor/", "No worker has reported.")
        see(browser, f"{BACKEND}/maintenancerequest/", "Jobs")


# --- what is tracked -----------------------------------------------------------------


def test_runs(operator: Browser) -> None:
    see(
        operator,
        f"{BACKEND}/runanchor/?q=run.experiment == 'digits'",
        "Full run",
        "Live run",
        "Run to delete",
        "finished",
    )
    see(operator, f"{BACKEND}/runanchor/", "Full run", "Odd <run>", picture="runs")
    assert "Plain run" not in operator.text()
    operator.click_text("archived", within="#content")
    arrive(operator, "Plain run", "archived, finished")


def test_a_run(operator: Browser) -> None:
    see(
        operator,
        f"{BACKEND}/runanchor/of/full/",
        "Full run",
        "digits",
        "baseline, good",
        "accuracy",
        "model/weights.bin",
        "hparams",
        "Archive this run…",
        picture="run",
    )
    assert "Finish this run…" not in operator.text()
    operator.click_text("Search all 15 series", within="#content")
    arrive(operator, "15 of 15 series.")
    operator.all("input[name=q]")[0].send_keys("loss val")
    press(operator, "Search")
    arrive(operator, "1 of 15 series.", '{"subset":"val"}', picture="series")

    see(
        operator,
        f"{BACKEND}/runanchor/artifacts/full/?q=report",
        "1 of 2 artifacts.",
        "report.txt",
        picture="artifacts",
    )


def test_a_run_that_is_not_there(operator: Browser) -> None:
    operator.open(f"{BACKEND}/runanchor/of/nobody/", ready="#content")
    operator.wait_for("Not found", "nobody")
    operator.settle()
    assert len(operator.traffic.failed) == 1
    assert operator.traffic.failed[0].startswith("404 ")


def test_experiments(operator: Browser) -> None:
    see(
        operator,
        f"{BACKEND}/experimentanchor/",
        "digits",
        SHARED_EXPERIMENT,
        picture="experiments",
    )
    operator.click_text("digits", within="#content")
    arrive(operator, "Full run", "Live run")


def test_tags(operator: Browser) -> None:
    see(operator, f"{BACKEND}/taganchor/", "baseline", "On no run", picture="tags")
    operator.click_text("baseline", within="#content")
    arrive(operator, "Full run", "Live run")
    assert "Odd <run>" not in operator.text()


# --- what is done --------------------------------------------------------------------


def test_a_run_is_deleted(operator: Browser) -> None:
    see(operator, f"{BACKEND}/runanchor/", "Run to delete")
    choose(operator, "Run to delete")
    press(operator, "Delete runs…")
    arrive(
        operator,
        "Delete runs?",
        "They cannot be brought back",
        "Run to delete (active, created",
        picture="confirm",
    )
    press(operator, "Delete runs")
    operator.wait_for("Delete runs (", "run ids: doomed")
    finish_job(operator, "100 %", "operator")
    operator.shoot_whole("job")

    see(operator, f"{BACKEND}/runanchor/", "Full run")
    assert "Run to delete" not in operator.text()
    reload_until(
        operator,
        f"{BACKEND}/tombstoneanchor/",
        lambda text: text.count("gone") >= 3 and "being cleared" not in text,
    )
    see(
        operator,
        f"{BACKEND}/tombstoneanchor/",
        "Run to delete",
        "Deleted yesterday",
        "1 d 2 h ago",
        picture="tombstones",
    )
    see(operator, "/admin/admin/logentry/", "Delete runs.", "doomed")


def test_a_job_that_cannot_be_done(operator: Browser) -> None:
    """Somebody else deletes the experiment while this page asks whether to."""
    see(operator, f"{BACKEND}/experimentanchor/", SHARED_EXPERIMENT)
    choose(operator, SHARED_EXPERIMENT)
    press(operator, "Delete experiments…")
    arrive(operator, f"{SHARED_EXPERIMENT} (0 runs)")
    key = operator.all("input[name=key]")[0].get_attribute("value")
    status = operator.driver.execute_async_script(
        "const [place, done] = arguments;"
        "fetch(place, {method: 'DELETE'}).then(answer => done(answer.status))",
        f"/api/v1/rest/experiments/{key}/",
    )
    assert status == 200
    press(operator, "Delete experiments")
    operator.wait_for("Delete an experiment (")
    finish_job(operator, "Experiment not found", "It failed", state="failed")
    operator.shoot_whole("job-failed")

    see(operator, "/admin/", "1 failed in the last day.")


def test_dead_letters_are_read_and_replayed(operator: Browser) -> None:
    see(
        operator,
        f"{BACKEND}/deadletteranchor/",
        "4 in all.",
        "unknown kind 'future'",
        "9 h",
        "data-ingestion/3/41",
        picture="dead-letters",
    )
    operator.click_text("data-ingestion/3/41", within="#content")
    arrive(
        operator,
        "Came back by replay",
        "validation_error",
        "Replay…",
        picture="dead-letter",
    )
    press(operator, "Replay…")
    arrive(operator, "Replay?", "given to the workers once more", "revived")
    press(operator, "Replay")
    operator.wait_for("Replay dead letters (")
    finish_job(operator, "given to the workers again")

    reload_until(
        operator,
        f"{BACKEND}/runanchor/?q=revived",
        lambda text: "Came back by replay" in text,
    )
    see(operator, f"{BACKEND}/deadletteranchor/", "3 in all.")
    assert "data-ingestion/3/41" not in operator.text()


def test_dead_letters_that_still_cannot_be_applied_come_back(
    operator: Browser,
) -> None:
    see(operator, f"{BACKEND}/deadletteranchor/", "3 in all.")
    press(operator, "Replay all…")
    arrive(operator, "Replay?", "All of them")
    press(operator, "Replay")
    operator.wait_for("Replay dead letters (", "origins: all")
    finish_job(operator, "given to the workers again\t3")
    reload_until(
        operator, f"{BACKEND}/deadletteranchor/", lambda text: "3 in all." in text
    )


def test_jobs_are_asked_for_and_listed(
    operator: Browser, installation: LocalServer
) -> None:
    see(operator, f"{BACKEND}/storesizeanchor/", "Measure again")
    operator.click_text("Measure again", within="#content")
    arrive(
        operator, "Measure the store", "I have read what the job does", picture="ask"
    )
    assert operator.all("input[value=measure_store]")[0].is_selected()
    operator.all("#id_confirmed")[0].click()
    press(operator, "Start the job")
    operator.wait_for("Measure the store (")
    finish_job(operator, "of runs: points")

    see(
        operator,
        f"{BACKEND}/storesizeanchor/",
        "By kind",
        "Largest runs measured",
        "Full run",
        picture="store-sizes",
    )
    at_work = request_at_work(installation.data_dir)
    see(
        operator,
        f"{BACKEND}/maintenancerequest/{at_work}/change/",
        "30 % (1,260 of 4,200)",
        "Cancel this job",
        "run 1260",
        picture="job-running",
    )
    see(
        operator,
        f"{BACKEND}/maintenancerequest/",
        "running",
        "failed",
        "done",
        "by operator",
        "by schedule",
        picture="jobs",
    )


def test_a_token_is_made_used_and_revoked(
    operator: Browser, installation: LocalServer
) -> None:
    see(operator, f"{BACKEND}/apitoken/add/", "Name", "Scope", picture="token-add")
    operator.all("#id_name")[0].send_keys("training cluster")
    press(operator, "Save")
    arrive(operator, "Copy it now", picture="token-created")
    token = operator.all("textarea")[0].get_attribute("value") or ""
    assert ask_with(installation, token) == 200

    see(
        operator, f"{BACKEND}/apitoken/", "training cluster", "usable", picture="tokens"
    )
    assert token.rsplit("_", 1)[1] not in operator.text()
    choose(operator, "training cluster")
    operator.all("select[name=action] option[value=revoke]")[0].click()
    press(operator, "Go")
    arrive(operator, "Revoke tokens?", "cannot be made valid", picture="token-revoke")
    press(operator, "Revoke")
    arrive(operator, "1 revoked.")
    deadline = time.monotonic() + 30
    while ask_with(installation, token) != 401:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def ask_with(installation: LocalServer, token: str) -> int:
    """Return what the API answers to whoever has this token."""
    request = urllib.request.Request(
        f"{installation.url}/api/v1/rest/projects/",
        headers={"Authorization": f"Bearer {token}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_audit_log_tells_who_did_what(operator: Browser) -> None:
    see(
        operator,
        "/admin/admin/logentry/",
        "Audit log",
        "Delete runs.",
        "doomed",
        "Delete experiments.",
        "Replay.",
        "all of them",
        "Revoked.",
        "training cluster",
        OPERATOR,
        picture="audit",
    )


@pytest.mark.parametrize("path", ["/admin/auth/user/", "/admin/auth/group/"])
def test_pages_about_people(operator: Browser, path: str) -> None:
    see(operator, path, "Matyan", "Audit log")

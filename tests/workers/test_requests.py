"""Maintenance requests: claimed once, told of, stopped, retried, taken up again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from backend import maintenance, task_queue
from backend.domain.jobs import JOBS, JobName
from backend.errors import (
    InvalidInputError,
    StoreUnavailableError,
    TaskQueueUnavailableError,
)
from backend.models import MaintenanceRequest
from backend.services.long_work import Step
from matyan_project.task_settings import SCHEDULE, celery_settings
from workers import jobs
from workers.tasks import requests

pytestmark = pytest.mark.django_db

State = MaintenanceRequest.State
Function = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def own_queue(settings: Any, data_dir: Path) -> None:
    settings.CELERY = celery_settings("", data_dir=data_dir)


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> Callable[[Function], None]:
    """Have the job "measure_store" do something else."""

    def put(function: Function) -> None:
        known = {**jobs.FUNCTIONS, JobName.MEASURE_STORE: function}
        monkeypatch.setattr(jobs, "FUNCTIONS", known)

    return put


def ask(job: str = "measure_store", **arguments: Any) -> MaintenanceRequest:
    return maintenance.request_job(job, arguments=arguments, requester="a test")


def run(request: MaintenanceRequest) -> MaintenanceRequest:
    requests.run_request(request_id=request.pk)
    request.refresh_from_db()
    return request


def waiting_messages(data_dir: Path) -> int:
    return len(list((data_dir / "tasks" / "messages").glob("*.msg")))


def test_every_job_can_be_done() -> None:
    assert {name.value for name in jobs.FUNCTIONS} == set(JOBS)
    assert set(JobName) == set(jobs.FUNCTIONS)


def test_the_schedule_asks_for_jobs_there_are() -> None:
    asked = [entry["kwargs"]["job"] for entry in SCHEDULE.values() if "kwargs" in entry]
    assert set(asked) <= set(JOBS)


def test_arguments_come_from_settings_unless_given(settings: Any) -> None:
    settings.MATYAN_STALE_RUN_HOURS = 5.0
    assert maintenance.resolve_arguments("finish_stale_runs", {}) == {"hours": 5.0}
    given = maintenance.resolve_arguments("finish_stale_runs", {"hours": 1.0})
    assert given == {"hours": 1.0}


@pytest.mark.parametrize(
    ("job", "arguments"), [("brew_coffee", {}), ("reindex", {"hours": 1})]
)
def test_what_is_no_job_or_argument_is_refused(
    job: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInputError):
        maintenance.request_job(job, arguments=arguments, requester="a test")
    assert not MaintenanceRequest.objects.exists()


def test_a_task_is_sent_once_the_row_is_there(
    data_dir: Path, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        ask()
        assert waiting_messages(data_dir) == 0
    assert waiting_messages(data_dir) == 1


def test_without_a_broker_the_request_waits(
    monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    def refuse(_name: str, **_kwargs: Any) -> None:
        raise TaskQueueUnavailableError(reason="away")

    monkeypatch.setattr(task_queue, "send_task", refuse)
    with django_capture_on_commit_callbacks(execute=True):
        request = ask()
    assert maintenance.find_due() == [request.pk]


def test_a_broker_that_is_not_there_is_noticed_soon(
    settings: Any, data_dir: Path
) -> None:
    settings.CELERY = celery_settings(
        "redis://127.0.0.1:9/0", data_dir=Path("/nowhere")
    )
    with pytest.raises(TaskQueueUnavailableError, match="broker"):
        task_queue.send_task(task_queue.RUN_REQUEST, request_id=1)


@pytest.mark.usefixtures("runtime")
def test_a_request_is_done_and_has_its_result() -> None:
    request = run(ask())
    assert request.state == State.DONE
    assert request.result["runs"] == 0
    assert request.percent == 100
    assert request.finished_at is not None


def test_a_request_is_claimed_once(measuring: Any) -> None:
    calls = []
    measuring(lambda **_: calls.append(1) or {})
    request = ask()
    for _ in range(2):
        run(request)
    assert calls == [1]


def test_progress_is_told(measuring: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "TELL_S", 0.0)
    request = ask()
    seen = []

    def work(*, on_step: Any, **_: Any) -> dict[str, Any]:
        on_step(Step(3, 12, "counting"))
        row = MaintenanceRequest.objects.get(pk=request.pk)
        seen.append((row.state, row.percent, row.note))
        return {}

    measuring(work)
    run(request)
    assert seen == [(State.RUNNING, 25, "counting")]


def test_a_cancelled_request_ends_at_its_next_step(
    measuring: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "TELL_S", 0.0)
    request = ask()

    def work(*, on_step: Any, **_: Any) -> dict[str, Any]:
        assert maintenance.cancel_request(request.pk)
        on_step(Step(1))
        raise AssertionError

    measuring(work)
    assert run(request).state == State.CANCELLED
    assert not maintenance.cancel_request(request.pk)


def test_a_waiting_request_is_cancelled_at_once() -> None:
    request = ask()
    assert maintenance.cancel_request(request.pk)
    assert run(request).state == State.CANCELLED


@pytest.mark.usefixtures("stopped")
def test_a_worker_that_stops_leaves_the_rest_to_the_next(measuring: Any) -> None:
    def work(*, on_step: Any, **_: Any) -> dict[str, Any]:
        on_step(Step(1, checkpoint={"after": 7}))
        raise AssertionError

    measuring(work)
    request = run(ask())
    assert (request.state, request.checkpoint) == (State.QUEUED, {"after": 7})
    assert maintenance.find_due() == [request.pk]


def test_what_was_left_goes_on_where_it_was(measuring: Any) -> None:
    seen: list[Any] = []
    measuring(lambda *, checkpoint, **_: seen.append(checkpoint) or {})
    request = ask()
    MaintenanceRequest.objects.update(checkpoint={"after": 7})
    run(request)
    assert seen == [{"after": 7}]


def test_failing_surroundings_are_waited_for(measuring: Any) -> None:
    def work(**_: Any) -> dict[str, Any]:
        raise StoreUnavailableError(reason="away")

    measuring(work)
    request = run(ask())
    assert (request.state, request.attempts) == (State.QUEUED, 1)
    assert request.due_at > timezone.now()
    assert "away" in request.error
    assert maintenance.find_due() == []
    for _ in range(requests.MAX_ATTEMPTS - 1):
        MaintenanceRequest.objects.update(due_at=timezone.now())
        run(request)
    assert request.state == State.FAILED


def test_a_bug_fails_at_once_and_says_which(measuring: Any) -> None:
    def work(**_: Any) -> dict[str, Any]:
        raise ZeroDivisionError

    measuring(work)
    request = run(ask())
    assert (request.state, request.error) == (State.FAILED, "ZeroDivisionError: ")


def test_a_request_whose_worker_was_killed_is_taken_up_again(measuring: Any) -> None:
    measuring(lambda **_: {"again": True})
    request = ask()
    long_ago = timezone.now() - timedelta(seconds=maintenance.SILENT_S + 1)
    MaintenanceRequest.objects.update(state=State.RUNNING, heard_at=long_ago)
    requests.resume_requests()
    request.refresh_from_db()
    assert (request.state, request.result) == (State.DONE, {"again": True})


@pytest.mark.usefixtures("runtime")
def test_the_schedule_does_not_ask_twice() -> None:
    assert maintenance.request_scheduled("measure_store") is not None
    requests.request_scheduled_job(job="measure_store")
    assert MaintenanceRequest.objects.count() == 1


def test_old_rows_go() -> None:
    for requester, age in (
        ("schedule", maintenance.KEPT_SCHEDULED),
        ("ann", maintenance.KEPT_SCHEDULED),
        ("ann", maintenance.KEPT),
    ):
        maintenance.request_job("reindex", arguments={}, requester=requester)
        MaintenanceRequest.objects.filter(state=State.QUEUED).update(
            state=State.DONE, finished_at=timezone.now() - age - timedelta(hours=1)
        )
    assert maintenance.prune_requests() == 2
    assert MaintenanceRequest.objects.get().requester == "ann"

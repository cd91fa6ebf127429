"""How everything is, in a few lines: what the admin's first page shows.

Each look is taken by itself: one that cannot be taken says why and spoils no other. A
person sees those whose page they may see. Red is only what somebody has to act on.

Design note: docs/admin.md#the-first-page
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from django.conf import settings
from django.db.models import Min
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from backend import runtime
from backend.admin.cells import Cell, amount, count_of, duration, moment_of, now_us
from backend.admin.worker_reports import read_worker_reports, summarise
from backend.bus.base import EventLog, PartitionLag
from backend.bus.topics import DEAD_LETTERS, TOPICS
from backend.errors import MatyanError
from backend.models import MaintenanceRequest
from backend.services.dead_letters import count_dead_letters
from backend.services.outbox import count_pending
from backend.services.reactions import count_reactions

LATE_S: Final = 60.0
"""A record that has waited for longer means that something is wrong."""

LATE_JOB_S: Final = 180.0
"""Requests are found within a minute, and silent ones taken up after two."""

FAILED_FOR: Final = timedelta(days=1)
LOW_DISK_BYTES: Final = 1_000_000_000

State = MaintenanceRequest.State


@dataclass(frozen=True, slots=True)
class Look:
    """One line of the first page.

    Attributes:
        title: At what.
        found: How it is.
        url: The page that tells more, "" for none.
    """

    title: str
    found: Cell
    url: str = ""


def take_looks(request: HttpRequest) -> list[Look]:
    """Return how everything is that the person may see."""
    looks = []
    for title, model, query, look in _LOOKS:
        if request.user.has_perm(f"backend.view_{model}"):
            url = reverse(f"admin:backend_{model}_changelist") + query
            looks.append(Look(title, _safely(look), url))
    return looks


def open_event_log() -> EventLog:
    """Return the event log, its topics made.

    Raises:
        EventLogError: If it does not answer.
    """
    log = runtime.get_event_log()
    log.ensure_topics(TOPICS)
    return log


def lag_mood(lag: PartitionLag) -> str:
    """Return whether somebody has to look after a partition's lag."""
    # A dead letter waits for a person, however young it is.
    if lag.lag and (lag.topic == DEAD_LETTERS or lag.oldest_age_s > LATE_S):
        return "bad"
    if lag.lag and lag.is_near_loss:
        return "bad"
    return "warn" if lag.lag else "good"


def describe_lag(lags: Iterable[PartitionLag]) -> Cell:
    """Return how far a group is behind in all its partitions together."""
    behind = [lag for lag in lags if lag.lag]
    if not behind:
        return Cell("Nothing waits.", mood="good")
    total = sum(lag.lag for lag in behind)
    oldest_s = max(lag.oldest_age_s for lag in behind)
    moods = {lag_mood(lag) for lag in behind}
    wait = "waits" if total == 1 else "wait"
    return Cell(
        f"{count_of(total, 'record')} {wait}, the oldest for {duration(oldest_s)}.",
        mood="bad" if "bad" in moods else "warn",
        note=_nearest_loss(behind),
    )


def _nearest_loss(lags: list[PartitionLag]) -> str:
    left = [lag.expires_in_s for lag in lags if lag.is_near_loss]
    seconds = min((s for s in left if s is not None), default=None)
    if seconds is None:
        return ""
    return f"Deleted unread in {duration(seconds)}: add workers or raise the retention."


def _safely(look: Callable[[], Cell]) -> Cell:
    try:
        return look()
    except MatyanError as error:
        return Cell("No answer.", mood="bad", note=str(error))


def _workers() -> Cell:
    return summarise(read_worker_reports())


def _event_log() -> Cell:
    log = open_event_log()
    found = describe_lag(
        lag
        for topic in TOPICS
        if topic.name != DEAD_LETTERS
        for group in topic.groups
        for lag in log.lag(group=group, topics=[topic.name])
    )
    if found.mood == "bad" and not found.note:
        return replace(found, note="They wait safely; workers hang or are too few.")
    return found


def _dead_letters() -> Cell:
    waiting = count_dead_letters(open_event_log())
    if not waiting:
        return Cell("None: everything that came could be applied.", mood="good")
    wait = "waits" if waiting == 1 else "wait"
    return Cell(
        f"{count_of(waiting, 'record')} {wait} for somebody.",
        mood="bad",
        note="Their data is not in the store. Read the reasons, then replay.",
    )


def _control_events() -> Cell:
    store = runtime.get_store()
    pending, counts = count_pending(store), count_reactions(store)
    if counts.failing:
        return Cell(
            f"{count_of(counts.failing, 'event')} cannot be acted on.",
            mood="bad",
            note="Tried again by themselves; the reason is on the event log's page.",
        )
    waiting = pending + counts.waiting
    if not waiting:
        return Cell("All carried out.", mood="good")
    age_s = (now_us() - counts.oldest_us) / 1e6 if counts.waiting else 0.0
    oldest = f", the oldest for {duration(age_s)}" if counts.waiting else ""
    return Cell(
        f"{count_of(waiting, 'event')} under way{oldest}.",
        mood="bad" if age_s > LATE_JOB_S else "warn",
        note="Needs the control and the task worker.",
    )


def _jobs() -> Cell:
    rows = MaintenanceRequest.objects
    failed = rows.filter(
        state=State.FAILED, finished_at__gte=timezone.now() - FAILED_FOR
    ).count()
    if failed:
        return Cell(
            f"{failed} failed in the last day.",
            mood="bad",
            note="The reason is on each job's page.",
        )
    waiting = rows.filter(state=State.QUEUED, due_at__lte=timezone.now())
    oldest = waiting.aggregate(at=Min("due_at"))["at"]
    waited_s = (now_us() - (moment_of(oldest) or now_us())) / 1e6
    if waited_s > LATE_JOB_S:
        text = f"{waiting.count()} not begun, the oldest for {duration(waited_s)}."
        return Cell(text, mood="bad", note="Is a task worker at work?")
    running = rows.filter(state=State.RUNNING).count()
    return Cell(f"{running} at work, none failed in the last day.", mood="good")


def _store() -> Cell:
    runtime.get_store().engine.check()
    measured: Any = MaintenanceRequest.objects.filter(
        job="measure_store", state=State.DONE
    ).first()
    if measured is None:
        return Cell("Answers.", mood="good", note="Not measured yet.")
    age_s = (now_us() - (moment_of(measured.finished_at) or now_us())) / 1e6
    size = amount(measured.result.get("disk_bytes", 0))
    count = count_of(int(measured.result.get("runs", 0)), "run")
    note = f"{size} and {count} when measured {duration(age_s)} ago."
    return Cell("Answers.", mood="good", note=note)


def _disk() -> Cell:
    disk = shutil.disk_usage(settings.DATA_DIR)
    text = f"{amount(disk.free)} free of {amount(disk.total)}."
    if disk.free >= LOW_DISK_BYTES:
        return Cell(text, mood="good")
    note = "What does not fit is refused: make room."
    return Cell(text, mood="bad", note=note)


_LOOKS: Final[tuple[tuple[str, str, str, Callable[[], Cell]], ...]] = (
    ("Workers", "workeranchor", "", _workers),
    ("Event log", "eventloganchor", "", _event_log),
    ("Dead letters", "deadletteranchor", "", _dead_letters),
    ("Deletions and archiving", "eventloganchor", "#control-events", _control_events),
    ("Jobs", "maintenancerequest", "", _jobs),
    ("Store", "storesizeanchor", "", _store),
    ("Disk of this server", "storesizeanchor", "", _disk),
)
"""Title, model whose permission and page it is, rest of the address, look."""

"""The system itself for operators: event log, dead letters, workers, sizes.

Design note: docs/admin.md
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest
from django.urls import reverse
from typing_extensions import override

from backend import runtime
from backend.admin.base import (
    PAGE,
    Action,
    Cell,
    StoreAdmin,
    Table,
    amount,
    duration,
    moment,
    now_us,
)
from backend.bus.base import EventLog
from backend.bus.topics import DEAD_LETTERS, TOPICS
from backend.errors import NotFoundError
from backend.models import (
    DeadLetterAnchor,
    EventLogAnchor,
    MaintenanceRequest,
    StoreSizeAnchor,
    WorkerAnchor,
)
from backend.services.dead_letters import (
    DeadLetter,
    count_dead_letters,
    find_dead_letter,
    iter_dead_letters,
)
from backend.services.outbox import count_pending
from backend.services.reactions import count_reactions, list_reactions
from matyan_wire.batch import decode_envelope

SILENT_US: Final = 60_000_000
SHOWN_BYTES: Final = 4_000
LATE_S: Final = 60.0


def _event_log() -> EventLog:
    log = runtime.get_event_log()
    log.ensure_topics(TOPICS)
    return log


@admin.register(EventLogAnchor)
class EventLogAdmin(StoreAdmin):
    """Lag of every group."""

    heading = "Event log"
    intro = (
        "How far each group of workers is behind. Records wait here safely; a lag that "
        "grows means that the workers are too few, or that the store is failing."
    )

    @override
    def list_page(self, request: HttpRequest) -> Mapping[str, Any]:
        log, store = _event_log(), runtime.get_store()
        table = Table(
            ["Topic", "Group", "Partition", "Behind", "Oldest waits", "Read up to"]
        )
        for topic in TOPICS:
            for group in topic.groups:
                for lag in log.lag(group=group, topics=[topic.name]):
                    # A dead letter waits for a person, however young it is.
                    late = lag.oldest_age_s > LATE_S or topic.name == DEAD_LETTERS
                    mood = "bad" if lag.lag and late else "good"
                    behind = Cell(f"{lag.lag:,}", mood=mood)
                    waits = duration(lag.oldest_age_s) if lag.lag else ""
                    place = f"{lag.committed:,} of {lag.end:,}"
                    row = [topic.name, group, lag.partition, behind, waits, place]
                    table.rows.append(("", row))
        counts = count_reactions(store)
        failing = Table(
            ["Event", "Noted (UTC)", "Failures", "Last reason"],
            title="Control events still to be acted on",
            empty="None: every deletion has been carried out.",
            rows=[
                ("", [r.event_id, moment(r.noted_us), r.attempts, r.reason])
                for r in list_reactions(store, limit=PAGE)
            ],
        )
        summary = [
            Cell(f"{count_pending(store)} control events not published yet."),
            Cell(
                f"{counts.waiting} to be acted on, {counts.failing} of them failing.",
                mood="bad" if counts.failing else "",
            ),
        ]
        return {"tables": [table, failing], "summary": summary}


@admin.register(DeadLetterAnchor)
class DeadLetterAdmin(StoreAdmin):
    """Dead letters."""

    heading = "Dead letters"
    intro = (
        "Records that could not be applied, kept with the reason. Put right what is "
        "wrong, then replay them. Nothing is lost until you discard it."
    )
    actions_offered = (
        Action("replay", "Replay", "change", "They are given to the workers once more. "
               "Those that still cannot be applied come back here."),
        Action("discard", "Discard", "delete", "Their data is given up for good. They "
               "cannot be brought back."),
    )  # fmt: skip

    @override
    def list_page(self, request: HttpRequest) -> Mapping[str, Any]:
        log = _event_log()
        given = request.GET.get("after", "")
        offset = int(given) if given.isdecimal() else 0
        found = list(iter_dead_letters(log, limit=PAGE + 1, offset=offset))
        table = self.table(
            request,
            ["Origin", "Run or entity", "Reason", "Since (UTC)", "Bytes"],
            empty="No dead letters: everything that came could be applied.",
        )
        for letter in found[:PAGE]:
            link = Cell(letter.origin, self.url("detail", letter.origin))
            who = letter.record.key.decode(errors="replace")
            reason = Cell(f"{letter.code}: {letter.reason[:200]}", mood="bad")
            size = f"{len(letter.record.value):,}"
            row = [link, who, reason, moment(letter.time_us), size]
            table.rows.append((letter.origin, row))
        if len(found) > PAGE:
            following = str(found[PAGE].record.position.offset)
            table.next_url = self.url("changelist", after=following)
        return {
            "tables": [table],
            "summary": [Cell(f"{count_dead_letters(log):,} in all.")],
        }

    @override
    def detail_page(self, request: HttpRequest, key: str) -> Mapping[str, Any]:
        letter = find_dead_letter(_event_log(), key)
        if letter is None:
            raise NotFoundError(dead_letter=key)
        return {
            "heading": "Dead letter",
            "facts": [
                ("Origin", letter.origin),
                ("Run or entity", letter.record.key.decode(errors="replace")),
                ("Code", Cell(letter.code, mood="bad")),
                ("Reason", letter.reason),
                ("Since (UTC)", moment(letter.time_us)),
                ("Bytes", f"{len(letter.record.value):,}"),
            ],
            "texts": [("What is in it", _decoded(letter)[:SHOWN_BYTES])],
        }

    @override
    def act(self, request: HttpRequest, action: Action, keys: list[str]) -> str:
        return self.start_job(request, f"{action.name}_dead_letters", origins=keys)


def _decoded(letter: DeadLetter) -> str:
    """Return a record's value in words, or its first bytes if it means nothing."""
    value = letter.record.value
    try:
        return json.dumps(json.loads(value), indent=2)
    except ValueError:
        pass
    try:
        envelope = decode_envelope(value)
        batch = msgspec.msgpack.decode(envelope.batch)
        return repr(batch)
    except (msgspec.MsgspecError, ValueError):
        return f"Not readable; its first bytes: {value[:400].hex(' ')}"


@admin.register(WorkerAnchor)
class WorkerAdmin(StoreAdmin):
    """Workers of this machine."""

    heading = "Workers"
    intro = (
        "What each worker on this server's data directory last said. One that has been "
        "silent for a minute hangs or is gone."
    )

    @override
    def list_page(self, request: HttpRequest) -> Mapping[str, Any]:
        columns = ["Worker", "State", "Last heard", "Behind", "Done", "Reason"]
        table = Table(columns, empty="No worker has ever reported here.")
        for said in _reports(Path(settings.DATA_DIR) / "health"):
            silent_us = now_us() - int(said.get("time_us", 0))
            state = str(said.get("state", "unknown"))
            mood = {"ok": "good", "failing": "bad"}.get(state, "warn")
            if silent_us > SILENT_US and state != "stopped":
                state, mood = f"silent (was {state})", "bad"
            row = [
                f"{said.get('name', '')} (process {said.get('pid', '')})",
                Cell(state, mood=mood),
                f"{duration(silent_us / 1e6)} ago",
                said.get("lag", ""),
                said.get("applied", ""),
                said.get("reason", "") or said.get("running", ""),
            ]
            table.rows.append(("", row))
        return {"tables": [table]}


def _reports(directory: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted(directory.glob("*.json")):
        try:
            said = json.loads(path.read_text())
        except (OSError, ValueError):
            said = {"name": path.stem, "state": "unreadable", "time_us": now_us()}
        found.append(said)
    return found


@admin.register(StoreSizeAnchor)
class StoreSizeAdmin(StoreAdmin):
    """Bytes in the store."""

    heading = "Store sizes"
    intro = (
        "From the last measurement, which the schedule makes daily. Keys and values "
        "only; what the engine takes beside them shows on the disk."
    )

    @override
    def list_page(self, request: HttpRequest) -> Mapping[str, Any]:
        done = MaintenanceRequest.objects.filter(job="measure_store", state="done")
        last = done.first()
        add = reverse("admin:backend_maintenancerequest_add")
        links = [Cell("Measure again", f"{add}?job=measure_store")]
        if last is None:
            return {"summary": [Cell("Not measured yet.", mood="warn")], "links": links}
        result: dict[str, Any] = last.result
        kinds = Table(["Kind", "Bytes"], title="By kind")
        for group in ("kinds", "shared"):
            for kind, size in result[group].items():
                kinds.rows.append(("", [kind, amount(size)]))
        largest = Table(["Run", "Id", "Bytes"], title="Largest runs measured")
        for run in result["largest"]:
            page = reverse("admin:backend_runanchor_detail", args=[run["run_id"]])
            at_least = "" if run["complete"] else "at least "
            size = at_least + amount(run["bytes"])
            largest.rows.append(("", [Cell(run["name"], page), run["run_id"], size]))
        how = "estimated from" if result["estimated"] else "measured in"
        disk, measured = amount(result["disk_bytes"]), result["measured_runs"]
        when = f"{last.finished_at:%Y-%m-%d %H:%M} UTC" if last.finished_at else ""
        summary = [
            Cell(f"{disk} on the disk, {result['runs']:,} runs."),
            Cell(f"Sizes {how} {measured:,} runs, {when}."),
        ]
        return {"tables": [kinds, largest], "summary": summary, "links": links}

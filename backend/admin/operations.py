"""The system itself for operators: event log, dead letters, workers, sizes.

Design note: docs/admin.md
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from django.contrib import admin
from django.http import HttpRequest
from django.urls import reverse
from typing_extensions import override

from backend import runtime
from backend.admin.base import ALL, PAGE, StoreAdmin
from backend.admin.cells import (
    Action,
    Cell,
    Table,
    ago,
    amount,
    count_of,
    duration,
    moment_of,
    now_us,
)
from backend.admin.overview import describe_lag, lag_mood, open_event_log
from backend.admin.worker_reports import (
    WorkerReport,
    read_worker_reports,
    summarise,
)
from backend.bus.base import PartitionLag
from backend.bus.topics import DEAD_LETTERS, INGESTION, TOPICS
from backend.domain.reactions import Reaction
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
from matyan_wire.batch import decode_batch, decode_envelope

SHOWN_BYTES: Final = 4_000
CONTROL_TITLE: Final = "Deletions and archiving still to be carried out"


def _page(anchor: str, *args: str) -> str:
    kind = "detail" if args else "changelist"
    return reverse(f"admin:backend_{anchor}_{kind}", args=args)


@admin.register(EventLogAnchor)
class EventLogAdmin(StoreAdmin):
    """Lag of every group."""

    heading = "Event log"
    intro = (
        "How far each group of workers is behind. Records wait here safely. Now and "
        "then some wait for a second; red ones have waited for a minute: then look at "
        "the workers. All of them well: start more. Failing: it is the store."
    )

    @override
    def list_page(self, request: HttpRequest) -> Mapping[str, Any]:
        log, store = open_event_log(), runtime.get_store()
        table = Table(
            ["Topic", "Group", "Partition", "Behind", "Oldest waits", "Read up to"]
        )
        summary = []
        for topic in TOPICS:
            for group in topic.groups:
                lags = log.lag(group=group, topics=[topic.name])
                found = describe_lag(lags)
                text = f"{topic.name}: {found.text}"
                page = "deadletteranchor" if topic.name == DEAD_LETTERS else ""
                url = _page(page or "workeranchor") if found.mood != "good" else ""
                summary.append(Cell(text, url, found.mood, found.note))
                table.rows += [("", _lag_row(lag, group)) for lag in lags]
        reactions = list_reactions(store, limit=PAGE)
        waiting = Table(
            ["Event", "Noted", "Failures", "Next try", "Last reason"],
            title=CONTROL_TITLE,
            anchor="control-events",
            empty="None: every deletion has been carried out.",
            rows=[("", _reaction_row(reaction)) for reaction in reactions],
        )
        return {
            "tables": [table, waiting],
            "summary": [*summary, *self._control_lines()],
        }

    def _control_lines(self) -> list[Cell]:
        store = runtime.get_store()
        counts, pending = count_reactions(store), count_pending(store)
        if not pending and not counts.waiting:
            return []
        lines = []
        if pending:
            text = f"{count_of(pending, 'deletion or the like')} not published yet."
            lines.append(Cell(text, _page("workeranchor"), "warn"))
        if counts.waiting:
            text = f"{counts.waiting} to be carried out, {counts.failing} of them fail."
            mood = "bad" if counts.failing else "warn"
            lines.append(Cell(text, "#control-events", mood))
        return lines


def _lag_row(lag: PartitionLag, group: str) -> list[Any]:
    waits = duration(lag.oldest_age_s) if lag.lag else ""
    behind = Cell(f"{lag.lag:,}", mood=lag_mood(lag))
    place = f"{lag.committed:,} of {lag.end:,}"
    return [lag.topic, group, lag.partition, behind, waits, place]


def _reaction_row(reaction: Reaction) -> list[Any]:
    try:
        event = json.loads(reaction.event)
        kind = str(event.get("type", "")).replace("_", " ")
    except (ValueError, AttributeError):
        kind = "unreadable"
    what = Cell(f"{kind} {reaction.key.decode(errors='replace')}", note="")
    left_s = (reaction.due_us - now_us()) / 1e6
    due = f"in {duration(left_s)}" if left_s > 0 else "now"
    mood = "bad" if reaction.attempts else ""
    failures = Cell(str(reaction.attempts), mood=mood)
    return [what, ago(reaction.noted_us), failures, due, reaction.reason]


@admin.register(DeadLetterAnchor)
class DeadLetterAdmin(StoreAdmin):
    """Dead letters."""

    heading = "Dead letters"
    intro = (
        "Records that could not be applied, kept with the reason: what is in them is "
        "not in the store. Put right what is wrong, then replay them. Nothing is lost "
        "until you discard it. Normal is that there are none."
    )
    actions_offered = (
        Action("replay", "Replay", "change", "They are given to the workers once more. "
               "Those that still cannot be applied come back here."),
        Action("discard", "Discard", "delete", "Their data is given up for good. They "
               "cannot be brought back."),
    )  # fmt: skip

    acts_on_all = frozenset({"replay"})

    @override
    def list_page(self, request: HttpRequest) -> Mapping[str, Any]:
        log = open_event_log()
        given = request.GET.get("after", "")
        offset = int(given) if given.isdecimal() else 0
        found = list(iter_dead_letters(log, limit=PAGE + 1, offset=offset))
        table = self.table(
            request,
            ["Record", "Run or entity", "Reason", "Since", "Size"],
            empty="No dead letters: everything that came could be applied.",
        )
        for letter in found[:PAGE]:
            link = Cell(_place(letter), self.url("detail", letter.origin))
            size = amount(len(letter.record.value))
            row = [link, _entity(letter), _reason(letter), ago(letter.time_us), size]
            table.rows.append((letter.origin, row))
        if len(found) > PAGE:
            following = str(found[PAGE].record.position.offset)
            table.next_url = self.url("changelist", after=following)
        count = count_dead_letters(log)
        summary = [Cell(f"{count:,} in all.", mood="bad")] if count else []
        return {"tables": [table], "summary": summary}

    @override
    def detail_page(self, request: HttpRequest, key: str) -> Mapping[str, Any]:
        letter = find_dead_letter(open_event_log(), key)
        if letter is None:
            raise NotFoundError(dead_letter=key)
        return {
            "heading": f"Dead letter {_place(letter)}",
            "facts": [
                ("Reason", Cell(letter.reason, mood="bad", note=letter.code)),
                ("Since", ago(letter.time_us)),
                ("Run or entity", _entity(letter)),
                ("Record", Cell(_place(letter), note=letter.origin)),
                ("Size", amount(len(letter.record.value))),
            ],
            "texts": [("What is in it", _decoded(letter)[:SHOWN_BYTES])],
        }

    @override
    def describe(self, keys: Sequence[str]) -> Mapping[str, str]:
        wanted = set(keys)
        return {
            letter.origin: f"{letter.record.key.decode(errors='replace')}: "
            f"{letter.reason[:200]}"
            for letter in iter_dead_letters(open_event_log())
            if letter.origin in wanted
        }

    @override
    def act(self, request: HttpRequest, action: Action, keys: list[str]) -> str:
        origins = None if keys == [ALL] else keys
        return self.start_job(request, f"{action.name}_dead_letters", origins=origins)


def _place(letter: DeadLetter) -> str:
    """Return where the record came from, short of what tells logs apart."""
    _, _, place = letter.origin.partition("/")
    return place or letter.origin


def _entity(letter: DeadLetter) -> Cell:
    key = letter.record.key.decode(errors="replace")
    is_run = letter.topic == INGESTION and key
    return Cell(key, _page("runanchor", key) if is_run else "")


def _reason(letter: DeadLetter) -> Cell:
    return Cell(letter.reason[:200], note=letter.code)


def _decoded(letter: DeadLetter) -> str:
    """Return a record's value in words, or its first bytes if it means nothing."""
    value = letter.record.value
    try:
        return json.dumps(json.loads(value), indent=2)
    except ValueError:
        pass
    for decode in (decode_batch, msgspec.msgpack.decode):
        try:
            return repr(decode(decode_envelope(value).batch))
        except (msgspec.MsgspecError, ValueError):
            continue
    return f"Not readable; its first bytes: {value[:400].hex(' ')}"


@admin.register(WorkerAnchor)
class WorkerAdmin(StoreAdmin):
    """Workers of this machine, or with shared tables of every one."""

    heading = "Workers"
    intro = (
        "What each worker last said. They speak every few seconds; one that has been "
        "silent for a minute hangs or is gone."
    )

    @override
    def list_page(self, request: HttpRequest) -> Mapping[str, Any]:
        reports = read_worker_reports()
        table = Table(
            ["Worker", "State", "Last heard", "Behind", "Done since start", "Reason"],
            empty="Workers make themselves known here within seconds of their start.",
            rows=[("", _worker_row(report)) for report in reports],
        )
        return {"tables": [table], "summary": [summarise(reports)]}


def _worker_row(report: WorkerReport) -> list[Any]:
    said = report.said
    process = f"process {said['pid']}" if "pid" in said else ""
    if report.host:
        process += f" on {report.host}"
    aside = int(said.get("dead_letters", 0))
    done = Cell(
        f"{said['applied']:,}" if "applied" in said else "",
        note=count_of(aside, "dead letter") if aside else "",
    )
    return [
        Cell(report.name, note=process, is_unbroken=True),
        report.state,
        ago(int(said.get("time_us", 0))),
        f"{said['lag']:,}" if "lag" in said else "",
        done,
        report.explanation,
    ]


@admin.register(StoreSizeAnchor)
class StoreSizeAdmin(StoreAdmin):
    """Bytes in the store."""

    heading = "Store sizes"
    intro = (
        "From the last measurement; the schedule makes one daily. Bytes of keys and "
        "values; what the engine takes beside them shows on the disk. Files are in the "
        "blob store and not counted here."
    )

    @override
    def list_page(self, request: HttpRequest) -> Mapping[str, Any]:
        done = MaintenanceRequest.objects.filter(job="measure_store", state="done")
        last = done.first()
        add = reverse("admin:backend_maintenancerequest_add")
        again = Cell("Measure again", f"{add}?job=measure_store")
        if last is None:
            return {"summary": [Cell("Not measured yet.", mood="warn"), again]}
        result: dict[str, Any] = last.result
        sizes = [
            (kind, size)
            for group in ("kinds", "shared")
            for kind, size in result[group].items()
        ]
        total = sum(size for _, size in sizes) or 1
        kinds = Table(["Kind", "Bytes", "Share"], title="By kind")
        for kind, size in sizes:
            share = f"{100 * size / total:.1f} %"
            kinds.rows.append(("", [kind, amount(size), share]))
        largest = Table(
            ["Run", "Bytes", "Most of it"],
            title="Largest runs measured",
            rows=[("", _size_row(run)) for run in result["largest"]],
        )
        how = "estimated from" if result["estimated"] else "measured in"
        disk, measured = amount(result["disk_bytes"]), result["measured_runs"]
        runs = count_of(result["runs"], "run")
        when = ago(moment_of(last.finished_at))
        summary = [
            Cell(f"{disk} on the disk, {runs}."),
            Cell(f"Sizes {how} {measured:,} of them, {when.text}.", note=when.note),
            again,
        ]
        return {"tables": [kinds, largest], "summary": summary}


def _size_row(run: Mapping[str, Any]) -> list[Any]:
    at_least = "" if run["complete"] else "at least "
    page = _page("runanchor", run["run_id"])
    kinds: dict[str, int] = run.get("kinds", {})
    most = max(kinds, key=lambda kind: kinds[kind], default="")
    size = at_least + amount(run["bytes"])
    return [Cell(run["name"], page, note=run["run_id"]), size, most]

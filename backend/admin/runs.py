"""Runs, experiments, tags and tombstones for operators.

Design note: docs/admin.md
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final
from urllib.parse import quote

from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import path, reverse
from django.utils.http import urlencode
from typing_extensions import override

from backend import runtime
from backend.admin.base import PAGE, UNKNOWN, StoreAdmin
from backend.admin.cells import (
    Action,
    Cell,
    Table,
    ago,
    amount,
    count_of,
    duration,
    moment,
    now_us,
)
from backend.admin.paging import Paged
from backend.domain.entities import Artifact, Experiment
from backend.domain.runs import Run
from backend.domain.series import Series
from backend.errors import QuerySyntaxError, RunNotFoundError
from backend.models import ExperimentAnchor, RunAnchor, TagAnchor, TombstoneAnchor
from backend.services import experiments, runs, tags, tombstones
from backend.services.search import search_runs
from backend.services.stale_runs import last_heard_us, received_at
from backend.services.store_sizes import measure_run
from backend.services.tombstones import Deleted
from backend.storage.engine.base import ReadTransaction
from backend.storage.query.parser import compile_query
from matyan_wire.batch import METRIC

RUN_PAGE: Final = "backend_runanchor"
MAX_SHOWN: Final = 10
"""Series and artifacts on a run's page; the others have a page of their own."""

MAX_STEPS: Final = 200
"""Batches of a search looked at for one page."""

MEASURED_ROWS: Final = 5_000
QUIET_US: Final = 3_600_000_000
"""An active run silent for so long has probably ended without saying so."""

PURGE_LATE_US: Final = 600_000_000
"""Clearing a deleted run's data takes seconds; after this somebody should look."""

FILTERS: Final = (
    ("all but archived", ""),
    ("active", "run.active"),
    ("finished", "not run.active"),
    ("archived", "run.archived"),
)


@admin.register(RunAnchor)
class RunAdmin(StoreAdmin):
    """Runs."""

    heading = "Runs"
    intro = (
        "Newest first, without those archived. An active run is being written, or "
        "ended without saying so: see when it last sent something."
    )
    actions_offered = (
        Action("finish", "Finish runs", "change", "They are marked finished now. Data "
               "that still comes is stored all the same.", "Finish this run"),
        Action("archive", "Archive runs", "change", "They vanish from default lists; "
               "nothing is lost, and they can be brought back.", "Archive this run"),
        Action("unarchive", "Bring back archived runs", "change", "They are in default "
               "lists again.", "Bring this run back"),
        Action("delete", "Delete runs", "delete", "They are gone from every page at "
               "once, their data and files soon after. They cannot be brought back; "
               "their ids take no data for some weeks.", "Delete this run"),
    )  # fmt: skip

    @override
    def more_urls(self) -> list[Any]:
        return [
            path(f"{part}/<path:key>/", self.page_of(view), name=f"{RUN_PAGE}_{part}")
            for part, view in (("series", self._series), ("artifacts", self._artifacts))
        ]

    @override
    def list_page(self, request: HttpRequest) -> Mapping[str, Any]:
        search = request.GET.get("q", "").strip()
        after = request.GET.get("after", "")
        error = ""
        found: list[Run] = []
        try:
            found = self._find(search, after)
        except QuerySyntaxError as problem:
            error = f"Not a query: {problem.fields.get('reason', problem.message)}"
        table = self.table(
            request,
            ["Run", "State", "Last sent something", "Created", "Lasts or lasted"],
            empty="No run is like that." if search else "No run has been logged yet.",
        )
        active = [run for run in found[:PAGE] if run.active]
        heard = received_at(runtime.get_store(), active)
        for run in found[:PAGE]:
            link = Cell(run.name, self.url("detail", run.run_id), note=run.run_id)
            lasts = duration(run.duration_us(now_us=now_us()) / 1e6)
            sent = _last_sent(heard.get(run.number, 0))
            row = [link, _state(run), sent, ago(run.created_us), lasts]
            table.rows.append((run.run_id, row))
        if len(found) > PAGE:
            last = found[PAGE - 1].run_id
            table.next_url = self.url("changelist", q=search, after=last)
        return {
            "tables": [table],
            "search": search,
            "search_error": error,
            "search_help": "A run's id, a part of a name, or a query such as "
            'run.active and run.experiment == "baseline".',
            "filters": [
                Cell(text, "" if query == search else self.url("changelist", q=query))
                for text, query in FILTERS
            ],
        }

    def _find(self, search: str, after: str) -> list[Run]:
        """Return the runs of a page and one more if there are more."""
        store = runtime.get_store()
        if search and not after:
            run = store.engine.read(lambda tr: store.runs.find_many(tr, [search]))
            if run:
                return list(run.values())
        is_query = "run." in search
        text = search if is_query else f"{search.lower()!r} in run.name.lower()"
        query = compile_query(
            text if search else "", names=frozenset({"run"}), tz_offset_min=0
        )
        steps = search_runs(
            store,
            query,
            offset_run_id=after,
            limit=PAGE + 1,
            with_attributes=False,
            series_kinds=(),
            now_us=now_us(),
        )
        return [m.run for step in islice(steps, MAX_STEPS) for m in step.matches]

    @override
    def detail_page(self, request: HttpRequest, key: str) -> Mapping[str, Any]:
        store = runtime.get_store()

        def read(tr: ReadTransaction) -> tuple[Any, ...]:
            run = store.runs.get(tr, key)
            link = run.experiment_id
            return (
                run,
                store.series.list(tr, run.number),
                store.artifacts.list_all(tr, run.number),
                store.attributes.get(tr, run.number),
                store.tags.get_many(tr, run.tag_ids),
                store.experiments.find(tr, link) if link else None,
                last_heard_us(tr, store, run) if run.active else 0,
            )

        run, series, artifacts, attributes, run_tags, experiment, heard_us = (
            store.engine.read(read)
        )
        size = measure_run(store, run.number, max_rows=MEASURED_ROWS)
        sizes = Table(
            ["Kind", "Bytes"],
            title="In the store" + ("" if size.complete else " (at least)"),
            rows=[("", [kind, amount(found)]) for kind, found in size.bytes.items()],
        )
        text = "\n".join(
            f"{name} = {value!r}"[:500] for name, value in attributes.items()
        )
        return {
            "heading": run.name,
            "facts": [
                *_state_facts(run, heard_us),
                ("Experiment", _runs_of(experiment) if experiment else "none"),
                ("Tags", ", ".join(tag.name for tag in run_tags) or "none"),
                ("In the store", amount(size.total)),
                *_rare_facts(run),
                ("To look at", Cell("In the web UI", f"/runs/{quote(run.run_id)}")),
            ],
            "left_out": _without_effect(run),
            "tables": [
                self._first_of(run, "series", series, _series_table),
                self._first_of(run, "artifacts", artifacts, _artifact_table),
                sizes,
            ],
            "texts": [("Attributes", text or "none")],
        }

    def _first_of(
        self, run: Run, part: str, found: Sequence[Any], make: Callable[..., Table]
    ) -> Table:
        table = make(found[:MAX_SHOWN], title=_title(part.capitalize(), found))
        if found:
            text = f"Search all {len(found):,} {part}"
            table.more = Cell(text, self.url(part, run.run_id))
        return table

    def _series(self, request: HttpRequest, key: str) -> HttpResponse:
        store = runtime.get_store()

        def read(tr: ReadTransaction) -> tuple[Run, list[Series]]:
            run = store.runs.get(tr, key)
            return run, store.series.list(tr, run.number)

        run, series = store.engine.read(read)
        page = Paged(
            request,
            [(str(s.number), f"{s.kind} {s.name} {s.context_text}", s) for s in series],
        )
        return self._part(request, run, "series", page, _series_table(page.items))

    def _artifacts(self, request: HttpRequest, key: str) -> HttpResponse:
        store = runtime.get_store()

        def read(tr: ReadTransaction) -> tuple[Run, list[Artifact]]:
            run = store.runs.get(tr, key)
            return run, store.artifacts.list_all(tr, run.number)

        run, artifacts = store.engine.read(read)
        page = Paged(request, [(a.path, a.path, a) for a in artifacts])
        return self._part(request, run, "artifacts", page, _artifact_table(page.items))

    def _part(
        self, request: HttpRequest, run: Run, part: str, page: Paged, table: Table
    ) -> HttpResponse:
        if page.after:
            table.next_url = self.url(part, run.run_id, q=page.search, after=page.after)
        context = {
            "heading": part.capitalize(),
            "parent": Cell(run.name, self.url("detail", run.run_id)),
            "search": page.search,
            "search_help": "A part of a name, a context or a path.",
            "summary": [Cell(f"{page.matching:,} of {page.total:,} {part}.")],
            "tables": [table],
        }
        return self.render(request, "list", context)

    @override
    def describe(self, keys: Sequence[str]) -> Mapping[str, str]:
        store = runtime.get_store()
        found = store.engine.read(lambda tr: store.runs.find_many(tr, keys))
        return {
            key: f"{found[key].name} ({_state(found[key]).text}, created "
            f"{moment(found[key].created_us)})"
            if key in found
            else UNKNOWN
            for key in keys
        }

    @override
    def act(self, request: HttpRequest, action: Action, keys: list[str]) -> str:
        store = runtime.get_store()
        if action.name == "delete":
            return self.start_job(request, "delete_runs", run_ids=keys)
        if action.name == "finish":
            done = runs.finish_runs(store, run_ids=keys, now_us=now_us())
        else:
            archived = action.name == "archive"
            done = runs.archive_runs(
                store, run_ids=keys, archived=archived, now_us=now_us()
            )
        self.message_user(request, f"{action.label}: {done} of {len(keys)}.")
        return ""


@admin.register(ExperimentAnchor)
class ExperimentAdmin(StoreAdmin):
    """Experiments."""

    heading = "Experiments"
    intro = "Newest first. A name leads to the experiment's runs."
    actions_offered = (
        Action("delete", "Delete experiments", "delete", "Their runs stay and belong "
               "to no experiment; their notes go."),
    )  # fmt: skip

    @override
    def list_page(self, request: HttpRequest) -> Mapping[str, Any]:
        listed = experiments.list_experiments(runtime.get_store())
        page = Paged(request, [(e.experiment_id, e.name, (e, n)) for e, n in listed])
        table = self.table(
            request, ["Experiment", "Runs", "Created"], empty=page.nothing
        )
        for one, count in page.items:
            row = [_runs_of(one), f"{count:,}", ago(one.created_us)]
            table.rows.append((one.experiment_id, row))
        return page.context(self, table)

    @override
    def describe(self, keys: Sequence[str]) -> Mapping[str, str]:
        listed = experiments.list_experiments(runtime.get_store())
        return {e.experiment_id: f"{e.name} ({count_of(n, 'run')})" for e, n in listed}

    @override
    def act(self, request: HttpRequest, action: Action, keys: list[str]) -> str:
        return [
            self.start_job(request, "delete_experiment", experiment_id=key)
            for key in keys
        ][-1]


@admin.register(TagAnchor)
class TagAdmin(StoreAdmin):
    """Tags."""

    heading = "Tags"
    intro = "By name. A name leads to the runs with the tag."
    actions_offered = (
        Action("delete", "Delete tags", "delete", "They are taken off their runs, "
               "which stay."),
    )  # fmt: skip

    @override
    def list_page(self, request: HttpRequest) -> Mapping[str, Any]:
        listed = tags.list_tags(runtime.get_store())
        page = Paged(request, [(t.tag_id, t.name, (t, n)) for t, n in listed])
        table = self.table(
            request, ["Tag", "Runs", "Created", "Description"], empty=page.nothing
        )
        for tag, count in page.items:
            link = Cell(tag.name, _search_url(f"{tag.name!r} in run.tags"))
            row = [link, f"{count:,}", ago(tag.created_us), tag.description[:200]]
            table.rows.append((tag.tag_id, row))
        return page.context(self, table)

    @override
    def describe(self, keys: Sequence[str]) -> Mapping[str, str]:
        listed = tags.list_tags(runtime.get_store())
        return {t.tag_id: f"{t.name} ({count_of(n, 'run')})" for t, n in listed}

    @override
    def act(self, request: HttpRequest, action: Action, keys: list[str]) -> str:
        return [self.start_job(request, "delete_tag", tag_id=key) for key in keys][-1]


@admin.register(TombstoneAnchor)
class TombstoneAdmin(StoreAdmin):
    """Tombstones."""

    heading = "Tombstones"
    intro = (
        "Deleted runs whose ids take no data, so that what still arrives for them does "
        "not bring them back. Their data is cleared by the control worker, their files "
        "by the task worker, both within seconds."
    )
    actions_offered = (
        Action("clear", "Clear tombstones", "delete", "Their ids can be used again: "
               "data that still arrives for them makes new runs. The deleted runs do "
               "not come back."),
    )  # fmt: skip

    @override
    def list_page(self, request: HttpRequest) -> Mapping[str, Any]:
        after = request.GET.get("after", "")
        found = tombstones.page_deleted(
            runtime.get_store(), after=after, limit=PAGE + 1
        )
        table = self.table(
            request,
            ["Run", "Deleted", "Its data", "Its id is free"],
            empty="No tombstones: no run has been deleted lately.",
        )
        for one in found[:PAGE]:
            name = Cell(one.run.name, note=one.run.run_id)
            row = [name, ago(one.deleted_us), _data_of(one), _free_in(one)]
            table.rows.append((one.run.run_id, row))
        if len(found) > PAGE:
            last = found[PAGE - 1].run.run_id
            table.next_url = self.url("changelist", after=last)
        return {"tables": [table]}

    @override
    def describe(self, keys: Sequence[str]) -> Mapping[str, str]:
        found = [tombstones.find_deleted(runtime.get_store(), key) for key in keys]
        return {
            one.run.run_id: f"{one.run.name}, deleted {moment(one.deleted_us)}"
            for one in found
            if one is not None
        }

    @override
    def act(self, request: HttpRequest, action: Action, keys: list[str]) -> str:
        store = runtime.get_store()
        gone = [key for key in keys if tombstones.find_deleted(store, key) is None]
        if gone:
            raise RunNotFoundError(run_id=gone[0])
        for key in keys:
            runs.clear_tombstone(store, run_id=key)
        self.message_user(request, f"{count_of(len(keys), 'tombstone')} cleared.")
        return ""


def _state(run: Run) -> Cell:
    state = "active" if run.active else "finished"
    text = f"archived, {state}" if run.archived else state
    return Cell(text, mood="good" if run.active and not run.archived else "")


def _state_facts(run: Run, heard_us: int) -> list[tuple[str, Any]]:
    """Return how a run is; of an active one also when it last sent something."""
    facts: list[tuple[str, Any]] = [("Id", run.run_id), ("State", _state(run))]
    if run.active:
        facts.append(("Last sent something", _last_sent(heard_us)))
    facts.append(("Created", ago(run.created_us)))
    if run.finished_us:
        facts.append(("Finished", ago(run.finished_us)))
    lasts = duration(run.duration_us(now_us=now_us()) / 1e6)
    facts.append(("Lasts so far" if run.active else "Lasted", lasts))
    return facts


def _last_sent(heard_us: int) -> Cell:
    return ago(heard_us, mood="warn" if now_us() - heard_us > QUIET_US else "")


def _rare_facts(run: Run) -> list[tuple[str, Any]]:
    """Return what is worth a line only where it is not as usual."""
    facts: list[tuple[str, Any]] = []
    if run.clock_offset_us:
        facts.append(
            ("Writer's clock is off by", f"{run.clock_offset_us / 1e6:+.1f} s")
        )
    if run.resumed_count:
        facts.append(("Opened again", count_of(run.resumed_count, "time")))
    return facts


def _without_effect(run: Run) -> set[str]:
    """Return the actions that would change nothing about a run."""
    found = {"unarchive"} if not run.archived else {"archive"}
    return found if run.active else found | {"finish"}


def _data_of(one: Deleted) -> Cell:
    if not one.purging:
        return Cell("gone")
    if now_us() - one.deleted_us < PURGE_LATE_US:
        return Cell("being cleared", mood="warn")
    url = reverse("admin:backend_workeranchor_changelist")
    return Cell("not cleared yet: is the control worker at work?", url, "bad")


def _free_in(one: Deleted) -> str:
    hours = settings.MATYAN_TOMBSTONE_HOURS
    if not hours:
        return "never by itself"
    left_s = hours * 3600 - (now_us() - one.deleted_us) / 1e6
    return f"in {duration(left_s)}" if left_s > 0 else "with the next daily job"


def _search_url(query: str) -> str:
    page = reverse("admin:backend_runanchor_changelist")
    return f"{page}?{urlencode({'q': query})}"


def _runs_of(experiment: Experiment) -> Cell:
    return Cell(experiment.name, _search_url(f"run.experiment == {experiment.name!r}"))


def _title(what: str, found: Sequence[Any]) -> str:
    if len(found) <= MAX_SHOWN:
        return f"{what} ({len(found):,})"
    return f"{what} (the first {MAX_SHOWN} of {len(found):,})"


def _series_table(series: Iterable[Series], *, title: str = "") -> Table:
    return Table(
        ["Kind", "Name", "Context", "Points", "Steps", "Last value"],
        title=title,
        empty="None.",
        rows=[("", _series_row(one)) for one in series],
    )


def _series_row(one: Series) -> list[Any]:
    context = "" if one.context_text == "{}" else one.context_text
    found = one.summary
    if found is None:
        return [one.kind, one.name, context, "0", "", ""]
    steps = f"{found.first_step:,} to {found.last_step:,}"
    last = f"{found.last:.6g}" if one.kind == METRIC else ""
    not_finite = found.nan_count + found.inf_count
    note = f"{not_finite:,} not finite" if not_finite and last else ""
    return [
        one.kind,
        one.name,
        context,
        Cell(f"{found.count:,}", note=note),
        steps,
        last,
    ]


def _artifact_table(artifacts: Iterable[Artifact], *, title: str = "") -> Table:
    return Table(
        ["Path", "Type", "Logged"],
        title=title,
        empty="None.",
        rows=[("", [a.path, a.content_type, ago(a.created_us)]) for a in artifacts],
    )

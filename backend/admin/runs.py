"""Runs, experiments, tags and tombstones for operators.

Design note: docs/admin.md
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

from django.contrib import admin
from django.http import HttpRequest
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
from backend.domain.runs import Run
from backend.errors import QuerySyntaxError, RunNotFoundError
from backend.models import ExperimentAnchor, RunAnchor, TagAnchor, TombstoneAnchor
from backend.services import experiments, runs, tags, tombstones
from backend.services.search import search_runs
from backend.services.store_sizes import measure_run
from backend.storage.engine.base import ReadTransaction
from backend.storage.query.parser import compile_query

MAX_SERIES: Final = 200
MAX_STEPS: Final = 200
"""Batches of a search looked at for one page."""

MEASURED_ROWS: Final = 5_000


@admin.register(RunAnchor)
class RunAdmin(StoreAdmin):
    """Runs."""

    heading = "Runs"
    intro = "Newest first. An active run is being written, or ended without saying so."
    actions_offered = (
        Action("finish", "Finish runs", "change", "They are marked finished now. Data "
               "that still comes is stored all the same."),
        Action("archive", "Archive runs", "change", "They vanish from default lists; "
               "nothing is lost."),
        Action("delete", "Delete runs", "delete", "They are gone from every page at "
               "once, their data and files soon after. They cannot be brought back; "
               "their ids take no data for some weeks."),
    )  # fmt: skip

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
            request, ["Name", "Id", "State", "Created (UTC)", "Ended or lasts"]
        )
        for run in found[:PAGE]:
            link = Cell(run.name, self.url("detail", run.run_id))
            lasts = duration(run.duration_us(now_us=now_us()) / 1e6)
            row = [link, run.run_id, _state(run), moment(run.created_us), lasts]
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
            )

        run, series, artifacts, attributes, run_tags, experiment = store.engine.read(
            read
        )
        size = measure_run(store, run.number, max_rows=MEASURED_ROWS)
        shown = Table(
            ["Kind", "Name", "Context", "Points", "Last step"],
            title=f"Series ({len(series):,}, at most {MAX_SERIES} shown)",
            rows=[
                ("", [s.kind, s.name, s.context_text, f"{s.summary.count:,}"
                      if s.summary else "0", s.summary.last_step if s.summary else ""])
                for s in series[:MAX_SERIES]
            ],
        )  # fmt: skip
        files = Table(
            ["Path", "Type", "Logged (UTC)"],
            title=f"Artifacts ({len(artifacts):,})",
            rows=[
                ("", [a.path, a.content_type, moment(a.created_us)])
                for a in artifacts[:MAX_SERIES]
            ],
        )
        sizes = Table(
            ["Kind", "Bytes"],
            title="In the store" + ("" if size.complete else " (at least)"),
            rows=[("", [kind, amount(found)]) for kind, found in size.bytes.items()],
        )
        facts = [
            ("Id", run.run_id),
            ("State", _state(run)),
            ("Created (UTC)", moment(run.created_us)),
            ("Finished (UTC)", moment(run.finished_us)),
            ("Experiment", experiment.name if experiment else ""),
            ("Tags", ", ".join(tag.name for tag in run_tags)),
            ("Writer's clock is off by", f"{run.clock_offset_us / 1e6:.1f} s"),
        ]
        text = "\n".join(
            f"{name} = {value!r}"[:500] for name, value in attributes.items()
        )
        return {
            "heading": run.name,
            "facts": facts,
            "tables": [shown, files, sizes],
            "texts": [("Attributes", text or "none")],
        }

    @override
    def act(self, request: HttpRequest, action: Action, keys: list[str]) -> str:
        store = runtime.get_store()
        if action.name == "delete":
            return self.start_job(request, "delete_runs", run_ids=keys)
        if action.name == "finish":
            done = runs.finish_runs(store, run_ids=keys, now_us=now_us())
        else:
            done = runs.archive_runs(
                store, run_ids=keys, archived=True, now_us=now_us()
            )
        self.message_user(request, f"{done} of {len(keys)} runs.")
        return ""


@admin.register(ExperimentAnchor)
class ExperimentAdmin(StoreAdmin):
    """Experiments."""

    heading = "Experiments"
    actions_offered = (
        Action("delete", "Delete experiments", "delete", "Their runs stay and belong "
               "to no experiment; their notes go."),
    )  # fmt: skip

    @override
    def list_page(self, request: HttpRequest) -> Mapping[str, Any]:
        table = self.table(request, ["Name", "Runs", "Created (UTC)", "Id"])
        for one, count in experiments.list_experiments(runtime.get_store()):
            row = [one.name, f"{count:,}", moment(one.created_us), one.experiment_id]
            table.rows.append((one.experiment_id, row))
        return {"tables": [table]}

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
    actions_offered = (
        Action("delete", "Delete tags", "delete", "They are taken off their runs, "
               "which stay."),
    )  # fmt: skip

    @override
    def list_page(self, request: HttpRequest) -> Mapping[str, Any]:
        table = self.table(request, ["Name", "Runs", "Description", "Id"])
        for tag, count in tags.list_tags(runtime.get_store()):
            row = [tag.name, f"{count:,}", tag.description[:200], tag.tag_id]
            table.rows.append((tag.tag_id, row))
        return {"tables": [table]}

    @override
    def act(self, request: HttpRequest, action: Action, keys: list[str]) -> str:
        return [self.start_job(request, "delete_tag", tag_id=key) for key in keys][-1]


@admin.register(TombstoneAnchor)
class TombstoneAdmin(StoreAdmin):
    """Tombstones."""

    heading = "Tombstones"
    intro = (
        "Deleted runs whose ids take no data. Data that is still there is cleared by "
        "the control worker, a little at a time."
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
        table = self.table(request, ["Run", "Name", "Deleted (UTC)", "Data"])
        for one in found[:PAGE]:
            data = Cell("being cleared", mood="warn") if one.purging else "gone"
            row = [one.run.run_id, one.run.name, moment(one.deleted_us), data]
            table.rows.append((one.run.run_id, row))
        if len(found) > PAGE:
            last = found[PAGE - 1].run.run_id
            table.next_url = self.url("changelist", after=last)
        return {"tables": [table]}

    @override
    def act(self, request: HttpRequest, action: Action, keys: list[str]) -> str:
        for key in keys:
            if tombstones.find_deleted(runtime.get_store(), key) is None:
                raise RunNotFoundError(run_id=key)
            runs.clear_tombstone(runtime.get_store(), run_id=key)
        self.message_user(request, f"{len(keys)} cleared.")
        return ""


def _state(run: Run) -> Cell:
    if run.archived:
        return Cell("archived", mood="warn")
    return Cell("active", mood="good") if run.active else Cell("finished")

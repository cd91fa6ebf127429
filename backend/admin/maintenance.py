"""Maintenance jobs and the audit log for operators.

Design note: docs/admin.md
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.views.decorators.http import require_POST
from typing_extensions import override

from backend.admin.base import ALL
from backend.admin.cells import Cell, Table, ago, duration, moment_of, time_html
from backend.domain.job_reports import describe_report
from backend.domain.jobs import JOBS
from backend.maintenance import cancel_request, request_job
from backend.models import MaintenanceRequest

if TYPE_CHECKING:
    _RequestAdmin = admin.ModelAdmin[MaintenanceRequest]
    _LogAdmin = admin.ModelAdmin[LogEntry]
else:  # generic in their type stubs alone
    _RequestAdmin = _LogAdmin = admin.ModelAdmin


ASK = "admin/backend/maintenancerequest/ask.html"
WATCH = "admin/backend/maintenancerequest/watch.html"

State = MaintenanceRequest.State

_MOODS: Final = {
    State.DONE.value: "good",
    State.FAILED.value: "bad",
    State.QUEUED.value: "warn",
    State.RUNNING.value: "warn",
}
LATE_S: Final = 60.0
SHOWN_FIGURES: Final = 3
"""Of a job's report in the list of jobs."""


class JobForm(forms.Form):
    """What is asked for a job."""

    job = forms.ChoiceField(
        choices=[
            (job.name.value, format_html("<b>{}</b> {}", job.title, job.what))
            for job in JOBS.values()
            if job.asked_for
        ],
        widget=forms.RadioSelect,
    )
    hours = forms.FloatField(
        required=False,
        min_value=0,
        help_text="For what goes by age (stale runs, tombstones, orphan files); "
        "empty: as in the settings.",
    )
    max_runs = forms.IntegerField(
        required=False, min_value=1, help_text="For measuring the store: at most."
    )
    dry_run = forms.BooleanField(
        required=False, help_text="Only count what would be done."
    )
    confirmed = forms.BooleanField(
        label="I have read what the job does", help_text="It starts at once."
    )

    def arguments(self) -> dict[str, Any]:
        """Return what the chosen job takes of what was given."""
        job = JOBS[self.cleaned_data["job"]]
        given = {p.name: self.cleaned_data.get(p.name) for p in job.parameters}
        taken = {name: value for name, value in given.items() if value is not None}
        if job.dry_run and self.cleaned_data["dry_run"]:
            taken["dry_run"] = True
        return taken


@admin.register(MaintenanceRequest)
class MaintenanceRequestAdmin(_RequestAdmin):
    """Jobs: asked for, watched, cancelled; never changed."""

    list_display = ("__str__", "how", "progress", "asked", "took", "what_happened")
    search_fields = ("job", "requester", "error")
    ordering = ("-pk",)
    sortable_by: ClassVar = ()
    change_list_template = "admin/backend/maintenancerequest/list.html"

    @admin.display(description="State")
    def how(self, request: MaintenanceRequest) -> str:
        """Return its state; red is what failed."""
        mood = _MOODS.get(request.state, "")
        return format_html('<span class="mood-{}">{}</span>', mood, request.state)

    @admin.display(description="Progress")
    def progress(self, request: MaintenanceRequest) -> str:
        """Return how far it is."""
        percent = "" if request.percent is None else f"{request.percent} %"
        if request.is_over or not request.done_units:
            return percent
        total = f"{request.total_units:,}" if request.total_units else "?"
        return f"{percent} ({request.done_units:,} of {total})"

    @admin.display(description="Asked for")
    def asked(self, request: MaintenanceRequest) -> str:
        """Return by whom, and how long ago."""
        return time_html(
            request.requested_at, by=f"by {request.requester or 'nobody known'}"
        )

    @admin.display(description="Took")
    def took(self, request: MaintenanceRequest) -> str:
        """Return how long it has been at work."""
        if request.started_at is None:
            return ""
        end = request.finished_at or timezone.now()
        return duration((end - request.started_at).total_seconds())

    @admin.display(description="What happened")
    def what_happened(self, request: MaintenanceRequest) -> str:
        """Return the error, what it is doing, or its report in short."""
        if request.error:
            return request.error[:200]
        return request.note if not request.is_over else _report_text(request)[:200]

    @override
    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @override
    def get_urls(self) -> Any:
        cancel = self.admin_site.admin_view(self.cancel)
        name = "backend_maintenancerequest_cancel"
        return [path("<int:pk>/cancel/", cancel, name=name), *super().get_urls()]

    @override
    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """Ask for a job; the form is the confirmation."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        initial = {"job": request.GET.get("job", "")}
        form = JobForm(request.POST or None, initial=initial)
        if request.method == "POST" and form.is_valid():
            asked = request_job(
                form.cleaned_data["job"], arguments=form.arguments(), user=request.user
            )
            self.log_addition(request, asked, f"Asked for. {_words(asked.arguments)}")
            return HttpResponseRedirect(self._page_of(asked.pk))
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "Ask for a job",
            "form": form,
        }
        return TemplateResponse(request, ASK, context)

    @override
    def changelist_view(
        self, request: HttpRequest, extra_context: Any = None
    ) -> HttpResponse:
        """Show all jobs."""
        states = [
            Cell(state, f"?state__exact={state}")
            if request.GET.get("state__exact") != state
            else Cell(state)
            for state in State.values
        ]
        shown = {"title": "Jobs", "states": states}
        return super().changelist_view(request, shown)

    @override
    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: Any = None,
    ) -> HttpResponse:
        """Show a job and how far it is; nothing can be changed here."""
        if request.method == "POST":
            raise PermissionDenied
        asked = self.get_object(request, unquote(object_id))
        if not self.has_view_permission(request, asked):
            raise PermissionDenied
        if asked is None:
            raise Http404
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": str(asked),
            "list_heading": "Jobs",
            "list_url": reverse("admin:backend_maintenancerequest_changelist"),
            "job": asked,
            "may_cancel": self.has_change_permission(request),
            "lead": _lead(asked),
            "facts": self._facts(asked),
            "tables": [_report_table(asked)],
        }
        return TemplateResponse(request, WATCH, context)

    def _facts(self, asked: MaintenanceRequest) -> list[tuple[str, Any]]:
        spec = JOBS.get(asked.job)
        facts = [
            ("State", Cell(asked.state, mood=_MOODS.get(asked.state, ""))),
            ("Error", Cell(asked.error, mood="bad") if asked.error else ""),
            ("Progress", Cell(self.progress(asked), note=asked.note)),
            ("What it does", spec.what if spec else asked.job),
            ("Asked to", _words(asked.arguments)),
            ("Asked by", asked.requester),
            ("Asked for", ago(moment_of(asked.requested_at))),
            ("Begun", ago(moment_of(asked.started_at))),
            ("Ended", ago(moment_of(asked.finished_at))),
            ("Took" if asked.is_over else "At work for", self.took(asked)),
            ("Attempts that failed", asked.attempts or ""),
        ]
        if not asked.is_over:
            facts.append(("Its worker last spoke", ago(moment_of(asked.heard_at))))
        return [(name, fact) for name, fact in facts if fact not in {"", Cell("")}]

    @method_decorator(require_POST)
    def cancel(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Have a job end at its next step."""
        if not self.has_change_permission(request):
            raise PermissionDenied
        if cancel_request(pk):
            row = MaintenanceRequest.objects.get(pk=pk)
            self.log_change(request, row, "Cancelled.")
            messages.info(request, "It ends at its next step; what is done stays done.")
        else:
            messages.warning(request, "It was over already.")
        return HttpResponseRedirect(self._page_of(pk))

    def _page_of(self, pk: int) -> str:
        return reverse("admin:backend_maintenancerequest_change", args=[pk])


def _lead(asked: MaintenanceRequest) -> Cell:
    """Return what whoever looks has to know first."""
    if asked.state == State.FAILED:
        text = "It failed and is not tried again. What it had done stays done. Put "
        text += "right what the error names, then ask for it anew."
        return Cell(text, mood="bad")
    if asked.state == State.QUEUED and asked.due_at > timezone.now():
        left = duration((asked.due_at - timezone.now()).total_seconds())
        return Cell(f"It is tried again in {left}.", mood="warn")
    waited_s = (timezone.now() - asked.due_at).total_seconds()
    if asked.state == State.QUEUED and waited_s > LATE_S:
        text = "It waits for a task worker. Is one at work?"
        return Cell(text, reverse("admin:backend_workeranchor_changelist"), "bad")
    if asked.state == State.QUEUED:
        return Cell("It waits for a task worker, usually a second or two.", mood="warn")
    return Cell("")


def _report_table(asked: MaintenanceRequest) -> Table:
    """Return what a job found and did, a line each."""
    if asked.state != State.DONE:
        return Table([], empty="")
    title = "Report"
    if asked.arguments.get("dry_run"):
        title = "Report: only counted, nothing was changed"
    lines = describe_report(asked.result)
    return Table(["What", "How much"], title=title, rows=[("", [*x]) for x in lines])


def _report_text(asked: MaintenanceRequest) -> str:
    lines = describe_report(asked.result)
    told = ", ".join(f"{name} {text}" for name, text in lines[:SHOWN_FIGURES])
    told += ", …" if len(lines) > SHOWN_FIGURES else ""
    return f"only counted: {told}" if asked.arguments.get("dry_run") else told


def _words(arguments: dict[str, Any]) -> str:
    return "; ".join(
        f"{name.replace('_', ' ')}: {_argument(value)}"
        for name, value in arguments.items()
    )


def _argument(value: Any) -> str:
    if value is None:
        return "all"
    if isinstance(value, list):
        more = f" and {len(value) - 10:,} more" if len(value) > 10 else ""
        return ", ".join(str(item) for item in value[:10]) + more
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)[:500]


@admin.register(LogEntry)
class AuditAdmin(_LogAdmin):
    """Who did what to what, in the admin; nobody changes it."""

    list_display = ("when", "user", "what", "on_what")
    sortable_by: ClassVar = ()
    list_display_links = None
    change_list_template = "admin/backend/audit.html"
    search_fields = ("object_repr", "object_id", "change_message", "user__username")
    date_hierarchy = "action_time"

    @override
    def changelist_view(
        self, request: HttpRequest, extra_context: Any = None
    ) -> HttpResponse:
        """Show who did what, newest first."""
        return super().changelist_view(request, {"title": "Audit log"})

    @admin.display(description="When")
    def when(self, entry: LogEntry) -> str:
        """Return how long ago, and the moment."""
        return time_html(entry.action_time)

    @admin.display(description="What")
    def what(self, entry: LogEntry) -> str:
        """Return what was done."""
        return entry.get_change_message()

    @admin.display(description="To what")
    def on_what(self, entry: LogEntry) -> str:
        """Return what it was done to, what that is, and its key if it says more."""
        kind = entry.content_type.name if entry.content_type else ""
        key = entry.object_id or ""
        # Numbers of rows say nothing to people.
        says_more = not key.isdecimal() and key not in {ALL, entry.object_repr}
        more = f" {key}" if says_more and f"({key})" not in entry.object_repr else ""
        return format_html(
            '{}<small class="store-note">{}{}</small>', entry.object_repr, kind, more
        )

    @override
    def get_queryset(self, request: HttpRequest) -> QuerySet[LogEntry]:
        return super().get_queryset(request).select_related("user", "content_type")

    @override
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    @override
    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @override
    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

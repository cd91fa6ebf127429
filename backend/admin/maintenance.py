"""Maintenance jobs and the audit log for operators.

Design note: docs/admin.md
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.models import LogEntry
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.decorators import method_decorator
from django.views.decorators.http import require_POST
from typing_extensions import override

from backend.domain.jobs import JOBS
from backend.maintenance import cancel_request, request_job
from backend.models import MaintenanceRequest

if TYPE_CHECKING:
    _RequestAdmin = admin.ModelAdmin[MaintenanceRequest]
    _LogAdmin = admin.ModelAdmin[LogEntry]
else:  # generic in their type stubs alone
    _RequestAdmin = _LogAdmin = admin.ModelAdmin


ASK = "admin/backend/maintenancerequest/ask.html"


class JobForm(forms.Form):
    """What is asked for a job."""

    job = forms.ChoiceField(
        choices=[
            (job.name.value, f"{job.title}: {job.what}")
            for job in JOBS.values()
            if job.asked_for
        ],
        widget=forms.RadioSelect,
    )
    hours = forms.FloatField(
        required=False,
        min_value=0,
        help_text="For jobs that go by age; empty: as in the settings.",
    )
    max_runs = forms.IntegerField(
        required=False, min_value=1, help_text="For measuring the store."
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

    list_display = ("__str__", "state", "progress", "requester", "requested_at")
    list_filter = ("state", "job")
    change_form_template = "admin/backend/maintenancerequest/watch.html"
    readonly_fields: ClassVar = (
        "job", "state", "progress", "note", "requester", "requested_at", "started_at",
        "heard_at", "finished_at", "attempts", "error", "asked_with", "outcome",
    )  # fmt: skip
    fields = readonly_fields

    @admin.display(description="Progress")
    def progress(self, request: MaintenanceRequest) -> str:
        """Return how far it is."""
        percent = "" if request.percent is None else f"{request.percent} %"
        if request.is_over or not request.done_units:
            return percent
        return f"{percent} ({request.done_units:,} of {request.total_units or '?'})"

    @admin.display(description="Arguments")
    def asked_with(self, request: MaintenanceRequest) -> str:
        """Return the arguments."""
        return json.dumps(request.arguments)[:2_000]

    @admin.display(description="Result")
    def outcome(self, request: MaintenanceRequest) -> str:
        """Return the report."""
        return json.dumps(request.result, indent=1)[:10_000]

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
            self.log_addition(request, asked, f"Asked for with {asked.arguments}.")
            return HttpResponseRedirect(self._page_of(asked.pk))
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "Ask for a job",
            "form": form,
        }
        return TemplateResponse(request, ASK, context)

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
        return super().change_view(
            request, object_id, form_url, {"title": "Job", "show_save": False}
        )

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


@admin.register(LogEntry)
class AuditAdmin(_LogAdmin):
    """Who did what to what, in the admin; nobody changes it."""

    list_display = ("action_time", "user", "content_type", "object_repr", "what")
    list_filter = ("content_type",)
    search_fields = ("object_repr", "change_message", "user__username")
    date_hierarchy = "action_time"

    @admin.display(description="What")
    def what(self, entry: LogEntry) -> str:
        """Return what was done."""
        return entry.get_change_message()

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

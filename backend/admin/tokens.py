"""API tokens in the admin: made here and shown once, listed, revoked.

A token is never changed and never deleted: what it was and whose stays on record. Who
made or revoked one is in the admin's own log.

Design note: docs/subsystems/access.md#tokens
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.cache import add_never_cache_headers
from django.utils.html import format_html
from typing_extensions import override

from backend.access import tokens
from backend.admin.cells import duration, time_html
from backend.domain.access import Scope
from backend.models import ApiToken

if TYPE_CHECKING:
    _ModelForm = forms.ModelForm[ApiToken]
    _ModelAdmin = admin.ModelAdmin[ApiToken]
else:  # generic in their type stubs alone
    _ModelForm = forms.ModelForm
    _ModelAdmin = admin.ModelAdmin


class TokenForm(_ModelForm):
    """What is asked for a new token."""

    class Meta:
        """The fields of the form."""

        model = ApiToken
        fields: ClassVar = ["name", "scope", "expires_at"]
        help_texts: ClassVar = {"expires_at": "UTC. Empty: it does not expire."}

    def clean_expires_at(self) -> datetime | None:
        """Refuse moments that are over."""
        moment: datetime | None = self.cleaned_data["expires_at"]
        if moment is not None and moment <= timezone.now():
            msg = "This is in the past."
            raise forms.ValidationError(msg)
        return moment


@admin.register(ApiToken)
class ApiTokenAdmin(_ModelAdmin):
    """Tokens; nothing of their secrets."""

    form = TokenForm
    list_display = ("name", "token_id", "scope", "how", "made", "ends", "used")
    sortable_by: ClassVar = ()
    list_select_related = ("created_by",)
    search_fields = ("name", "token_id", "scope")
    change_list_template = "admin/backend/apitoken/list.html"
    actions = ("revoke",)
    shown_fields: ClassVar = (
        "name", "token_id", "scope", "state", "created_by", "created_at", "expires_at",
        "last_used_at", "revoked_at",
    )  # fmt: skip

    @admin.display(description="State")
    def how(self, token: ApiToken) -> str:
        """Return its state."""
        mood = "good" if token.state == "usable" else ""
        return format_html('<span class="mood-{}">{}</span>', mood, token.state)

    @admin.display(description="Made")
    def made(self, token: ApiToken) -> str:
        """Return how long ago, and by whom."""
        by = f"by {token.created_by}" if token.created_by else ""
        return time_html(token.created_at, by=by)

    @admin.display(description="Expires")
    def ends(self, token: ApiToken) -> str:
        """Return when it ends by itself."""
        if token.expires_at is None:
            return "never"
        left_s = (token.expires_at - timezone.now()).total_seconds()
        return f"in {duration(left_s)}" if left_s > 0 else time_html(token.expires_at)

    @admin.display(description="Last used")
    def used(self, token: ApiToken) -> str:
        """Return how long ago it was used last."""
        if token.last_used_at is None:
            return "never"
        return time_html(token.last_used_at)

    @override
    def changelist_view(
        self, request: HttpRequest, extra_context: Any = None
    ) -> HttpResponse:
        """Show all tokens."""
        return super().changelist_view(request, {"title": "API tokens"})

    @override
    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """Ask for what a token is made of; there is one page after it."""
        buttons = {
            "show_save_and_add_another": False,
            "show_save_and_continue": False,
        }
        return super().add_view(request, form_url, buttons)

    @override
    def get_fields(self, request: HttpRequest, obj: ApiToken | None = None) -> Any:
        if obj is None:
            return TokenForm.Meta.fields
        return self.shown_fields

    @override
    def get_readonly_fields(
        self, request: HttpRequest, obj: ApiToken | None = None
    ) -> Any:
        return () if obj is None else self.shown_fields

    @override
    def has_change_permission(
        self, request: HttpRequest, obj: ApiToken | None = None
    ) -> bool:
        return False

    @override
    def has_delete_permission(
        self, request: HttpRequest, obj: ApiToken | None = None
    ) -> bool:
        return False

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        """Return whether the person may revoke: the permission to change tokens."""
        return request.user.has_perm("backend.change_apitoken")

    @override
    def save_model(
        self, request: HttpRequest, obj: ApiToken, form: Any, change: bool
    ) -> None:
        row, text = tokens.create_token(
            name=obj.name,
            scope=Scope(obj.scope),
            expires_at=obj.expires_at,
            created_by=request.user,
        )
        obj.__dict__.update(vars(row))
        # Not into a message: those wait in a cookie or in the table of sessions.
        request.matyan_new_token = text  # type: ignore[attr-defined]  # this request's

    @override
    def response_add(
        self, request: HttpRequest, obj: ApiToken, post_url_continue: str | None = None
    ) -> HttpResponse:
        response = TemplateResponse(
            request,
            "admin/backend/apitoken/created.html",
            {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "title": f"Token “{obj.name}”",
                "token": request.matyan_new_token,  # type: ignore[attr-defined]
            },
        )
        add_never_cache_headers(response)
        return response

    @admin.action(description="Revoke selected tokens", permissions=["revoke"])
    def revoke(
        self, request: HttpRequest, queryset: QuerySet[ApiToken]
    ) -> HttpResponse | None:
        """Ask, then refuse the tokens from now on."""
        rows = list(queryset.filter(revoked_at=None))
        if rows and request.POST.get("confirmed") != "yes":
            return TemplateResponse(
                request,
                "admin/backend/apitoken/revoke.html",
                {
                    **self.admin_site.each_context(request),
                    "opts": self.opts,
                    "title": "Revoke tokens?",
                    "rows": rows,
                    "action_checkbox_name": ACTION_CHECKBOX_NAME,
                },
            )
        for row in rows:
            tokens.revoke_token(row)
            self.log_change(request, row, "Revoked.")
        self.message_user(
            request,
            f"{len(rows)} revoked. Servers notice within 10 seconds.",
            messages.SUCCESS if rows else messages.WARNING,
        )
        return None

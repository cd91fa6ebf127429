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
from typing_extensions import override

from backend.access import tokens
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
    list_display = (
        "name",
        "token_id",
        "scope",
        "state",
        "created_by",
        "created_at",
        "expires_at",
        "last_used_at",
    )
    list_filter = ("scope",)
    list_select_related = ("created_by",)
    search_fields = ("name", "token_id")
    actions = ("revoke",)
    readonly_fields: ClassVar = (*list_display[1:2], *list_display[3:], "revoked_at")

    @override
    def get_fields(self, request: HttpRequest, obj: ApiToken | None = None) -> Any:
        if obj is None:
            return TokenForm.Meta.fields
        return [*self.list_display, "revoked_at"]

    @override
    def get_readonly_fields(
        self, request: HttpRequest, obj: ApiToken | None = None
    ) -> Any:
        return () if obj is None else self.readonly_fields

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

"""The admin as a whole: its name, its first page, the order of its menu.

Design note: docs/admin.md
"""

from __future__ import annotations

from typing import Any, Final

from django.contrib import admin
from django.http import HttpRequest
from django.template.response import TemplateResponse
from typing_extensions import override

from backend.admin.overview import take_looks

_FIRST: Final = "backend"
_NAMES: Final = {"LogEntry": "Audit log"}


class OperatorsSite(admin.AdminSite):
    """Django's admin for those who run Matyan."""

    site_header = "Matyan"
    site_title = "Matyan"
    index_title = "Operations"
    index_template = "admin/backend/index.html"

    @override
    def index(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        """Show how everything is, and the menu."""
        return super().index(
            request, {"looks": take_looks(request), **(extra_context or {})}
        )

    @override
    def get_app_list(
        self, request: HttpRequest, app_label: str | None = None
    ) -> list[Any]:
        """Return the menu: Matyan's own pages before those about people."""
        found = super().get_app_list(request, app_label)
        for app in found:
            for model in app["models"]:
                model["name"] = _NAMES.get(model["object_name"], model["name"])
        return sorted(found, key=lambda app: app["app_label"] != _FIRST)

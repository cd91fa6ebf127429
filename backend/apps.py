"""The Django application of the backend."""

from __future__ import annotations

from django.apps import AppConfig
from django.contrib.admin import apps as admin_apps
from typing_extensions import override


class OperatorsAdminConfig(admin_apps.AdminConfig):
    """Django's admin application, with our site in place of its own."""

    default = False  # this module's own application is the one below
    default_site = "backend.admin.site.OperatorsSite"


class BackendConfig(AppConfig):
    """REST API, admin and tables for operations; tracked data is in the store."""

    default = True
    name = "backend"
    verbose_name = "Matyan"
    default_auto_field = "django.db.models.BigAutoField"

    @override
    def ready(self) -> None:
        """Register what Django finds by import only: pages, extensions, checks."""
        from backend import checks  # noqa: F401, PLC0415 - needs the app registry
        from backend.admin import (  # noqa: PLC0415 - needs the app registry
            maintenance,  # noqa: F401
            operations,  # noqa: F401
            runs,  # noqa: F401
            tokens,  # noqa: F401
        )
        from backend.api import schema  # noqa: F401, PLC0415 - needs the app registry

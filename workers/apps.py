"""Django's view of the workers: it finds their commands through this."""

from __future__ import annotations

from django.apps import AppConfig


class WorkersConfig(AppConfig):
    """The event-log workers and their commands."""

    name = "workers"
    verbose_name = "Workers"

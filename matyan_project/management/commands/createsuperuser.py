"""`manage.py createsuperuser`: Django's, also before the first start."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.management.commands import createsuperuser
from typing_extensions import override

from matyan_project.tables import prepare_tables


class Command(createsuperuser.Command):
    @override
    def execute(self, *args: Any, **options: Any) -> str | None:
        prepare_tables(self.stderr.write)
        return super().execute(*args, **options)

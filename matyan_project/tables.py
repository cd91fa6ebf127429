"""The database's tables, made where a command is the first to need them.

People and tokens are made before the first start as well as after it; `manage.py up`
makes the tables itself.
"""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.core.management import call_command
from django.db import connection

_TABLE = "backend_apitoken"


def prepare_tables(say: Callable[[str], object]) -> None:
    """Make the tables if there are none, and say where.

    Tables of an older version are left to `manage.py up` and `migrate`.

    Raises:
        django.db.Error: If the database cannot be asked.
    """
    if _TABLE in connection.introspection.table_names():
        return
    call_command("migrate", verbosity=0, interactive=False)
    say(f"prepared a new installation in {settings.DATA_DIR}")

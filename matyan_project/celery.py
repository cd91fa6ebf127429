"""The Celery application of the workers.

`celery -A matyan_project worker` runs it, and so does `manage.py taskworker`, which
adds a schedule and a health file.

Senders do not need it: see `backend.task_queue`.
"""

from __future__ import annotations

import django
from celery import Celery

from matyan_project import env

env.use_settings("matyan_project.settings.dev")
django.setup()

# After django.setup(): they read settings.
from django.conf import settings  # noqa: E402

from backend import task_files  # noqa: E402, F401 - stands behind filesystem://

app = Celery("matyan")
app.config_from_object(settings.CELERY)

"""Tests: everything in one throw-away directory, removed when the process ends."""

import atexit
import shutil
import tempfile
from pathlib import Path

from matyan_project.settings.base import *  # noqa: F403 - settings are layered
from matyan_project.task_settings import celery_settings

DATA_DIR = Path(tempfile.mkdtemp(prefix="matyan-test-"))
atexit.register(shutil.rmtree, DATA_DIR, ignore_errors=True)

SECRET_KEY = "tests-only"  # noqa: S105 - protects nothing
MATYAN_STORE = {
    "ENGINE": "backend.storage.engine.embedded.EmbeddedEngine",
    "OPTIONS": {"path": str(DATA_DIR / "store"), "durable": False},
}
MATYAN_BUS = {
    "ENGINE": "backend.bus.local.LocalEventLog",
    "OPTIONS": {"path": str(DATA_DIR / "log"), "durable": False},
}
MATYAN_BLOB_SECRET = SECRET_KEY
MATYAN_BLOBS = {
    "ENGINE": "backend.blobs.filesystem.FilesystemBlobStore",
    "OPTIONS": {
        "path": str(DATA_DIR / "blobs"),
        "secret": MATYAN_BLOB_SECRET,
        "durable": False,
    },
}
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(DATA_DIR / "django.sqlite3"),
    }
}
CELERY = celery_settings("", data_dir=DATA_DIR)
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
WHITENOISE_USE_FINDERS = False

"""Django's own tables (users, tokens, audit): SQLite here, PostgreSQL elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


def database(url: str, *, data_dir: Path) -> dict[str, Any]:
    """Return a Django database definition.

    Args:
        url: `postgresql://user:password@host:port/name`, or "" for SQLite.
        data_dir: Where SQLite's file goes.

    Raises:
        SystemExit: If the URL is of another kind; the password is not shown.
    """
    if not url:
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(data_dir / "django.sqlite3"),
            "OPTIONS": {
                # Several processes write: wait for the lock instead of failing, and
                # take it at BEGIN so that a read cannot be upgraded into a deadlock.
                "timeout": 10,
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            },
        }
    parts = urlsplit(url)
    if parts.scheme not in {"postgresql", "postgres"}:
        msg = "MATYAN_DATABASE_URL: expected postgresql://user:password@host:port/name"
        raise SystemExit(msg)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.lstrip("/"),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": str(parts.port or ""),
        "CONN_HEALTH_CHECKS": True,
        "CONN_MAX_AGE": 60,
    }

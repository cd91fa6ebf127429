"""How log records are written: one line each, values as fields.

A record's message is a fixed event name (`worker.progress`); what varies travels in
`extra` and is printed as `key=value` or as JSON.
"""

from __future__ import annotations

import json
import logging
from typing import Any, Final

from typing_extensions import override

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "color_message",
    "taskName",
}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {k: v for k, v in vars(record).items() if k not in _STANDARD}


class TextFormatter(logging.Formatter):
    """`2026-11-23 21:00:00 INFO worker.progress points=1000`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(process)d %(message)s")

    @override
    def formatMessage(self, record: logging.LogRecord) -> str:
        """Append the record's fields to its line."""
        line = escaped(super().formatMessage(record))
        fields = " ".join(f"{k}={_short(v)}" for k, v in _fields(record).items())
        return f"{line} {fields}" if fields else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON."""
        body = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            body["exception"] = self.formatException(record.exc_info)
        return json.dumps(body, default=str)


def escaped(text: str) -> str:
    """Return `text` with nothing in it that ends a line or drives a terminal."""
    return text.translate(_CONTROLS)


_CONTROLS: Final = {
    code: chr(code).encode("unicode_escape").decode()
    for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
}


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    text = escaped(text)
    return text if len(text) <= 500 else text[:500] + "…"


def logging_config(*, level: str, style: str) -> dict[str, Any]:
    """Return Django's LOGGING for the wanted level and style ("text" or "json")."""
    formatter = JsonFormatter if style == "json" else TextFormatter
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            "django.server": {"handlers": [], "propagate": True},
            "django.request": {"level": "ERROR"},
            "uvicorn.access": {"level": "WARNING"},
            "uvicorn.error": {"level": "WARNING"},
        },
    }

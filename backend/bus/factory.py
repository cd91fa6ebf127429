"""Opens the event log that settings name.

Design note: docs/subsystems/eventlog.md
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from backend.bus.base import EventLog
from backend.errors import EventLogError


def open_event_log(*, engine: str, options: Mapping[str, Any]) -> EventLog:
    """Return the event log of class `engine`, opened with `options`.

    Args:
        engine: Dotted path of an `EventLog` class, for example
            "backend.bus.local.LocalEventLog".
        options: Keyword arguments of that class.

    Raises:
        EventLogError: If there is no such class, it does not take these options, or
            the log cannot be opened.
    """
    log_class = _find_class(engine)
    try:
        log = log_class(**options)
    except TypeError as error:
        raise EventLogError(engine=engine, reason=str(error)) from error
    return log


def _find_class(engine: str) -> type[EventLog]:
    module_name, _, class_name = engine.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        reason = f"no such event log class: {error}"
        raise EventLogError(engine=engine, reason=reason) from error
    if not (isinstance(found, type) and issubclass(found, EventLog)):
        raise EventLogError(engine=engine, reason="not an event log class")
    return found

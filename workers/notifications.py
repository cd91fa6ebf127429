"""Telling others of control events: the seam for webhooks, chat and the like.

A notifier is a function that takes the event as a dict; `settings.MATYAN_NOTIFIERS`
lists dotted paths of them. What it raises has the event tried again, for all notifiers:
each must bear being told twice.

Design note: docs/subsystems/control.md#notifications
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from django.conf import settings
from django.utils.module_loading import import_string

from workers.control_events import ControlEvent

Notifier = Callable[[dict[str, Any]], object]


def are_configured() -> bool:
    """Return whether anybody wants to be told."""
    return bool(settings.MATYAN_NOTIFIERS)


def notify(event: ControlEvent) -> None:
    """Tell every notifier of an event, in the order of the setting.

    Raises:
        Exception: Whatever a notifier raises.
    """
    for path in settings.MATYAN_NOTIFIERS:
        notifier: Notifier = import_string(path)
        notifier(msgspec.to_builtins(event))

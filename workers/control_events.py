"""Control events as they travel: JSON `{"id", "type", "time_us", "payload"}`.

Design note: docs/subsystems/control.md
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from backend.errors import InvalidInputError


class ControlEvent(msgspec.Struct, frozen=True):
    """One control event.

    Attributes:
        id: Unique; a repeated event has the same.
        type: What happened.
        time_us: When, microseconds since the epoch.
        payload: What it happened to.
    """

    id: str
    type: str
    time_us: int
    payload: dict[str, Any] = {}


_decoder: Final = msgspec.json.Decoder(ControlEvent)


def decode_event(value: bytes) -> ControlEvent:
    """Return the event; fields of newer versions are ignored.

    Raises:
        InvalidInputError: If it is none.
    """
    try:
        return _decoder.decode(value)
    except msgspec.DecodeError as error:
        raise InvalidInputError(field="value", reason=str(error)) from error


def text_of(event: ControlEvent, name: str) -> str:
    """Return a text of the payload.

    Raises:
        InvalidInputError: If it is missing or no text.
    """
    value = event.payload.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidInputError(field=f"payload.{name}", reason="no text")
    return value


def number_of(event: ControlEvent, name: str) -> int:
    """Return a whole number of the payload.

    Raises:
        InvalidInputError: If it is missing or no whole number.
    """
    value = event.payload.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidInputError(field=f"payload.{name}", reason="no whole number")
    return value

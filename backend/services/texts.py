"""Checks on text that people and writers name things with.

Design note: docs/subsystems/metadata.md#limits
"""

from __future__ import annotations

from backend.errors import InvalidInputError, LimitExceededError


def check_text(text: str, *, field: str, max_bytes: int) -> str:
    """Return `text` if it can be stored.

    Raises:
        InvalidInputError: If it is not valid Unicode.
        LimitExceededError: If it is longer than `max_bytes` as UTF-8.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidInputError(field=field, reason="not valid Unicode") from error
    if size > max_bytes:
        raise LimitExceededError(what=field, size=size, limit=max_bytes)
    return text


def check_name(name: str, *, field: str, max_bytes: int) -> str:
    """Return `name` trimmed.

    Raises:
        InvalidInputError: If nothing is left of it, or it is not valid Unicode.
        LimitExceededError: If it is too long.
    """
    trimmed = name.strip()
    if not trimmed:
        raise InvalidInputError(field=field, reason="must not be empty")
    return check_text(trimmed, field=field, max_bytes=max_bytes)

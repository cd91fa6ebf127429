"""What a key, a value and a range may be, checked alike by every engine."""

from __future__ import annotations

from typing import Final

from backend.errors import KeyOutsideRangeError, KeyTooLargeError, ValueTooLargeError
from backend.storage.engine.base import Limits

KEY_SPACE_END: Final = b"\xff"
"""The first key that is the engine's own; as the end of a range it includes all."""


def check_read_key(key: bytes) -> None:
    """Raise `KeyOutsideRangeError` when `key` is one of the engine's own."""
    if key >= KEY_SPACE_END:
        raise KeyOutsideRangeError(key=key.hex())


def check_range(begin: bytes, end: bytes) -> None:
    """Raise `KeyOutsideRangeError` when a bound lies in the engine's own keys."""
    if begin > KEY_SPACE_END or end > KEY_SPACE_END:
        raise KeyOutsideRangeError(key=max(begin, end).hex())


def check_key(key: bytes, size: int, limits: Limits) -> None:
    """Raise unless a key of `size` bytes that begins with `key` may be written."""
    if size > limits.key_bytes:
        raise KeyTooLargeError(size=size, limit=limits.key_bytes)
    if not key or key >= KEY_SPACE_END:
        raise KeyOutsideRangeError(key=key.hex())


def check_value(value: bytes, limits: Limits) -> None:
    """Raise `ValueTooLargeError` when `value` is over the limit."""
    if len(value) > limits.value_bytes:
        raise ValueTooLargeError(size=len(value), limit=limits.value_bytes)

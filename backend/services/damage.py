"""Work on many runs although some of them are damaged or cannot be written.

Design note: docs/subsystems/storage.md#what-it-promises
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from backend.errors import (
    FormatError,
    KeyTooLargeError,
    TransactionTooLargeError,
    TransactionTooOldError,
    ValueTooLargeError,
)

SPLITTABLE: Final = (TransactionTooLargeError, TransactionTooOldError)
"""Store errors that smaller transactions may avoid. The engine has tried again itself
for as long as it takes a passing trouble to pass."""

IMPOSSIBLE: Final = (FormatError, KeyTooLargeError, ValueTooLargeError, *SPLITTABLE)
"""Store errors that come from what one run has stored, or is to store. Trying again
does not help; stopping for them would stop the work on every other run."""

K = TypeVar("K")
V = TypeVar("V")

logger = logging.getLogger(__name__)


def read_intact(
    read: Callable[[Sequence[K]], dict[K, V]], wanted: Sequence[K]
) -> dict[K, V]:
    """Return what `read` finds of `wanted`, without what cannot be decoded.

    Costs nothing while all is intact; each damaged item costs about 2 · log2(n) more
    reads. What is left out is logged, once a call, with the first key found damaged.

    Args:
        read: Reads some of the items; raises `FormatError` if one is damaged.
        wanted: The items.
    """
    errors: list[FormatError] = []
    found = _read(read, wanted, errors)
    if errors:
        logger.error(
            "store.damage_left_out", extra={"items": len(errors), **errors[0].fields}
        )
    return found


def _read(
    read: Callable[[Sequence[K]], dict[K, V]],
    wanted: Sequence[K],
    errors: list[FormatError],
) -> dict[K, V]:
    try:
        return read(wanted)
    except FormatError as error:
        if len(wanted) <= 1:
            errors.append(error)
            return {}
    middle = len(wanted) // 2
    return _read(read, wanted[:middle], errors) | _read(read, wanted[middle:], errors)

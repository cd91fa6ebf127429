"""Work on many runs although some of them are damaged or cannot be written.

Design note: docs/subsystems/storage.md#what-it-promises
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

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

if TYPE_CHECKING:
    from backend.domain.runs import Run
    from backend.storage.engine.base import ReadTransaction
    from backend.storage.repositories.runs import RunRepository

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


def read_runs(
    runs: RunRepository, tr: ReadTransaction, numbers: Sequence[int]
) -> list[Run]:
    """Return the runs with these numbers whose records are intact, in their order."""

    def read(some: Sequence[int]) -> dict[int, Run]:
        return {run.number: run for run in runs.get_by_numbers(tr, some)}

    found = read_intact(read, numbers)
    return [found[number] for number in numbers if number in found]


def read_page(  # noqa: PLR0913 - what a page of runs is asked with
    runs: RunRepository,
    tr: ReadTransaction,
    *,
    limit: int,
    newest_first: bool = True,
    after: int | None = None,
    before: int | None = None,
) -> list[Run]:
    """Return a page of runs as `RunRepository.page` does, of those that are intact.

    Fewer than `limit` are the last ones, as there.
    """
    found: list[Run] = []
    while True:
        size = limit - len(found)
        try:
            return found + runs.page(
                tr, limit=size, newest_first=newest_first, after=after, before=before
            )
        except FormatError:
            numbers = runs.page_numbers(
                tr, limit=size, newest_first=newest_first, after=after, before=before
            )
        found += read_runs(runs, tr, numbers)
        if len(numbers) < size or len(found) == limit:
            return found
        if newest_first:
            before = numbers[-1]
        else:
            after = numbers[-1]

"""Taking something off all its runs, however many, before it is removed.

Design note: docs/subsystems/metadata.md#experiments
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from backend.domain.runs import Run
from backend.storage.engine.base import Transaction
from backend.storage.indexes import Term

if TYPE_CHECKING:
    from backend.storage.factory import Store

UNLINK_PAGE: Final = 200
"""Runs changed in one transaction, at most."""

UNLINK_BYTES: Final = 1024 * 1024
"""What it writes before it ends: a run's record may have some 80 kB."""


def unlink_runs(
    store: Store,
    term: Term,
    *,
    unlink: Callable[[Run], Run],
    remove: Callable[[Transaction], None],
) -> None:
    """Change every run under `term`, then `remove` what they were linked to.

    Works in transactions of at most `UNLINK_PAGE` runs; the last of them also removes,
    so no run can be linked in between. A failure on the way leaves fewer links and the
    thing in place: call it again.
    """

    def step(tr: Transaction) -> bool:
        numbers = store.runs.numbers_with(tr, term, limit=UNLINK_PAGE, snapshot=False)
        for number in numbers:
            run = store.runs.find_by_number(tr, number)
            if run is not None:
                store.runs.save(tr, run, unlink(run))
            if tr.approximate_size() >= UNLINK_BYTES:
                return False
        if len(numbers) == UNLINK_PAGE:
            return False
        remove(tr)
        return True

    while not store.engine.transact(step):
        pass

"""How much one transaction of the ingestion takes on, all its runs together.

What does not fit is left for the next transaction. A transaction that was too large or
too slow all the same is tried again with a smaller share of everything.

Design note: docs/subsystems/storage.md#ingestion
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from backend.services.ingestion_batches import NEW_SERIES_BYTES
from backend.storage.repositories.series_tail import MAX_BLOCK_POINTS
from matyan_wire.batch import DeleteAttributes, Event, FinishRun, SetAttributes

MAX_POINTS: Final = MAX_BLOCK_POINTS
MAX_OBJECT_BYTES: Final = 1024 * 1024
MAX_NEW_SERIES: Final = MAX_OBJECT_BYTES // NEW_SERIES_BYTES
MAX_EVENT_BYTES: Final = 1024 * 1024
MAX_TREE_BYTES: Final = 4 * 1024 * 1024
"""Attribute trees rewritten, as they were stored; a larger single one goes through."""

ASSIGNMENT_BYTES: Final = 64
"""What an event on attributes costs beside its bytes: it is applied in memory."""

READING_EVENT_BYTES: Final = 4096
"""What any other event counts as: a few reads one after the other, on FoundationDB a
millisecond or two, and a few hundred bytes written. 256 of them fit a transaction."""

REFUSED_EVENT_BYTES: Final = 1024
"""What an event counts as that turns out to be refused: a read or none."""


@dataclass(slots=True)
class Allowance:
    """What an attempt of a transaction may still take on.

    Attributes:
        share: Of everything only one part in so many.
        is_fresh: Whether the transaction has done nothing yet.
    """

    share: int = 1
    is_fresh: bool = True
    _event_bytes: int = 0
    _tree_bytes: int = 0

    @property
    def points(self) -> int:
        """Most metric points of a batch."""
        return max(1, MAX_POINTS // self.share)

    @property
    def object_bytes(self) -> int:
        """Most bytes of objects of a batch; a larger single one goes through."""
        return max(1, MAX_OBJECT_BYTES // self.share)

    @property
    def new_series(self) -> int:
        """Most series of a batch made."""
        return max(1, MAX_NEW_SERIES // self.share)

    def take_event(self, event: Event) -> bool:
        """Return whether the event is to be applied now; the first always is."""
        if self._event_bytes >= MAX_EVENT_BYTES // self.share:
            return False
        self._event_bytes += _cost(event)
        return True

    def refund(self, event: Event) -> None:
        """Count an event that was taken as refused."""
        self._event_bytes -= max(0, _cost(event) - REFUSED_EVENT_BYTES)

    def take_tree(self, stored_bytes: int) -> bool:
        """Return whether one more tree may be rewritten; the first always may."""
        total = self._tree_bytes + stored_bytes
        if self._tree_bytes and total > MAX_TREE_BYTES // self.share:
            return False
        self._tree_bytes = max(total, 1)
        return True


def _cost(event: Event) -> int:
    if isinstance(event, FinishRun):
        return 0
    if isinstance(event, SetAttributes):
        return sum(ASSIGNMENT_BYTES + len(raw) for _, raw in event.assignments)
    if isinstance(event, DeleteAttributes):
        return ASSIGNMENT_BYTES * len(event.paths)
    return READING_EVENT_BYTES

"""Ingestion records into the store: an adapter onto the ingestion service."""

from __future__ import annotations

from collections.abc import Sequence

from backend.bus.base import Record
from backend.services.ingestion import apply_records
from backend.storage.factory import Store
from workers.handlers.base import Outcome


def handle(records: Sequence[Record], store: Store) -> Outcome:
    """Apply ingestion records; see `workers.handlers.base.Handler`."""
    result = apply_records(store, records)
    return Outcome(
        applied=result.applied,
        skipped=result.skipped,
        dropped=result.dropped,
        points=result.points,
        poison=list(result.poison),
        counts={"batch": result.applied},
        rest=result.rest,
    )

"""Ingestion: event-log records -> the store, each exactly once.

`apply_records` decodes and checks the records, applies them in transactions of about
1 MB that hold many records of many runs (a commit costs an fsync), and seals the runs
whose tail has grown. A batch too large for one transaction is spread over several.

What can never be applied is returned with its reason and its neighbours are applied:
events without the rest of their record, otherwise the whole record. When it shows only
in a transaction, the records behind it are returned unapplied, for after it has been
set aside: their positions would make it look applied if it had to be delivered again.

A transaction that stays too large or too slow is split: into its records, and a single
record into smaller shares. One that cannot be stored even so is returned as well.

Failures of the store itself are raised: nothing is skipped, and the caller delivers the
same records again.

The clock is not read here: times come with the records.

Design note: docs/subsystems/storage.md#ingestion
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from backend.bus.base import Record
from backend.errors import InvalidInputError, MatyanError, StoreError
from backend.services.allowance import Allowance
from backend.services.damage import IMPOSSIBLE, SPLITTABLE
from backend.services.ingestion_batches import (
    NEW_SERIES_BYTES,
    IncomingBatch,
    decode_record,
    split_events,
)
from backend.services.run_writing import (
    EventsRefusedError,
    RunWrite,
    Verdict,
    open_run,
)
from backend.storage.engine.base import ReadTransaction, Transaction
from backend.storage.repositories.run_state import find_writer, seal_is_due
from matyan_wire.batch import Position

if TYPE_CHECKING:
    from backend.storage.factory import Store

MAX_TRANSACTION_BYTES: Final = 1024 * 1024
MAX_TRANSACTION_RECORDS: Final = 500

SHARES: Final = (1, 8, 64)
"""What a record that meets one of `SPLITTABLE` by itself is tried with, one after the
other: of all that a transaction takes on, one part in so many."""

_REASONS_TOLD: Final = 5

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class ApplyResult:
    """What became of the records.

    Attributes:
        applied: Records applied.
        skipped: Records that had been applied before, or were of a stale epoch.
        dropped: Records of deleted runs.
        poison: Records that can never be applied, with the reason. A record of which
            only events are refused is replaced by one of these events.
        points: Points stored.
        sealed_points: Points moved from tails into chunks.
        rest: Records to apply once the poison has been set aside.
    """

    applied: int = 0
    skipped: int = 0
    dropped: int = 0
    poison: list[tuple[Record, MatyanError]] = field(default_factory=list)
    points: int = 0
    sealed_points: int = 0
    rest: list[Record] = field(default_factory=list)


@dataclass(slots=True)
class _Outcome:
    """What one transaction has done."""

    verdicts: list[Verdict] = field(default_factory=list)
    writes: dict[str, RunWrite | None] = field(default_factory=dict)


def apply_records(store: Store, records: Sequence[Record]) -> ApplyResult:
    """Apply records of the ingestion topic, in order, each exactly once.

    May be called again with the same records, or any of the last ones, after a failure
    and by another process.

    Args:
        store: The store.
        records: Records of any runs; those of one run in the order of the log.

    Raises:
        StoreError: If the store fails. A part may be applied: call again.
    """
    result = ApplyResult()
    valid = []
    for record in records:
        try:
            valid.append(decode_record(record))
        except MatyanError as error:
            _reject(result, record, error)
    looked_at = 0
    known = len(result.poison)
    for group in _groups(store, valid):
        looked_at += len(group)
        rest = _apply_group(store, group, result)
        if len(result.poison) > known:
            result.rest = rest + [item.record for item in valid[looked_at:]]
            break
    return result


def read_durable(tr: ReadTransaction, run_number: int, writer: str) -> Position | None:
    """Return the last position of `writer` up to which all is stored in the run.

    None when nothing of it is. Everything up to it survives whatever happens to the
    writer, the gateway and the event log.
    """
    state = find_writer(tr, run_number, writer)
    return None if state is None else state.durable(writer)


def _groups(
    store: Store, items: Sequence[IncomingBatch]
) -> Iterator[list[IncomingBatch]]:
    """Yield the batches in order, in groups that fit one transaction."""
    group: list[IncomingBatch] = []
    total = 0
    for item in items:
        cost = _cost(store, item)
        full = total + cost > MAX_TRANSACTION_BYTES
        if group and (full or len(group) >= MAX_TRANSACTION_RECORDS):
            yield group
            group, total = [], 0
        group.append(item)
        total += cost
    if group:
        yield group


def _cost(store: Store, item: IncomingBatch) -> int:
    unknown = store.series.memory.count_unknown(item.run_id, item.batch.series)
    return len(item.record.value) + NEW_SERIES_BYTES * unknown


def _apply_group(
    store: Store, group: Sequence[IncomingBatch], result: ApplyResult
) -> list[Record]:
    """Apply the group up to a record that cannot be; return what is left behind it."""
    shares = iter(SHARES)
    share = next(shares)
    while group:
        try:
            outcome = _transact(store, group, share)
        except EventsRefusedError as error:
            return _refuse_events(group, error, result)
        except MatyanError as error:
            if isinstance(error, StoreError) and not isinstance(error, IMPOSSIBLE):
                raise
            if len(group) > 1:
                return _apply_singly(store, group, result)
            smaller = next(shares, None) if isinstance(error, SPLITTABLE) else None
            if smaller is None:
                _reject(result, group[0].record, error)
                return []
            store.engine.check()  # a store in trouble is not the record's fault
            share = smaller
            continue
        result.applied += outcome.verdicts.count(Verdict.APPLIED)
        result.skipped += outcome.verdicts.count(Verdict.SKIPPED)
        result.dropped += outcome.verdicts.count(Verdict.DROPPED)
        _after_commit(store, outcome, result)
        unfinished = outcome.verdicts[-1] is Verdict.UNFINISHED
        group = group[len(outcome.verdicts) - unfinished :]
    return []


def _apply_singly(
    store: Store, group: Sequence[IncomingBatch], result: ApplyResult
) -> list[Record]:
    # One of them cannot be applied: each on its own tells which.
    for count, item in enumerate(group, 1):
        known = len(result.poison)
        rest = _apply_group(store, [item], result)
        if len(result.poison) > known:
            return rest + [later.record for later in group[count:]]
    return []


def _refuse_events(
    group: Sequence[IncomingBatch], error: EventsRefusedError, result: ApplyResult
) -> list[Record]:
    refused, others = split_events(group[0], error.reasons)
    _reject(result, refused, _told(error.reasons))
    return [others, *(item.record for item in group[1:])]


def _told(reasons: Mapping[int, InvalidInputError]) -> InvalidInputError:
    first = next(iter(reasons.values()))
    if len(reasons) == 1:
        return first
    different = list(dict.fromkeys(str(reason) for reason in reasons.values()))
    return InvalidInputError(
        field="events", refused=len(reasons), reasons=different[:_REASONS_TOLD]
    )


def _transact(store: Store, group: Sequence[IncomingBatch], share: int) -> _Outcome:
    return store.engine.transact(lambda tr: _apply_in(tr, store, group, share))


def _apply_in(
    tr: Transaction, store: Store, group: Sequence[IncomingBatch], share: int
) -> _Outcome:
    """Apply the group up to the first batch that does not fit."""
    outcome = _Outcome()
    allowance = Allowance(share)
    for item in group:
        if item.run_id not in outcome.writes:
            outcome.writes[item.run_id] = open_run(tr, store, item, allowance)
        write = outcome.writes[item.run_id]
        verdict = Verdict.DROPPED if write is None else write.apply(item)
        outcome.verdicts.append(verdict)
        allowance.is_fresh = False
        if verdict is Verdict.UNFINISHED:
            break
    for write in outcome.writes.values():
        if write is not None:
            write.flush()
    return outcome


def _after_commit(store: Store, outcome: _Outcome, result: ApplyResult) -> None:
    for run_id, write in outcome.writes.items():
        if write is None:
            continue
        result.points += write.points
        store.series.memory.remember(
            run_id, write.incarnation, write.numbers, write.last
        )
        # A run that is not active may have seen its last batch.
        if write.finished or not write.run.active or seal_is_due(write.state):
            result.sealed_points += _seal(store, write)


def _seal(store: Store, write: RunWrite) -> int:
    number = write.run.number
    try:
        return store.series.seal(store.engine, number, final=write.finished)
    except IMPOSSIBLE as error:
        # What came is stored and readable; trying again would stop every other run.
        logger.exception(
            "ingestion.seal_failed",
            extra={"run_id": write.run.run_id, "code": error.code},
        )
        return 0


def _reject(result: ApplyResult, record: Record, error: MatyanError) -> None:
    result.poison.append((record, error))
    logger.warning(
        "ingestion.record_rejected",
        extra={
            "topic": record.position.topic,
            "partition": record.position.partition,
            "offset": record.position.offset,
            "code": error.code,
            "reason": str(error),
        },
    )

"""Applying batches to one run within one transaction, exactly once.

A `RunWrite` lives as long as one attempt of one transaction: it reads the run's state,
decides what of each batch is new, collects the points, and stores them as few tail
blocks together with the state that proves them applied.

What makes a repetition harmless:
- a record at or below the run's offset in its log partition is skipped;
- a batch at or below its writer's position, or of an older epoch, is skipped;
- of a repeated frame without a position, recognised by its digest, only what is safe to
  repeat is applied again: no log record, no point whose step the store assigns;
- a batch spread over transactions notes how far it got (`RunState.progress`).

The run's record, its attributes and its state are read once and stored once, by
`flush`, however many events change them.

Design note: docs/subsystems/storage.md#exactly-once
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from backend.domain.runs import Run
from backend.domain.series import Int64s
from backend.errors import InvalidInputError, LimitExceededError
from backend.services.allowance import Allowance
from backend.services.ingestion_batches import BatchColumns, IncomingBatch
from backend.services.run_blobs import (
    BLOB_KINDS,
    ObjectPoint,
    note_grant,
    note_objects,
)
from backend.services.run_events import (
    Moment,
    change_attributes,
    change_run,
    ensure_run,
)
from backend.services.terminal_lines import MAX_STEP, place_lines, shift_lines
from backend.storage.codecs.run_states import (
    EventProgress,
    Progress,
    RunState,
    WriterState,
)
from backend.storage.engine.base import Transaction
from backend.storage.repositories.attribute_edit import AttributeEdit
from backend.storage.repositories.run_state import (
    find_writer,
    get_run_state,
    put_run_state,
    put_writer,
)
from backend.storage.repositories.series_columns import Columns, concat, sizes_of
from backend.storage.repositories.series_memory import (
    Incarnation,
    LastSteps,
    Numbers,
)
from backend.storage.repositories.series_tail import MAX_BLOCK_BYTES, MAX_BLOCK_POINTS
from matyan_wire.batch import (
    UNKNOWN_TIME,
    BlobGrant,
    CreateRun,
    DeleteAttributes,
    Event,
    FinishRun,
    Position,
    SetAttributes,
)

if TYPE_CHECKING:
    from backend.storage.factory import Store

Mask = npt.NDArray[np.bool_]

LOGS: Final = "logs"
LOG_RECORDS: Final = "log_records"


class Verdict(Enum):
    """What became of a batch."""

    APPLIED = "applied"
    SKIPPED = "skipped"
    """Applied before."""
    DROPPED = "dropped"
    """Its run is deleted."""
    UNFINISHED = "unfinished"
    """More of it is left for the next transaction."""


class EventsRefusedError(Exception):
    """Events of a transaction's first batch that can never be applied.

    The rest of the batch may well be.

    Attributes:
        reasons: Why, by which of the batch's events; at least one.
    """

    def __init__(self, reasons: dict[int, InvalidInputError]) -> None:
        super().__init__(reasons)
        self.reasons = reasons


@dataclass(slots=True)
class _Pending:
    """Points waiting to become tail blocks."""

    series: list[Int64s] = field(default_factory=list)
    points: list[Columns] = field(default_factory=list)

    def add(self, series: Int64s, points: Columns) -> None:
        self.series.append(series)
        self.points.append(points)

    def last_step(self, number: int) -> int | None:
        found = [
            int(points.steps[series == number].max())
            for series, points in zip(self.series, self.points, strict=True)
            if bool((series == number).any())
        ]
        return max(found, default=None)


class RunWrite:
    """One run in one attempt of one transaction.

    Args:
        tr: The transaction.
        store: The store.
        run: The run as it is stored.
        allowance: What the transaction may take on, shared with its other runs.
    """

    def __init__(
        self, tr: Transaction, store: Store, run: Run, allowance: Allowance
    ) -> None:
        self.run = run
        self.numbers: Numbers = {}
        self.points = 0
        self.finished = False
        self.state: RunState = get_run_state(tr, run.number)
        next_tail = self.state.next_tail
        known = store.series.memory.last_steps(self.incarnation, next_tail)
        self.last = LastSteps(next_tail, known)
        self._tr = tr
        self._store = store
        self._allowance = allowance
        self._stored_run = run
        self._attributes: AttributeEdit | None = None
        self._writers: dict[str, WriterState] = {}
        self._metrics = _Pending()
        self._objects = _Pending()

    @property
    def incarnation(self) -> Incarnation:
        """The run as `SeriesMemory` knows it."""
        return self.run.number, self.state.incarnation

    def apply(self, item: IncomingBatch) -> Verdict:
        """Apply a batch, or as much of it as fits a transaction.

        Raises:
            EventsRefusedError: If some of its events can never be applied, and nothing
                else has been done in the transaction.
            InvalidInputError: If the batch cannot. Either way the transaction must be
                aborted.
        """
        state, offset = self.state, item.record.position.offset
        if state.offsets.get(item.log, -1) >= offset:
            return Verdict.SKIPPED
        position = item.batch.position
        writer = None if position is None else self._writer(position)
        if position is not None and writer is not None and writer.has(position):
            state.note_offset(item.log, offset)
            return Verdict.SKIPPED
        progress = state.progress
        numbers = self._resolve(item)
        if not all(ref in numbers for ref in item.batch.series):
            return Verdict.UNFINISHED
        if progress is None or (progress.log, progress.offset) != (item.log, offset):
            if not self._apply_events(item, writer):
                return Verdict.UNFINISHED
            progress = Progress(item.log, offset)
        if not self._apply_points(item, writer, progress):
            state.progress = progress
            return Verdict.UNFINISHED
        self._complete(item, writer)
        return Verdict.APPLIED

    def flush(self) -> None:
        """Store what has been collected, and the state that goes with it."""
        for pending in (self._metrics, self._objects):
            self._append(pending)
        if self._attributes is not None:
            self._attributes.store(self._tr)
        self._store.runs.save(self._tr, self._stored_run, self.run)
        for name, writer in self._writers.items():
            put_writer(self._tr, self.run.number, name, writer)
        put_run_state(self._tr, self.run.number, self.state)
        self.last.next_tail = self.state.next_tail

    # --- events ----------------------------------------------------------------------

    def _apply_events(self, item: IncomingBatch, writer: WriterState | None) -> bool:
        """Apply the next events of the batch; return whether none are left.

        When the first refused event is met after other work, that is committed before:
        a transaction that finds refused events is aborted, and begins with one.
        """
        offset = item.record.position.offset
        progress = self.state.events
        if progress is None or (progress.log, progress.offset) != (item.log, offset):
            progress = self.state.events = EventProgress(item.log, offset)
        refused: dict[int, InvalidInputError] = {}
        events = item.batch.events
        allowance = self._allowance
        while progress.events < len(events):
            event = events[progress.events]
            if not self._may_take(event):
                break
            try:
                self._apply_event(item, event, writer)
            except InvalidInputError as error:
                if not refused and not allowance.is_fresh:
                    break
                # Nothing of it is written: the others can be looked at.
                refused[progress.events] = error
                allowance.refund(event)
            allowance.is_fresh = False
            progress.events += 1
        if refused:
            raise EventsRefusedError(refused)
        if progress.events < len(events):
            return False
        self.state.events = None
        return True

    def _may_take(self, event: Event) -> bool:
        if self._attributes is None and isinstance(
            event, (SetAttributes, DeleteAttributes)
        ):
            edit = self._store.attributes.edit(self._tr, self.run.number)
            if not self._allowance.take_tree(edit.stored_bytes):
                return False
            self._attributes = edit
        return self._allowance.take_event(event)

    def _apply_event(
        self, item: IncomingBatch, event: Event, writer: WriterState | None
    ) -> None:
        if isinstance(event, CreateRun):
            self._open(item, event, writer)
        elif isinstance(event, BlobGrant):
            session = self.state.session
            note_grant(self._tr, self._store, self.run, event, session=session)
        elif isinstance(event, (SetAttributes, DeleteAttributes)):
            assert self._attributes is not None  # noqa: S101 - see `_may_take`
            change_attributes(self._attributes, event)
        elif not isinstance(event, FinishRun):
            self._change_run(item, event)

    def _change_run(self, item: IncomingBatch, event: Event) -> None:
        self.run = change_run(self._tr, self._store, self.run, event, _moment(item))

    def _open(
        self, item: IncomingBatch, event: CreateRun, writer: WriterState | None
    ) -> None:
        if event.client_time_us == UNKNOWN_TIME:
            if self._is_repeated(item):
                return
        elif event.client_time_us in self.state.openings:
            return
        else:
            self.state.note_opening(event.client_time_us)
        if writer is None:
            # A process numbers its terminal lines from 0: those of an earlier one must
            # stay, so the lines of this one go after them.
            self.state.line_offset = self._next_line()
        self._change_run(item, event)

    def _next_line(self) -> int:
        if not self.state.next_series:
            return 0
        listed = self._store.series.list(self._tr, self.run.number, kinds=(LOGS,))
        steps = [s.summary.last_step for s in listed if s.summary is not None]
        steps += [
            step
            for series in listed
            if (step := self._objects.last_step(series.number)) is not None
        ]
        return min(max(steps, default=-1) + 1, MAX_STEP)

    def _complete(self, item: IncomingBatch, writer: WriterState | None) -> None:
        for event in item.batch.events:
            if isinstance(event, FinishRun):
                self._change_run(item, event)
                self.finished = True
        position = item.batch.position
        if position is not None and writer is not None:
            writer.advance(position)
        if not self._is_repeated(item):
            self.state.note_digest(item.digest)
        self.state.note_offset(item.log, item.record.position.offset)
        self.state.received_us = max(self.state.received_us, item.received_us)
        self.state.progress = None

    def _is_repeated(self, item: IncomingBatch) -> bool:
        return bool(item.digest) and item.digest in self.state.digests

    def _writer(self, position: Position) -> WriterState:
        known = self._writers.get(position.writer)
        if known is None:
            known = find_writer(self._tr, self.run.number, position.writer)
            known = known or WriterState(0, 0, 0, last_part=True)
            self._writers[position.writer] = known
        return known

    # --- points ----------------------------------------------------------------------

    def _resolve(self, item: IncomingBatch) -> Numbers:
        """Learn the series' numbers; those beyond a transaction's share are missing."""
        unknown = [ref for ref in item.batch.series if ref not in self.numbers]
        if unknown:
            self.numbers |= self._store.series.resolve(
                self._tr,
                self.run.number,
                self.state,
                unknown,
                limit=self._allowance.new_series,
            )
        return self.numbers

    def _apply_points(
        self, item: IncomingBatch, writer: WriterState | None, progress: Progress
    ) -> bool:
        """Collect the next points of the batch; return whether none are left."""
        refs = item.batch.series
        numbers = self._resolve(item)
        by_index = np.array([numbers[ref] for ref in refs], np.int64)
        repeated = self._is_repeated(item)
        metrics = _without_repeated(item.points, item, repeated=repeated)
        if metrics is not None:
            stop = progress.points + self._allowance.points
            self._collect(self._metrics, metrics.part(progress.points, stop), by_index)
            progress.points = min(stop, len(metrics.series))
            if progress.points < len(metrics.series):
                return False
        objects = _without_repeated(item.objects, item, repeated=repeated)
        if objects is not None:
            start = progress.objects
            stop = _object_stop(objects, start, self._allowance)
            portion = self._place_lines(objects.part(start, stop), item, writer)
            points = self._collect(self._objects, portion, by_index)
            self._note_blobs(item, portion, points, by_index)
            progress.objects = stop
            return stop >= len(objects.series)
        return True

    def _note_blobs(
        self,
        item: IncomingBatch,
        portion: BatchColumns,
        points: Columns,
        by_index: Int64s,
    ) -> None:
        has_blob = np.array([ref.kind in BLOB_KINDS for ref in item.batch.series])
        rows = np.flatnonzero(has_blob[portion.series])
        if not len(rows):
            return
        note_objects(
            self._tr,
            self._store,
            self.run,
            map(
                ObjectPoint,
                by_index[portion.series[rows]].tolist(),
                points.steps[rows].tolist(),
                points.values[rows].tolist(),
            ),
            session=self.state.session,
            is_repeated=self._is_repeated(item),
        )

    def _place_lines(
        self, columns: BatchColumns, item: IncomingBatch, writer: WriterState | None
    ) -> BatchColumns:
        """Return the points with terminal lines moved after other processes' lines."""
        is_line = np.array([ref.kind == LOGS for ref in item.batch.series])[
            columns.series
        ]
        if columns.is_auto is not None:
            is_line &= ~columns.is_auto
        if not bool(is_line.any()):
            return columns
        points = columns.points
        steps = points.steps.copy()
        if writer is None:
            steps[is_line] = shift_lines(steps[is_line], self.state.line_offset)
        else:
            numbers = {self.numbers[r] for r in item.batch.series if r.kind == LOGS}
            self._learn_last_steps(self._objects, sorted(numbers))
            known = [self.last.steps[number] for number in numbers]
            last = max((step for step in known if step is not None), default=-1)
            steps[is_line] = place_lines(steps[is_line], writer, last=last)
        moved = Columns(steps, points.values, points.times_us, points.epochs)
        return BatchColumns(columns.series, moved, columns.is_auto)

    def _collect(
        self, pending: _Pending, columns: BatchColumns, by_index: Int64s
    ) -> Columns:
        """Take points to be stored; return them with their steps."""
        if not len(columns.series):
            return columns.points
        series, points = by_index[columns.series], columns.points
        if columns.is_auto is not None:
            steps = self._assign_steps(pending, series, points.steps, columns.is_auto)
            points = Columns(steps, points.values, points.times_us, points.epochs)
        self._note_steps(series, points.steps)
        pending.add(series, points)
        self.points += len(series)
        return points

    def _assign_steps(
        self, pending: _Pending, series: Int64s, steps: Int64s, is_auto: Mask
    ) -> Int64s:
        """Return the steps with each assigned one the series' greatest so far + 1."""
        wanted = np.unique(series[is_auto]).tolist()
        self._learn_last_steps(pending, wanted)
        result = steps.copy()
        for number in wanted:
            where = np.flatnonzero(series == number)
            last = self.last.steps[number]
            following = -1 if last is None else last
            if following > MAX_STEP - len(where):
                raise LimitExceededError(
                    what="step", size=following + len(where), limit=MAX_STEP
                )
            if bool(is_auto[where].all()):
                result[where] = following + 1 + np.arange(len(where))
                continue
            for at in where.tolist():
                if is_auto[at]:
                    following += 1
                    result[at] = following
                else:
                    following = max(following, int(steps[at]))
        return result

    def _learn_last_steps(self, pending: _Pending, numbers: Sequence[int]) -> None:
        unknown = [number for number in numbers if number not in self.last.steps]
        if not unknown:
            return
        stored = self._store.series.last_steps(self._tr, self.run.number, unknown)
        for number in unknown:
            known = [stored.get(number), pending.last_step(number)]
            self.last.steps[number] = max(
                (step for step in known if step is not None), default=None
            )

    def _note_steps(self, series: Int64s, steps: Int64s) -> None:
        """Keep the known greatest steps right as points are collected."""
        if not self.last.steps:
            return
        for number in np.unique(series).tolist():
            if number in self.last.steps:
                greatest = int(steps[series == number].max())
                last = self.last.steps[number]
                self.last.steps[number] = (
                    greatest if last is None else max(last, greatest)
                )

    def _append(self, pending: _Pending) -> None:
        if not pending.series:
            return
        series = np.concatenate(pending.series)
        points = concat(pending.points)
        start = 0
        while start < len(series):
            stop = min(start + MAX_BLOCK_POINTS, len(series))
            if points.values.dtype == object:
                sizes = np.cumsum(sizes_of(points.values[start:stop]))
                stop = start + max(1, int(np.searchsorted(sizes, MAX_BLOCK_BYTES)))
            where = slice(start, stop)
            self._store.series.append_batch(
                self._tr, self.run.number, self.state, series[where], points.take(where)
            )
            start = stop


def open_run(
    tr: Transaction, store: Store, item: IncomingBatch, allowance: Allowance
) -> RunWrite | None:
    """Return the write of the batch's run, made if missing; None if it is deleted."""
    opened = [e for e in item.batch.events if isinstance(e, CreateRun)]
    run = ensure_run(
        tr,
        store,
        item.run_id,
        _moment(item),
        opened_client_us=opened[0].client_time_us if opened else UNKNOWN_TIME,
    )
    return None if run is None else RunWrite(tr, store, run, allowance)


def _moment(item: IncomingBatch) -> Moment:
    return Moment(item.received_us, item.batch.sent_us)


def _without_repeated(
    columns: BatchColumns | None, item: IncomingBatch, *, repeated: bool
) -> BatchColumns | None:
    """Return the points that may be applied: all, unless the frame is repeated."""
    if columns is None or not repeated:
        return columns
    is_record = np.array([ref.kind == LOG_RECORDS for ref in item.batch.series])
    drop = is_record[columns.series]
    if columns.is_auto is not None:
        drop |= columns.is_auto
    return columns.take(~drop)


def _object_stop(objects: BatchColumns, start: int, allowance: Allowance) -> int:
    sizes = np.cumsum(sizes_of(objects.points.values[start:]))
    fit = int(np.searchsorted(sizes, allowance.object_bytes))
    stop = start + min(max(fit, 1), allowance.points)
    return min(stop, len(objects.series))

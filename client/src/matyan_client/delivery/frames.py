"""Cuts a journal into frames: columnar batches with a position each.

The same bounds always give the same batch, whoever cuts it: that is what makes a
repeated sequence number a repeat.
"""

from __future__ import annotations

import struct
import time
from array import array
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple, cast

import msgspec

from matyan_client.journal.ledger import Cut, Ledger
from matyan_client.journal.points import (
    Columns,
    DamagedSegmentError,
    PointReader,
    numbers_of,
)
from matyan_client.journal.records import RecordReader
from matyan_client.journal.writer import EVENTS, SERIES, JournalEvent, ObjectPoint
from matyan_wire.batch import (
    BATCH_VERSION,
    Batch,
    Event,
    FinishRun,
    ObjectColumns,
    PointColumns,
    Position,
    SeriesRef,
    SetAttributes,
    encode_batch,
)

MAX_POINTS: Final = 16_384
"""Points of a frame: 590 kB of columns, half a segment."""

MAX_EVENT_BYTES: Final = 1024 * 1024
"""Events of a frame, unless one alone is larger."""

MAX_EVENTS: Final = 10_000

_NAN: Final = struct.pack("<d", float("nan"))

_event_decoder: Final = msgspec.msgpack.Decoder(JournalEvent)
_series_decoder: Final = msgspec.msgpack.Decoder(SeriesRef)


class Ends(NamedTuple):
    """Where those of a journal's logs end at present that this process writes."""

    points: Callable[[], int] | None = None
    events: Callable[[], int] | None = None
    series: Callable[[], int] | None = None


class Frame(NamedTuple):
    """A batch ready to be sent.

    Attributes:
        cut: Where it ends, and its position.
        batch: Its content.
        encoded: The batch's wire bytes.
        points: Points in it, metric values and objects.
        events: Everything else in it, as it was given: assignments are joined.
    """

    cut: Cut
    batch: Batch
    encoded: bytes
    points: int
    events: int


class FrameCutter:
    """Cuts one journal, in order. Used by one thread.

    Args:
        directory: The journal; its lock is held by this process.
        run_id: The run.
        writer: The writer's id.
        ledger: The journal's ledger.
        ends: The logs' ends, of those that are being written by this process.

    Attributes:
        damaged: Points whose series is unknown, and records lost to damage.
        finished: Whether the end of the run has been cut.
    """

    def __init__(
        self,
        directory: Path,
        *,
        run_id: str,
        writer: str,
        ledger: Ledger,
        ends: Ends = Ends(),  # noqa: B008 - immutable
    ) -> None:
        self._run_id = run_id
        self._writer = writer
        self._ledger = ledger
        self._points = PointReader(directory)
        self._events = RecordReader(
            directory,
            EVENTS,
            start=ledger.acked.events,
            limit=ends.events,
        )
        self._definitions = RecordReader(directory, SERIES, limit=ends.series)
        self._series: dict[int, SeriesRef] = {}
        self._damaged_points = 0
        self.finished = False
        self._ends = ends
        end = self._points.find_end() if ends.points is None else 0
        self._found_end = max(end, ledger.acked.points)
        if ledger.acked.seq == 0:
            # Behind a lost ledger, what was acknowledged is deleted already.
            start = max(ledger.acked.points, self._points.find_start())
            ledger.last = ledger.last._replace(points=start)

    @property
    def damaged(self) -> int:
        """Points and records that could not be read back."""
        return self._damaged_points + self._events.lost + self._definitions.lost

    @property
    def points_end(self) -> int:
        """Index after the last point there is to send."""
        return self._ends.points() if self._ends.points else self._found_end

    def pending(self) -> int:
        """Return how many points and events wait to be cut; events count as one."""
        points = max(0, self.points_end - self._ledger.last.points)
        return points + (self._events.peek() is not None)

    def next(self) -> Frame | None:
        """Cut the next frame; None when there is nothing to cut.

        Raises:
            OSError: If the journal cannot be read.
        """
        start = self._ledger.last
        # Read before the series are: a definition precedes its points.
        points_end = max(self.points_end, start.points)
        planned = self._ledger.planned
        stop = planned.points if planned else self._choose_end(start.points, points_end)
        events = self._take_events(
            until=planned.events if planned else None, finish=stop == points_end
        )
        if planned is None and stop == start.points and not events:
            return None
        cut = self._ledger.cut(points=stop, events=self._events.position)
        return self._build(cut, start.points, events)

    def _choose_end(self, start: int, points_end: int) -> int:
        return min(points_end, start + MAX_POINTS, self._points.segment_end(start))

    def _take_events(self, *, until: int | None, finish: bool) -> list[JournalEvent]:
        events: list[JournalEvent] = []
        room = MAX_EVENT_BYTES
        while (record := self._events.peek()) is not None:
            if until is not None and record.index >= until:
                break
            if until is None and (room < len(record.payload) and events):
                break
            event = _event_decoder.decode(record.payload)
            if until is None and isinstance(event, FinishRun) and not finish:
                break  # it waits for the last points
            self._events.take()
            self.finished = self.finished or isinstance(event, FinishRun)
            room -= len(record.payload)
            events.append(event)
            if until is None and len(events) >= MAX_EVENTS:
                break
        return events

    def _build(self, cut: Cut, start: int, events: list[JournalEvent]) -> Frame:
        self._learn_series()
        objects = [event for event in events if isinstance(event, ObjectPoint)]
        rest: list[Event] = [
            event for event in events if not isinstance(event, ObjectPoint)
        ]
        columns = self._read_points(start, cut.points)
        objects = [point for point in objects if self._known(point.series)]
        used = set(numbers_of(columns.series)) if columns else set[int]()
        used.update(point.series for point in objects)
        table = {number: place for place, number in enumerate(sorted(used))}
        batch = Batch(
            version=BATCH_VERSION,
            run_id=self._run_id,
            sent_us=time.time_ns() // 1000,
            position=Position(cut.epoch, cut.seq, 0, True, self._writer),  # noqa: FBT003
            series=[self._series[number] for number in table],
            points=_point_columns(columns, table) if columns else None,
            objects=_object_columns(objects, table) if objects else None,
            events=_join_assignments(rest),
        )
        count = (columns.count if columns else 0) + len(objects)
        return Frame(cut, batch, encode_batch(batch), count, len(rest))

    def _learn_series(self) -> None:
        while (record := self._definitions.take()) is not None:
            self._series[record.index + 1] = _series_decoder.decode(record.payload)

    def _known(self, number: int) -> bool:
        if number in self._series:
            return True
        self._damaged_points += 1
        return False

    def _read_points(self, start: int, stop: int) -> Columns | None:
        if start >= stop:
            return None
        try:
            columns = self._points.read(start, stop)
        except (FileNotFoundError, DamagedSegmentError):
            self._damaged_points += stop - start
            return None
        if set(numbers_of(columns.series)) <= self._series.keys():
            return columns
        return self._without_unknown(columns)

    def _without_unknown(self, columns: Columns) -> Columns | None:
        numbers = numbers_of(columns.series)
        kept = [at for at, number in enumerate(numbers) if self._known(number)]
        if not kept:
            return None

        def pick(column: bytes, item: int) -> bytes:
            return b"".join(column[at * item : (at + 1) * item] for at in kept)

        return Columns(
            len(kept),
            pick(columns.times_us, 8),
            pick(columns.steps, 8),
            pick(columns.values, 8),
            pick(columns.epochs, 8),
            pick(columns.series, 4),
        )


def _join_assignments(events: list[Event]) -> list[Event]:
    """Return `events` with every row of `SetAttributes` made one event.

    A training script sets thousands of attributes one by one, and the store's price is
    by the event. Of assignments to one path the last stays, in its place: it replaces
    what the others put there, and what was assigned above in between.
    """
    joined: list[Event] = []
    for is_assignment, row in groupby(
        events, lambda event: type(event) is SetAttributes
    ):
        if not is_assignment:
            joined += row
            continue
        last: dict[tuple[str, ...], tuple[list[str], bytes]] = {}
        for event in cast("Iterable[SetAttributes]", row):
            for path, payload in event.assignments:
                last.pop(tuple(path), None)
                last[tuple(path)] = path, payload
        joined.append(SetAttributes(list(last.values())))
    return joined


def _point_columns(columns: Columns, table: dict[int, int]) -> PointColumns:
    places = array("I", map(table.__getitem__, numbers_of(columns.series)))
    return PointColumns(
        count=columns.count,
        series=places.tobytes(),
        steps=columns.steps,
        values=columns.values,
        times_us=columns.times_us,
        epochs=_epochs(columns.epochs, columns.count),
    )


def _object_columns(points: list[ObjectPoint], table: dict[int, int]) -> ObjectColumns:
    epochs = array("d", (point.epoch for point in points)).tobytes()
    return ObjectColumns(
        count=len(points),
        series=array("I", (table[point.series] for point in points)).tobytes(),
        steps=array("q", (point.step for point in points)).tobytes(),
        times_us=array("q", (point.time_us for point in points)).tobytes(),
        payloads=[point.payload for point in points],
        epochs=_epochs(epochs, len(points)),
    )


def _epochs(column: bytes, count: int) -> bytes:
    return b"" if column == _NAN * count else column

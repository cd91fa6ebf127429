"""Split a batch that is too large for one event-log record.

The parts, applied in order, say what the batch said: events first, then points, then
objects, each in their order; a `FinishRun` comes in the last part. Each part names only
the series it uses. Parts of a positioned batch are numbered in `Position.part`.

Sizes are upper estimates, so no part is over the bound. An item too large for any
record is left out and named.

Design note: docs/subsystems/wire.md#splitting
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from matyan_wire import batch as wire
from matyan_wire import limits
from matyan_wire.batch_builder import BatchBuilder, unpack_column

HEADER_BYTES: Final = 1024
"""More than a batch takes without series, columns and events."""

_SERIES_BYTES: Final = 16  # array and string headers of a series
_POINT_BYTES: Final = 4 + 8 + 8 + 8 + 8
_OBJECT_BYTES: Final = 4 + 8 + 8 + 8 + 5


@dataclass(slots=True)
class Split:
    """The records of a batch.

    Attributes:
        records: Encoded batches, to be published in this order.
        refused: What was left out, by name, and why.
    """

    records: list[bytes]
    refused: list[str] = field(default_factory=list)


def split_batch(
    batch: wire.Batch,
    *,
    encoded: bytes | memoryview | None = None,
    max_bytes: int = limits.MAX_RECORD_BYTES,
) -> Split:
    """Return `batch` as encoded records of at most `max_bytes` each.

    Args:
        batch: The batch; its columns must be valid.
        encoded: Its wire bytes, if they are at hand.
        max_bytes: At least 64 kB.

    Raises:
        ValueError: If the batch is itself a part of a larger one and too large.
    """
    encoded = wire.encode_batch(batch) if encoded is None else encoded
    if len(encoded) <= max_bytes:
        return Split([bytes(encoded)])
    position = batch.position
    if position is not None and (position.part or not position.last_part):
        msg = f"a part of {len(encoded)} bytes; the limit of a part is {max_bytes}"
        raise ValueError(msg)
    splitter = _Splitter(batch, max_bytes=max_bytes)
    return Split(_numbered(list(splitter.parts()), position), splitter.refused)


def _numbered(parts: list[wire.Batch], position: wire.Position | None) -> list[bytes]:
    if position is not None:
        for number, part in enumerate(parts):
            part.position = msgspec.structs.replace(
                position, part=number, last_part=number == len(parts) - 1
            )
    return [wire.encode_batch(part) for part in parts]


class _Splitter:
    """Fills one part after the other."""

    def __init__(self, batch: wire.Batch, *, max_bytes: int) -> None:
        self.refused: list[str] = []
        self._batch = batch
        self._max_bytes = max_bytes
        self._start_part()

    def parts(self) -> Iterator[wire.Batch]:
        """Yield the parts; `refused` is complete after the last one."""
        yield from self._event_parts()
        yield from self._point_parts()
        yield from self._object_parts()
        for event in self._batch.events:
            if isinstance(event, wire.FinishRun):
                self._builder.events.append(event)
        last = self._builder.build()
        if last is not None:
            yield last

    def _start_part(self) -> None:
        self._builder = BatchBuilder(
            run_id=self._batch.run_id, sent_us=self._batch.sent_us
        )
        # The finishing events are small and few; the header's allowance covers one.
        self._room = self._max_bytes - HEADER_BYTES
        self._indexes: dict[int, int] = {}

    def _make_room(self, size: int, series: int | None = None) -> Iterator[wire.Batch]:
        """Yield the part in the making if an item of `size` bytes does not fit into it.

        `series` is the item's series: naming it takes room too.
        """
        if size + self._series_bytes(series) > self._room:
            part = self._builder.build()
            if part is not None:
                yield part
            self._start_part()
        self._room -= size + self._series_bytes(series)

    def _event_parts(self) -> Iterator[wire.Batch]:
        for number, whole in enumerate(self._batch.events):
            if isinstance(whole, wire.FinishRun):
                continue
            for event in _smaller(whole):
                size = len(wire.encode_payload(event))
                if size > self._max_bytes - HEADER_BYTES:
                    self.refused.append(f"events[{number}]: {size} bytes")
                    continue
                yield from self._make_room(size)
                self._builder.events.append(event)

    def _point_parts(self) -> Iterator[wire.Batch]:
        points = self._batch.points
        if points is None:
            return
        columns = _Columns(points)
        # Usually all series fit into every part, and points can be cut by count.
        naming = sum(map(self._series_bytes, range(len(self._batch.series))))
        if naming <= self._max_bytes // 2:
            rows = (self._max_bytes - HEADER_BYTES - naming) // _POINT_BYTES
            for start in range(0, points.count, rows):
                yield from self._make_room(rows * _POINT_BYTES + naming)
                self._add_rows(columns, slice(start, start + rows))
            return
        for row, index in enumerate(columns.series):
            yield from self._make_room(_POINT_BYTES, index)
            self._add_rows(columns, slice(row, row + 1))

    def _add_rows(self, columns: _Columns, rows: slice) -> None:
        series = columns.series[rows]
        own = {index: self._series(index) for index in sorted(set(series))}
        self._builder.extend_points(
            array("I", map(own.__getitem__, series)),
            steps=columns.steps[rows],
            values=columns.values[rows],
            times_us=columns.times_us[rows],
            epochs=columns.epochs[rows],
        )

    def _object_parts(self) -> Iterator[wire.Batch]:
        objects = self._batch.objects
        if objects is None:
            return
        rows = zip(
            unpack_column("I", objects.series),
            unpack_column("q", objects.steps),
            unpack_column("q", objects.times_us),
            _epochs(objects.epochs, objects.count),
            objects.payloads,
            strict=True,
        )
        for number, (index, step, time_us, epoch, payload) in enumerate(rows):
            if len(payload) > limits.MAX_OBJECT_BYTES:
                self.refused.append(f"objects[{number}]: {len(payload)} bytes")
                continue
            yield from self._make_room(_OBJECT_BYTES + len(payload), index)
            self._builder.add_object(
                self._series(index),
                step=step,
                payload=payload,
                time_us=time_us,
                epoch=epoch,
            )

    def _series_bytes(self, index: int | None) -> int:
        """Return what naming the series adds to the part, 0 if it is named already."""
        if index is None or index in self._indexes:
            return 0
        ref = self._batch.series[index]
        # At most four UTF-8 bytes a character.
        return 4 * (len(ref.name) + len(ref.context)) + len(ref.kind) + _SERIES_BYTES

    def _series(self, index: int) -> int:
        own = self._indexes.get(index)
        if own is None:
            own = self._builder.series_index(self._batch.series[index])
            self._indexes[index] = own
        return own


class _Columns:
    def __init__(self, points: wire.PointColumns) -> None:
        self.series = unpack_column("I", points.series)
        self.steps = unpack_column("q", points.steps)
        self.values = unpack_column("d", points.values)
        self.times_us = unpack_column("q", points.times_us)
        self.epochs = _epochs(points.epochs, points.count)


def _epochs(column: bytes, count: int) -> array[Any]:
    return unpack_column("d", column) if column else array("d", [math.nan]) * count


def _smaller(event: wire.Event) -> Iterator[wire.Event]:
    """Yield the event in the smallest pieces that mean the same."""
    if isinstance(event, wire.SetAttributes):
        for assignment in event.assignments:
            yield wire.SetAttributes([assignment])
    elif isinstance(event, wire.DeleteAttributes):
        for path in event.paths:
            yield wire.DeleteAttributes([path])
    else:
        yield event

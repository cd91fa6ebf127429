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
from typing import Any, Final

import msgspec

from matyan_wire import batch as wire
from matyan_wire import limits
from matyan_wire.batch_builder import BatchBuilder, pack_column, unpack_column

HEADER_BYTES: Final = 1024
"""More than a batch takes without series, columns and events."""

_SERIES_BYTES: Final = 16  # array and string headers of a series
_POINT_BYTES: Final = 4 + 8 + 8 + 8 + 8
_OBJECT_BYTES: Final = 4 + 8 + 8 + 8 + 5


class Split:
    """The records of a batch: iterate once to get them, encoded, in order.

    Parts are made as they are asked for, so that they do not all exist beside the
    batch. The batch's columns must be valid.

    Args:
        batch: The batch.
        encoded: Its wire bytes, if they are at hand.
        max_bytes: Bound on each record, at least 64 kB.

    Attributes:
        refused: After the iteration: what was left out, by name, and its size.

    Raises:
        ValueError: If the batch is itself a part of a larger one and too large.
    """

    def __init__(
        self,
        batch: wire.Batch,
        *,
        encoded: bytes | memoryview | None = None,
        max_bytes: int = limits.MAX_RECORD_BYTES,
    ) -> None:
        self.refused: list[str] = []
        self._batch = batch
        self._max_bytes = max_bytes
        self._encoded = wire.encode_batch(batch) if encoded is None else encoded
        self._fits = len(self._encoded) <= max_bytes
        position = batch.position
        is_part = position is not None and (position.part or not position.last_part)
        if is_part and not self._fits:
            msg = f"a part of {len(self._encoded)} bytes; the limit is {max_bytes}"
            raise ValueError(msg)

    def __iter__(self) -> Iterator[bytes | memoryview]:
        """Yield the records."""
        if self._fits:
            yield self._encoded
            return
        self._encoded = b""
        splitter = _Splitter(self._batch, self.refused, max_bytes=self._max_bytes)
        number = 0
        waiting: wire.Batch | None = None
        for part in splitter.parts():
            if waiting is not None:
                yield self._numbered(waiting, number, last=False)
                number += 1
            waiting = part
        if waiting is not None:
            yield self._numbered(waiting, number, last=True)

    def _numbered(self, part: wire.Batch, number: int, *, last: bool) -> bytes:
        if self._batch.position is not None:
            part.position = msgspec.structs.replace(
                self._batch.position, part=number, last_part=last
            )
        return wire.encode_batch(part)


class _Splitter:
    """Fills one part after the other."""

    def __init__(
        self, batch: wire.Batch, refused: list[str], *, max_bytes: int
    ) -> None:
        self.refused = refused
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
        yield from self._finish_part()

    def _start_part(self) -> None:
        self._builder = BatchBuilder(
            run_id=self._batch.run_id, sent_us=self._batch.sent_us
        )
        # The finishing events are small and few; the header's allowance covers one.
        self._room = self._max_bytes - HEADER_BYTES
        self._indexes: dict[int, int] = {}

    def _finish_part(self) -> Iterator[wire.Batch]:
        part = self._builder.build()
        if part is not None:
            yield part
        self._start_part()

    def _make_room(self, size: int, series: int | None = None) -> Iterator[wire.Batch]:
        """Yield the part in the making if an item of `size` bytes does not fit into it.

        `series` is the item's series: naming it takes room too.
        """
        if size + self._series_bytes(series) > self._room:
            yield from self._finish_part()
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
        # Usually all series fit into every part, and points can be cut by count.
        naming = sum(map(self._series_bytes, range(len(self._batch.series))))
        if naming <= self._max_bytes // 2:
            yield from self._finish_part()
            rows = (self._max_bytes - HEADER_BYTES - naming) // _POINT_BYTES
            for start in range(0, points.count, rows):
                yield self._cut(points, start, min(start + rows, points.count))
            return
        columns = zip(
            unpack_column("I", points.series),
            unpack_column("q", points.steps),
            unpack_column("d", points.values),
            unpack_column("q", points.times_us),
            _epochs(points.epochs, points.count),
            strict=True,
        )
        for index, step, value, time_us, epoch in columns:
            yield from self._make_room(_POINT_BYTES, index)
            self._builder.add_point(
                self._series(index),
                step=step,
                value=value,
                time_us=time_us,
                epoch=epoch,
            )

    def _cut(self, points: wire.PointColumns, start: int, stop: int) -> wire.Batch:
        """Return a part with the points from `start` to `stop`."""
        own = array("I")
        indexes = unpack_column("I", points.series[4 * start : 4 * stop])
        used = sorted(set(indexes))
        new_index = {index: new for new, index in enumerate(used)}
        own.extend(map(new_index.__getitem__, indexes))
        rows = slice(8 * start, 8 * stop)
        return wire.Batch(
            version=wire.BATCH_VERSION,
            run_id=self._batch.run_id,
            sent_us=self._batch.sent_us,
            series=[self._batch.series[index] for index in used],
            points=wire.PointColumns(
                count=stop - start,
                series=pack_column(own),
                steps=points.steps[rows],
                values=points.values[rows],
                times_us=points.times_us[rows],
                epochs=points.epochs[rows],
            ),
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

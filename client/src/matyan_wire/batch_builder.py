"""Collect points, objects and events into a columnar `Batch`.

Columns are gathered in arrays: 36 bytes a point, where lists of numbers would take
four times that. `array` has the machine's own byte order; on a big-endian machine the
columns are swapped to the little-endian of the wire.

Design note: docs/subsystems/wire.md
"""

from __future__ import annotations

import math
import sys
from array import array
from typing import Any, Final

from matyan_wire import batch as wire

_SWAP: Final = sys.byteorder == "big"


def pack_column(values: array[Any]) -> bytes:
    """Return an array as a column: "I" as `<u4`, "q" as `<i8`, "d" as `<f8`."""
    if _SWAP:
        values = values[:]
        values.byteswap()
    return values.tobytes()


def unpack_column(typecode: str, column: bytes) -> array[Any]:
    """Return a column as an array; the inverse of `pack_column`.

    Raises:
        ValueError: If the length is no multiple of the item size.
    """
    values: array[Any] = array(typecode)
    values.frombytes(column)
    if _SWAP:
        values.byteswap()
    return values


class BatchBuilder:
    """One batch in the making. Not shared between threads.

    Attributes:
        events: Appended to by the caller, in order.
    """

    def __init__(self, *, run_id: str, sent_us: int = wire.UNKNOWN_TIME) -> None:
        self._run_id = run_id
        self._sent_us = sent_us
        self._series: dict[wire.SeriesRef, int] = {}
        self.events: list[wire.Event] = []
        # Read by the gateway's inner loop, which appends a point in five statements.
        self.point_series = array("I")
        self.point_steps = array("q")
        self.point_values = array("d")
        self.point_times_us = array("q")
        self.point_epochs = array("d")
        self._object_series = array("I")
        self._object_steps = array("q")
        self._object_times_us = array("q")
        self._object_epochs = array("d")
        self._payloads: list[bytes] = []

    def series_index(self, ref: wire.SeriesRef) -> int:
        """Return the batch's index of a series, adding it when new."""
        return self._series.setdefault(ref, len(self._series))

    def add_point(
        self, series: int, *, step: int, value: float, time_us: int, epoch: float
    ) -> None:
        """Append a metric point; `epoch` is NaN where there is none."""
        self.point_series.append(series)
        self.point_steps.append(step)
        self.point_values.append(value)
        self.point_times_us.append(time_us)
        self.point_epochs.append(epoch)

    def add_object(
        self, series: int, *, step: int, payload: bytes, time_us: int, epoch: float
    ) -> None:
        """Append an object point; `epoch` is NaN where there is none."""
        self._object_series.append(series)
        self._object_steps.append(step)
        self._object_times_us.append(time_us)
        self._object_epochs.append(epoch)
        self._payloads.append(payload)

    def build(self) -> wire.Batch | None:
        """Return the batch, or None if nothing was added."""
        if not (self.events or self.point_series or self._payloads):
            return None
        return wire.Batch(
            version=wire.BATCH_VERSION,
            run_id=self._run_id,
            sent_us=self._sent_us,
            series=list(self._series),
            points=self._points(),
            objects=self._objects(),
            events=self.events,
        )

    def _points(self) -> wire.PointColumns | None:
        if not self.point_series:
            return None
        return wire.PointColumns(
            count=len(self.point_series),
            series=pack_column(self.point_series),
            steps=pack_column(self.point_steps),
            values=pack_column(self.point_values),
            times_us=pack_column(self.point_times_us),
            epochs=_pack_epochs(self.point_epochs),
        )

    def _objects(self) -> wire.ObjectColumns | None:
        if not self._payloads:
            return None
        return wire.ObjectColumns(
            count=len(self._payloads),
            series=pack_column(self._object_series),
            steps=pack_column(self._object_steps),
            times_us=pack_column(self._object_times_us),
            payloads=self._payloads,
            epochs=_pack_epochs(self._object_epochs),
        )


def _pack_epochs(epochs: array[float]) -> bytes:
    return b"" if all(map(math.isnan, epochs)) else pack_column(epochs)

"""Event-log records -> validated batches with numpy columns.

Everything a record could be wrong in is found here, before any transaction, and raised
as `InvalidInputError` with the field and the reason: it can never be applied.

Design note: docs/subsystems/storage.md#ingestion
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from backend.bus.base import Record
from backend.bus.topics import REPLAY_OF
from backend.domain.series import Int64s
from backend.errors import InvalidInputError, LimitExceededError
from backend.storage.repositories.series_columns import Columns, payload_array
from matyan_wire import limits
from matyan_wire.batch import (
    AUTO_STEP,
    BATCH_VERSION,
    ENVELOPE_VERSION,
    KINDS,
    METRIC,
    UNKNOWN_TIME,
    Batch,
    DeleteAttributes,
    Envelope,
    ObjectColumns,
    PointColumns,
    SeriesRef,
    decode_batch,
    decode_envelope,
    encode_batch,
    encode_envelope,
)

_NOTHING: Final = DeleteAttributes([])

NEW_SERIES_BYTES: Final = 700
"""About what a new series writes: its record, its number, its name, index rows."""


@dataclass(frozen=True, slots=True)
class BatchColumns:
    """The metric points, or the object points, of a batch, in tracking order.

    Attributes:
        series: Index into the batch's series, per point.
        points: Times are known; a step may be `AUTO_STEP`.
        is_auto: Which steps the store assigns, None if none.
    """

    series: Int64s
    points: Columns
    is_auto: npt.NDArray[np.bool_] | None

    def take(self, keep: npt.NDArray[np.bool_]) -> BatchColumns:
        """Return the points where `keep` is true."""
        is_auto = None if self.is_auto is None else self.is_auto[keep]
        return BatchColumns(self.series[keep], self.points.take(keep), is_auto)

    def part(self, start: int, stop: int) -> BatchColumns:
        """Return the points start <= i < stop."""
        where = slice(start, stop)
        is_auto = None if self.is_auto is None else self.is_auto[where]
        return BatchColumns(self.series[where], self.points.take(where), is_auto)


@dataclass(frozen=True, slots=True)
class IncomingBatch:
    """A record, decoded and valid.

    Attributes:
        record: Where it came from.
        log: "log_id/topic/partition" of it.
        received_us: The gateway's clock.
        digest: The frame's digest, or that of a replayed record's origin; empty for
            other records of writers with positions.
        batch: Its events, series and position.
        points: Its metric points, or None.
        objects: Its object points, or None.
    """

    record: Record
    log: str
    received_us: int
    digest: bytes
    batch: Batch
    points: BatchColumns | None
    objects: BatchColumns | None

    @property
    def run_id(self) -> str:
        """The run it is about."""
        return self.batch.run_id


def decode_record(record: Record) -> IncomingBatch:
    """Return the batch in `record`.

    Raises:
        InvalidInputError: If the record can never be applied; `field` and `reason` say
            why.
    """
    try:
        envelope = decode_envelope(record.value)
        batch = decode_batch(envelope.batch)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidInputError(field="record", reason=str(error)) from error
    _check_head(envelope, batch)
    _check_series(batch.series)
    digest = envelope.digest
    origin = dict(record.headers).get(REPLAY_OF)
    if origin is not None:
        # Its writer is further on by now: its position would make it look applied.
        batch.position = None
        digest = hashlib.blake2b(origin, digest_size=16).digest()
    position = record.position
    return IncomingBatch(
        record,
        f"{position.log_id}/{position.topic}/{position.partition}",
        envelope.received_us,
        digest,
        batch,
        _metric_columns(batch, batch.points, envelope.received_us),
        _object_columns(batch, batch.objects, envelope.received_us),
    )


def split_events(
    item: IncomingBatch, refused: Collection[int]
) -> tuple[Record, Record]:
    """Return a record of the refused events of the batch alone, and one of all else.

    Both stand at the batch's place in the log. The first has no writer's position. In
    the second each refused event is replaced by one that does nothing: how far it has
    been applied counts in the batch as it came too, which is what a crash has delivered
    again.
    """
    batch = item.batch
    alone = Batch(
        batch.version,
        batch.run_id,
        sent_us=batch.sent_us,
        events=[batch.events[index] for index in sorted(refused)],
    )
    others = [
        _NOTHING if index in refused else event
        for index, event in enumerate(batch.events)
    ]
    rest = msgspec.structs.replace(batch, events=others)
    return _with_batch(item, alone), _with_batch(item, rest)


def _with_batch(item: IncomingBatch, batch: Batch) -> Record:
    value = encode_envelope(
        received_us=item.received_us, digest=item.digest, batch=encode_batch(batch)
    )
    return replace(item.record, value=value)


def _check_head(envelope: Envelope, batch: Batch) -> None:
    if envelope.version != ENVELOPE_VERSION:
        raise InvalidInputError(
            field="envelope.version", reason="unknown", value=envelope.version
        )
    if batch.version != BATCH_VERSION:
        raise InvalidInputError(
            field="batch.version", reason="unknown", value=batch.version
        )
    if not limits.is_run_id(batch.run_id):
        raise InvalidInputError(field="batch.run_id", reason="not a run id")
    position = batch.position
    if position is not None and not (
        1 <= len(position.writer) <= limits.MAX_WRITER_CHARS
        and position.epoch >= 0
        and position.seq >= 1
        and position.part >= 0
    ):
        raise InvalidInputError(field="batch.position", reason="out of range")


def _check_series(refs: Sequence[SeriesRef]) -> None:
    for index, ref in enumerate(refs):
        if ref.kind not in KINDS:
            raise InvalidInputError(
                field=f"series[{index}].kind", reason="unknown", value=ref.kind
            )
        _check_texts(ref.name, ref.context)


@lru_cache(maxsize=65_536)
def _check_texts(name: str, context: str) -> None:
    size = _utf8_size(name, "series.name")
    if not 1 <= size <= limits.MAX_SERIES_NAME_BYTES:
        raise LimitExceededError(
            what="series name", size=size, limit=limits.MAX_SERIES_NAME_BYTES
        )
    size = _utf8_size(context, "series.context")
    if size > limits.MAX_CONTEXT_BYTES:
        raise LimitExceededError(
            what="series context", size=size, limit=limits.MAX_CONTEXT_BYTES
        )
    try:
        is_object = isinstance(json.loads(context), dict)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(field="series.context", reason=str(error)) from error
    if not is_object:
        raise InvalidInputError(field="series.context", reason="not a JSON object")


def _utf8_size(text: str, field: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidInputError(field=field, reason=str(error)) from error


def _metric_columns(
    batch: Batch, columns: PointColumns | None, received_us: int
) -> BatchColumns | None:
    if columns is None or columns.count == 0:
        return None
    count = _check_count(columns.count, "points")
    values = _column(columns.values, np.dtype("<f8"), count, "points.values")
    return _columns(batch, columns, values, received_us, "points")


def _object_columns(
    batch: Batch, columns: ObjectColumns | None, received_us: int
) -> BatchColumns | None:
    if columns is None or columns.count == 0:
        return None
    count = _check_count(columns.count, "objects")
    if len(columns.payloads) != count:
        raise InvalidInputError(
            field="objects.payloads", reason="length", size=len(columns.payloads)
        )
    for payload in columns.payloads:
        _check_payload(payload)
    return _columns(
        batch, columns, payload_array(columns.payloads), received_us, "objects"
    )


_payload_decoder: Final = msgspec.msgpack.Decoder(msgspec.Raw)


def _check_payload(payload: bytes) -> None:
    if len(payload) > limits.MAX_OBJECT_BYTES:
        raise LimitExceededError(
            what="object", size=len(payload), limit=limits.MAX_OBJECT_BYTES
        )
    try:
        _payload_decoder.decode(payload)
    except msgspec.MsgspecError as error:
        raise InvalidInputError(field="objects.payloads", reason=str(error)) from error


def _columns(
    batch: Batch,
    columns: PointColumns | ObjectColumns,
    values: npt.NDArray[Any],
    received_us: int,
    field: str,
) -> BatchColumns:
    count = columns.count
    series = _column(columns.series, np.dtype("<u4"), count, f"{field}.series")
    series = series.astype(np.int64)
    _check_indices(series, batch.series, field)
    steps = _column(columns.steps, np.dtype("<i8"), count, f"{field}.steps")
    times = _column(columns.times_us, np.dtype("<i8"), count, f"{field}.times_us")
    unknown = times == UNKNOWN_TIME
    if bool(unknown.any()):
        times = np.where(unknown, received_us, times)
    if columns.epochs:
        epochs = _column(columns.epochs, np.dtype("<f8"), count, f"{field}.epochs")
    else:
        epochs = np.full(count, np.nan)
    is_auto = steps == AUTO_STEP
    return BatchColumns(
        series,
        Columns(steps, values, times, epochs),
        is_auto if bool(is_auto.any()) else None,
    )


def _check_count(count: int, field: str) -> int:
    if not 0 <= count <= limits.MAX_POINTS_PER_BATCH:
        raise LimitExceededError(
            what=f"{field}.count", size=count, limit=limits.MAX_POINTS_PER_BATCH
        )
    return count


def _check_indices(series: Int64s, refs: Sequence[SeriesRef], field: str) -> None:
    if int(series.max()) >= len(refs):
        raise InvalidInputError(
            field=f"{field}.series",
            reason="index out of range",
            value=int(series.max()),
        )
    for index in np.unique(series).tolist():
        if (refs[index].kind == METRIC) != (field == "points"):
            raise InvalidInputError(
                field=f"{field}.series", reason="kind", value=refs[index].kind
            )


def _column(
    raw: bytes, dtype: np.dtype[Any], count: int, field: str
) -> npt.NDArray[Any]:
    if len(raw) != count * dtype.itemsize:
        raise InvalidInputError(
            field=field, reason="length", size=len(raw), expected=count * dtype.itemsize
        )
    return np.frombuffer(raw, dtype)

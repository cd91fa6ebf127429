"""From a frame of the JSON protocol to a columnar batch.

A frame whose every item is in the strict form is decoded by msgspec in one call. Any
other frame is taken item by item: strict first, then through `json_lax`. Every item
that can be used is; the others are named. A frame which is not JSON is refused whole.
Beyond `MAX_STUDIED_ITEMS` bad items only those in the strict form are taken.

Large frames are decoded in pieces, so that the decoded form of all items never exists
at once: memory stays near the size of the frame plus that of the batch.

Design note: docs/subsystems/wire.md#json-protocol
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, ClassVar, Final, cast

import msgspec

from matyan_wire import batch as wire
from matyan_wire import json_lax, limits
from matyan_wire import json_messages as messages
from matyan_wire.batch_builder import BatchBuilder
from matyan_wire.blob_paths import normal_blob_path
from matyan_wire.contexts import EMPTY_CONTEXT, canonical_context
from matyan_wire.json_frame import STRICT_FAILURES, as_array, iter_arrays, iter_items
from matyan_wire.json_lax import ItemError, LaxMetric
from matyan_wire.payloads import encodable_text, encode_bounded

MAX_NAMED_ITEMS: Final = 20
"""Bad items named one by one; the rest is counted."""

MAX_STUDIED_ITEMS: Final = 1_000
"""Bad items of a frame after which no other is converted into the strict form."""

# `timezone.utc` under a name that Python 3.10 has and linters leave alone.
_UTC: Final = timezone(timedelta(0))
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=_UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_MAX_TIME_S: Final = 1e11

_frame_decoder = msgspec.json.Decoder(list[messages.Message])

LogMetric = messages.LogMetricMessage


@dataclass(frozen=True, slots=True)
class BadItem:
    """An item that was refused.

    Attributes:
        index: Its place in the frame, from 0.
        field: The offending field, "" for the item itself.
        reason: What is wrong with it.
    """

    index: int
    field: str
    reason: str

    def describe(self) -> str:
        """Return one line for the client."""
        where = f" {self.field}" if self.field else ""
        return f"item {self.index}{where}: {self.reason}"


@dataclass(slots=True)
class JsonFrame:
    """What a frame said.

    Attributes:
        batch: Every usable item, None if there is none.
        items: Number of items in the frame.
        refused: Number of items that could not be used.
        named: The first `MAX_NAMED_ITEMS` of them.
        counts: Number of usable items by message type.
    """

    batch: wire.Batch | None = None
    items: int = 0
    refused: int = 0
    named: list[BadItem] = field(default_factory=list[BadItem])
    counts: Counter[str] = field(default_factory=Counter[str])

    def error(self) -> str | None:
        """Return what to tell the client of the refused items, None if there are none.

        At most a few kilobytes.
        """
        if not self.refused:
            return None
        named = "; ".join(item.describe() for item in self.named)
        more = self.refused - len(self.named)
        rest = f"; and {more} more" if more else ""
        return f"{self.refused} of {self.items} items refused: {named}{rest}"


def decode_json_frame(
    frame: bytes, *, run_id: str, sent_us: int = wire.UNKNOWN_TIME
) -> JsonFrame:
    """Return the batch of a frame, and what had to be left out of it.

    Args:
        frame: UTF-8 JSON: an object, or an array of objects.
        run_id: The run of the connection; ids inside the messages are ignored.
        sent_us: When the frame was sent, if that is known.

    Raises:
        FrameSyntaxError: If the frame is not JSON.
    """
    columnizer = _Columnizer(run_id=run_id, sent_us=sent_us)
    for array in iter_arrays(frame):
        try:
            decoded = _frame_decoder.decode(as_array(array))
        except STRICT_FAILURES:
            for item in iter_items(array, is_hopeless=columnizer.is_hopeless):
                columnizer.take(item)
        else:
            columnizer.take_strict(decoded)
    return columnizer.finish()


class _Columnizer:
    """Turns messages into a batch, noting the items that cannot be used."""

    def __init__(self, *, run_id: str, sent_us: int) -> None:
        self._run_id = run_id
        self._builder = BatchBuilder(run_id=run_id, sent_us=sent_us)
        self._frame = JsonFrame()
        # Contexts arrive as text; the same text needs looking into once a frame only.
        self._metric_series: dict[tuple[str, bytes], int] = {}
        self._contexts: dict[bytes, str] = {}

    # Not `Iterable[messages.Message]`: by its class, which is cheaper than isinstance,
    # no checker can tell a message of metrics from the others.
    def take_strict(self, decoded: Iterable[Any]) -> None:
        """Add messages in the strict form."""
        add_point, add = self._add_point, self._add
        first = self._frame.items
        index, points = first, 0
        for index, message in enumerate(decoded, start=first + 1):
            try:
                if message.__class__ is LogMetric:
                    add_point(message)
                    points += 1
                else:
                    add(message)
            except ItemError as error:
                self._refuse(index - 1, error)
        self._frame.items = index
        if points:
            self._frame.counts["log_metric"] += points

    def is_hopeless(self) -> bool:
        """Return whether so much was refused that items are not studied any more."""
        return self._frame.refused >= MAX_STUDIED_ITEMS

    def take(
        self, message_of: Callable[[], messages.Message | LaxMetric] | None
    ) -> None:
        """Add the next item, or note why it cannot be used; None is counted only."""
        if message_of is None:
            self._frame.refused += 1
            self._frame.items += 1
            return
        try:
            message = message_of()
            if isinstance(message, LogMetric):
                self._add_point(message)
                self._frame.counts["log_metric"] += 1
            else:
                self._add(message)
        except ItemError as error:
            self._refuse(self._frame.items, error)
        self._frame.items += 1

    def finish(self) -> JsonFrame:
        """Return the result."""
        self._frame.batch = self._builder.build()
        return self._frame

    def _refuse(self, index: int, error: ItemError) -> None:
        self._frame.refused += 1
        if len(self._frame.named) < MAX_NAMED_ITEMS:
            self._frame.named.append(BadItem(index, error.field, error.reason[:200]))

    def _add_point(self, message: messages.LogMetricMessage) -> None:
        key = (message.name, bytes(message.context))
        series = self._metric_series.get(key)
        if series is None:
            series = self._metric_series[key] = self._metric_series_of(*key)
        step, epoch, time = message.step, message.epoch, message.client_datetime
        builder = self._builder
        builder.point_series.append(series)
        builder.point_steps.append(wire.AUTO_STEP if step is None else step)
        builder.point_values.append(message.value)
        builder.point_times_us.append(
            wire.UNKNOWN_TIME if time is None else (time - _EPOCH) // _MICROSECOND
        )
        builder.point_epochs.append(math.nan if epoch is None else epoch)

    def _metric_series_of(self, name: str, raw_context: bytes) -> int:
        context = self._contexts.get(raw_context)
        if context is None:
            context = _context_text(_decoded_context(raw_context))
            self._contexts[raw_context] = context
        return self._series(wire.METRIC, name, context)

    def _series(self, kind: str, name: str, context: str) -> int:
        _check_bytes("name", name, limits.MAX_SERIES_NAME_BYTES)
        return self._builder.series_index(wire.SeriesRef(kind, name, context))

    def _add(self, message: Any) -> None:
        tag, handler = self._HANDLERS[message.__class__]
        handler(self, message)
        self._frame.counts[tag] += 1

    def _lax_metric(self, message: LaxMetric) -> None:
        if isinstance(message.value, dict):
            self._object_point(message)  # type: ignore[arg-type]  # same fields
            return
        self._builder.add_point(
            self._series(wire.METRIC, message.name, _context_text(message.context)),
            value=message.value,
            **_when(message),
        )

    def _object_point(self, message: messages.LogCustomObjectMessage) -> None:
        kind = _object_kind(message)
        try:
            payload = encode_bounded(message.value, max_bytes=limits.MAX_OBJECT_BYTES)
        except ValueError as error:
            raise ItemError(field="value", reason=str(error)) from error
        self._builder.add_object(
            self._series(kind, message.name, _context_text(message.context)),
            payload=payload,
            **_when(message),
        )

    def _terminal_line(self, message: messages.LogTerminalLineMessage) -> None:
        _check_bytes("line", message.line, limits.MAX_OBJECT_BYTES - 8)
        self._builder.add_object(
            self._series("logs", "logs", EMPTY_CONTEXT),
            step=message.step,
            payload=wire.encode_payload(message.line),
            time_us=wire.UNKNOWN_TIME,
            epoch=math.nan,
        )

    def _log_record(self, message: messages.LogRecordMessage) -> None:
        record = {
            "message": message.message,
            "log_level": message.level,
            "timestamp": message.timestamp,
            "args": message.extra_args,
            "logger_info": message.logger_info,
        }
        try:
            payload = encode_bounded(record, max_bytes=limits.MAX_OBJECT_BYTES)
        except ValueError as error:
            raise ItemError(field="message", reason=str(error)) from error
        known = abs(message.timestamp) < _MAX_TIME_S
        self._builder.add_object(
            self._series("log_records", "__log_records", EMPTY_CONTEXT),
            step=wire.AUTO_STEP,
            payload=payload,
            time_us=round(message.timestamp * 1e6) if known else wire.UNKNOWN_TIME,
            epoch=math.nan,
        )

    def _create_run(self, message: messages.CreateRunMessage) -> None:
        # Opening the run again takes back that it ended.
        self._builder.events[:] = [
            event
            for event in self._builder.events
            if not isinstance(event, wire.FinishRun)
        ]
        self._builder.events.append(
            wire.CreateRun(_time_us(message.client_datetime), message.force_resume)
        )

    def _finish_run(self, message: messages.FinishRunMessage) -> None:
        self._builder.events.append(wire.FinishRun(_time_us(message.client_datetime)))

    def _hparams(self, message: messages.LogHparamsMessage) -> None:
        assignments: list[tuple[list[str], bytes]] = []
        for path, value in _assignments(message.value):
            levels = limits.MAX_ATTRIBUTE_DEPTH - len(path)
            try:
                payload = encode_bounded(
                    value, max_bytes=limits.MAX_ATTRIBUTES_BYTES, levels=levels
                )
            except ValueError as error:
                raise ItemError(field="value", reason=str(error)) from error
            assignments.append(([encodable_text(key) for key in path], payload))
        if assignments:
            self._builder.events.append(wire.SetAttributes(assignments))

    def _properties(self, message: messages.SetRunPropertyMessage) -> None:
        _check_bytes("name", message.name, limits.MAX_ENTITY_NAME_BYTES)
        _check_bytes("description", message.description, limits.MAX_DESCRIPTION_BYTES)
        _check_bytes("experiment", message.experiment, limits.MAX_ENTITY_NAME_BYTES)
        properties = wire.SetProperties(
            message.name, message.description, message.experiment, message.archived
        )
        if properties != wire.SetProperties():
            self._builder.events.append(properties)

    def _add_tag(self, message: messages.AddTagMessage) -> None:
        _check_tag(message.tag_name)
        self._builder.events.append(wire.AddTag(message.tag_name))

    def _remove_tag(self, message: messages.RemoveTagMessage) -> None:
        _check_tag(message.tag_name)
        self._builder.events.append(wire.RemoveTag(message.tag_name))

    def _blob_ref(self, message: messages.BlobRefMessage) -> None:
        try:
            path = normal_blob_path(message.artifact_path)
        except ValueError as error:
            raise ItemError(field="artifact_path", reason=str(error)) from error
        # The key decides which blob a reader gets: never one of another run.
        if message.s3_key != f"{self._run_id}/{message.artifact_path}":
            raise ItemError(
                field="s3_key", reason="must be the run id, '/' and the artifact_path"
            )
        _check_bytes("content_type", message.content_type, 255)
        self._builder.events.append(
            wire.BlobRef(path, f"{self._run_id}/{path}", message.content_type)
        )

    # In the class, as plain functions: bound methods would make an instance refer to
    # itself, and its columns would stay until the collector comes.
    _HANDLERS: ClassVar[Mapping[type, tuple[str, Callable[..., None]]]] = {
        LaxMetric: ("log_metric", _lax_metric),
        messages.CreateRunMessage: ("create_run", _create_run),
        messages.FinishRunMessage: ("finish_run", _finish_run),
        messages.LogHparamsMessage: ("log_hparams", _hparams),
        messages.SetRunPropertyMessage: ("set_run_property", _properties),
        messages.AddTagMessage: ("add_tag", _add_tag),
        messages.RemoveTagMessage: ("remove_tag", _remove_tag),
        messages.LogCustomObjectMessage: ("log_custom_object", _object_point),
        messages.LogTerminalLineMessage: ("log_terminal_line", _terminal_line),
        messages.LogRecordMessage: ("log_record", _log_record),
        messages.BlobRefMessage: ("blob_ref", _blob_ref),
    }


def _assignments(value: dict[str, Any]) -> list[tuple[list[str], Any]]:
    """Return the assignments an attribute message means.

    Objects of one key lead down to the path that was assigned; several keys at the top
    are one assignment each.
    """
    if len(value) != 1:
        return [([key], child) for key, child in value.items()]
    path: list[str] = []
    node: Any = value
    while isinstance(node, dict) and len(cast("dict[str, Any]", node)) == 1:
        if len(path) == limits.MAX_ATTRIBUTE_DEPTH:
            raise ItemError(field="value", reason="nests too deeply")
        key, node = next(iter(cast("dict[str, Any]", node).items()))
        path.append(key)
    return [(path, node)]


def _object_kind(message: messages.LogCustomObjectMessage) -> str:
    for dtype in (message.dtype, message.value.get("type")):
        if isinstance(dtype, str) and dtype in messages.OBJECT_KIND_BY_DTYPE:
            return messages.OBJECT_KIND_BY_DTYPE[dtype]
    reason = f"unknown object type {json_lax.shortened(message.dtype)}"
    raise ItemError(field="dtype", reason=reason)


def _when(message: Any) -> dict[str, Any]:
    """Return step, time and epoch of a message as the columns hold them."""
    return {
        "step": wire.AUTO_STEP if message.step is None else message.step,
        "time_us": _time_us(message.client_datetime),
        "epoch": math.nan if message.epoch is None else message.epoch,
    }


def _time_us(time: datetime | None) -> int:
    return wire.UNKNOWN_TIME if time is None else (time - _EPOCH) // _MICROSECOND


def _decoded_context(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except STRICT_FAILURES as error:
        raise ItemError(
            field="context", reason=json_lax.ascii_only(str(error))
        ) from error


def _context_text(context: Any) -> str:
    if context is not None and not isinstance(context, dict):
        reason = f"expected an object, got {json_lax.shortened(context)}"
        raise ItemError(field="context", reason=reason)
    try:
        given = cast("dict[str, Any] | None", context)
        text = encodable_text(canonical_context(given))
    except (ValueError, TypeError) as error:
        raise ItemError(field="context", reason=str(error)) from error
    _check_bytes("context", text, limits.MAX_CONTEXT_BYTES)
    return text


def _check_tag(name: str) -> None:
    if not name:
        raise ItemError(field="tag_name", reason="must not be empty")
    _check_bytes("tag_name", name, limits.MAX_TAG_NAME_BYTES)


def _check_bytes(field_name: str, text: str | None, limit: int) -> None:
    # A character is at most four bytes: short text needs no encoding to be measured.
    if text is not None and len(text) * 4 > limit:
        size = len(text.encode())
        if size > limit:
            raise ItemError(
                field=field_name, reason=f"{size} bytes; the limit is {limit}"
            )

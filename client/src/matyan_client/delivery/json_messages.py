"""A batch as messages of the JSON protocol, for gateways without `matyan.v2`.

Everything a batch says has a message, except deleting attributes and steps with lists
of objects: those are left out, and `left_out` counts them.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, Final, Literal

from matyan_wire.batch import (
    AUTO_STEP,
    UNKNOWN_TIME,
    AddTag,
    Batch,
    BlobRef,
    CreateRun,
    DeleteAttributes,
    Event,
    FinishRun,
    ObjectColumns,
    PointColumns,
    RemoveTag,
    SeriesRef,
    SetAttributes,
    SetProperties,
    decode_payload,
)

MESSAGES_PER_FRAME: Final = 1000

NO_DELETIONS: Final = "deleted attributes: this server's protocol has no message for it"
NO_LISTS: Final = "lists of objects: this server's protocol has no message for them"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)  # noqa: UP017 - Python 3.10
_OBJECT_TYPES: Final = {
    "images": "image",
    "texts": "text",
    "distributions": "distribution",
    "audios": "audio",
    "figures": "figure",
}

Message = dict[str, Any]


def json_frames(batch: Batch) -> list[str]:
    """Return the JSON frames that say what `batch` says, in order; at least one."""
    messages = list(_messages(batch))
    for message in messages:
        message["run_id"] = batch.run_id
    starts = range(0, max(len(messages), 1), MESSAGES_PER_FRAME)
    return [
        json.dumps(messages[start : start + MESSAGES_PER_FRAME], separators=(",", ":"))
        for start in starts
    ]


def left_out(batch: Batch) -> dict[str, int]:
    """Return how much of `batch` JSON messages cannot say, by reason."""
    deletions = sum(
        len(event.paths)
        for event in batch.events
        if isinstance(event, DeleteAttributes)
    )
    payloads = batch.objects.payloads if batch.objects is not None else []
    lists = sum(isinstance(decode_payload(payload), list) for payload in payloads)
    counts = {NO_DELETIONS: deletions, NO_LISTS: lists}
    return {reason: count for reason, count in counts.items() if count}


def _messages(batch: Batch) -> Iterator[Message]:
    for event in batch.events:
        if not isinstance(event, FinishRun):
            yield from _event_messages(event)
    if batch.points is not None:
        yield from _point_messages(batch.points, batch.series)
    if batch.objects is not None:
        yield from _object_messages(batch.objects, batch.series)
    for event in batch.events:
        if isinstance(event, FinishRun):
            yield {"type": "finish_run", "client_datetime": _iso(event.client_time_us)}


def _event_messages(event: Event) -> Iterator[Message]:
    if isinstance(event, CreateRun):
        yield {
            "type": "create_run",
            "client_datetime": _iso(event.client_time_us),
            "force_resume": event.force_resume,
        }
    elif isinstance(event, SetAttributes):
        for path, payload in event.assignments:
            value = decode_payload(payload)
            for key in reversed(path):
                value = {key: value}
            yield {"type": "log_hparams", "value": value}
    elif isinstance(event, SetProperties):
        given = {name: getattr(event, name) for name in event.__struct_fields__}
        changed = {name: value for name, value in given.items() if value is not None}
        yield {"type": "set_run_property", **changed}
    elif isinstance(event, AddTag):
        yield {"type": "add_tag", "tag_name": event.name}
    elif isinstance(event, RemoveTag):
        yield {"type": "remove_tag", "tag_name": event.name}
    elif isinstance(event, BlobRef):
        yield {
            "type": "blob_ref",
            "s3_key": event.key,
            "artifact_path": event.path,
            "content_type": event.content_type,
        }


def _point_messages(
    points: PointColumns, series: Sequence[SeriesRef]
) -> Iterator[Message]:
    contexts = [json.loads(ref.context) for ref in series]
    columns = zip(
        _integers("I", points.series),
        _integers("q", points.steps),
        _floats(points.values),
        _integers("q", points.times_us),
        _epochs(points.epochs, points.count),
        strict=True,
    )
    for place, step, value, time_us, epoch in columns:
        yield {
            "type": "log_metric",
            "name": series[place].name,
            "value": value,
            "step": None if step == AUTO_STEP else step,
            "epoch": epoch,
            "context": contexts[place],
            "dtype": "float",
            "client_datetime": _iso(time_us),
        }


def _object_messages(
    objects: ObjectColumns, series: Sequence[SeriesRef]
) -> Iterator[Message]:
    columns = zip(
        _integers("I", objects.series),
        _integers("q", objects.steps),
        _integers("q", objects.times_us),
        _epochs(objects.epochs, objects.count),
        objects.payloads,
        strict=True,
    )
    for place, step, time_us, epoch, payload in columns:
        ref, value = series[place], decode_payload(payload)
        if ref.kind == "logs":
            yield {"type": "log_terminal_line", "line": value, "step": step}
        elif ref.kind == "log_records":
            yield _log_record(value)
        elif not isinstance(value, list):
            yield {
                "type": "log_custom_object",
                "name": ref.name,
                "value": value,
                "step": None if step == AUTO_STEP else step,
                "epoch": epoch,
                "context": json.loads(ref.context),
                "dtype": _OBJECT_TYPES[ref.kind],
                "client_datetime": _iso(time_us),
            }


def _log_record(value: Message) -> Message:
    return {
        "type": "log_record",
        "message": value["message"],
        "level": value["log_level"],
        "timestamp": value["timestamp"],
        "logger_info": value.get("logger_info"),
        "extra_args": value.get("args"),
    }


def _integers(kind: Literal["I", "q"], column: bytes) -> array[int]:
    numbers = array(kind)
    numbers.frombytes(column)
    return numbers


def _floats(column: bytes) -> array[float]:
    numbers = array("d")
    numbers.frombytes(column)
    return numbers


def _epochs(column: bytes, count: int) -> list[float | int | None]:
    if not column:
        return [None] * count
    return [_epoch(value) for value in _floats(column)]


def _epoch(value: float) -> float | int | None:
    if math.isnan(value):
        return None
    return int(value) if value.is_integer() else value  # some servers want integers


def _iso(time_us: int) -> str | None:
    if time_us == UNKNOWN_TIME:
        return None
    return (_EPOCH + timedelta(microseconds=time_us)).isoformat()

"""Bring a JSON message that is not in the strict form into it, or say what is wrong.

The accepted conversions are those the JSON protocol has always allowed: numeric
strings for numbers, integral floats for integers, the usual words for booleans, ISO
8601 texts (without a zone: UTC) and epoch numbers (seconds, or milliseconds above 2e10)
for times. Beyond them, epochs may be fractional, a metric may have NaN or infinity, and
null may stand for anything that has a default.

This path costs several times the strict one; it runs only for items that failed there.

Design note: docs/subsystems/wire.md#json-protocol
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, Final, NamedTuple, cast

from matyan_wire import json_messages as messages
from matyan_wire.payloads import encodable_text

MILLISECONDS_ABOVE: Final = 2e10
"""An epoch number above this is in milliseconds: as seconds it is the year 2603."""

_TRUE_WORDS: Final = frozenset({"1", "on", "t", "true", "y", "yes"})
_FALSE_WORDS: Final = frozenset({"0", "off", "f", "false", "n", "no"})
# `timezone.utc` under a name that Python 3.10 has and linters leave alone.
_UTC: Final = timezone(timedelta(0))
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=_UTC)
_MAX_NUMBER_CHARS: Final = 400


class ItemError(Exception):
    """An item of a frame cannot be used.

    Attributes:
        field: Name of the offending field, "" when it is the item itself.
        reason: What is wrong, bounded in length.
    """

    def __init__(self, *, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


class LaxMetric(NamedTuple):
    """A `LogMetricMessage` whose context is decoded and whose value may be an object.

    The value is an object where a restored backup logs images and texts as metrics.
    """

    name: str
    value: float | dict[str, Any]
    step: int | None = None
    epoch: float | None = None
    context: dict[str, Any] | None = None
    dtype: str | None = None
    client_datetime: datetime | None = None


class _Field(NamedTuple):
    convert: Callable[[Any], Any]
    required: bool = False


def to_message(item: Any) -> messages.Message | LaxMetric:
    """Return `item`, one decoded JSON value, as a message.

    Raises:
        ItemError: If it is not a message, naming the field.
    """
    if not isinstance(item, dict):
        raise ItemError(field="", reason=f"expected an object, got {_kind_of(item)}")
    given = cast("dict[str, Any]", item)
    tag = given.get("type")
    if tag is None:
        raise ItemError(field="type", reason="missing")
    if not isinstance(tag, str) or tag not in _FORMS:
        raise ItemError(field="type", reason=f"unknown message type {shortened(tag)}")
    struct, fields = _FORMS[tag]
    values: dict[str, Any] = {}
    for name, field in fields.items():
        value = given.get(name)
        if value is not None:
            values[name] = _converted(name, field, value)
        elif field.required:
            reason = "must not be null" if name in given else "missing"
            raise ItemError(field=name, reason=reason)
    message: messages.Message | LaxMetric = struct(**values)
    return message


def shortened(value: Any, *, limit: int = 60) -> str:
    """Return `value` as text for an error message, at most about `limit` characters."""
    text = repr(value[:limit]) if isinstance(value, str) else _kind_of(value)
    cut = isinstance(value, str) and len(value) > limit
    return ascii_only(f"{text}…" if cut else text)


def ascii_only(text: str) -> str:
    """Return `text` with lone surrogates escaped, so that it can be encoded."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _converted(name: str, field: _Field, value: Any) -> Any:
    try:
        return field.convert(value)
    except (ValueError, OverflowError) as error:
        raise ItemError(field=name, reason=str(error)) from error


def _kind_of(value: Any) -> str:
    if value is None:
        return "null"
    kinds: dict[type[Any], str] = {
        bool: "a boolean",
        str: "a string",
        list: "an array",
        dict: "an object",
    }
    return kinds.get(cast("type[object]", type(value)), "a number")


def _refuse(value: Any, expected: str) -> ValueError:
    return ValueError(f"expected {expected}, got {shortened(value)}")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _refuse(value, "a string")
    return encodable_text(value)


def _name(value: Any) -> str:
    name = _text(value)
    if not name:
        msg = "must not be empty"
        raise ValueError(msg)
    return name


def _number(value: Any) -> float:
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, str) and len(value) <= _MAX_NUMBER_CHARS:
        try:
            return float(value)
        except ValueError:
            pass
    raise _refuse(value, "a number")


def _integer(value: Any) -> int:
    if isinstance(value, str) and len(value) <= _MAX_NUMBER_CHARS:
        try:
            return int(value)
        except ValueError:
            pass
    if isinstance(value, int):
        return int(value)
    number = _number(value) if isinstance(value, (float, str)) else math.nan
    if not number.is_integer():
        raise _refuse(value, "an integer")
    return int(number)


def _step(value: Any) -> int:
    step = _integer(value)
    if not messages.MIN_STEP <= step <= messages.MAX_STEP:
        msg = "outside the range of 64-bit integers"
        raise ValueError(msg)
    return step


def _boolean(value: Any) -> bool:
    if isinstance(value, (bool, int, float)) and value in {0, 1}:
        return bool(value)
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _TRUE_WORDS:
            return True
        if word in _FALSE_WORDS:
            return False
    raise _refuse(value, "a boolean")


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _refuse(value, "an object")
    return cast("dict[str, Any]", value)


def _array(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _refuse(value, "an array")
    return cast("list[object]", value)


def _number_or_object(value: Any) -> float | dict[str, Any]:
    return _object(value) if isinstance(value, dict) else _number(value)


def _time(value: Any) -> datetime:
    if isinstance(value, str):
        parsed = _parsed_time(value.strip())
        if parsed is not None:
            return parsed
    if isinstance(value, bool):
        raise _refuse(value, "a time")
    try:
        seconds = _number(value)
        if abs(seconds) > MILLISECONDS_ABOVE:
            seconds /= 1000
        return _EPOCH + timedelta(seconds=seconds)
    except (ValueError, OverflowError) as error:
        raise _refuse(value, "an ISO 8601 time or epoch number") from error


def _parsed_time(text: str) -> datetime | None:
    # Python 3.10 reads no "Z".
    if text[-1:] in {"Z", "z"}:
        text = f"{text[:-1]}+00:00"
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return None
    # "20261123" is a date to Python 3.11 and a number of seconds to everyone else.
    if "-" not in text[1:]:
        return None
    if parsed.tzinfo is None:
        return parsed.replace(tzinfo=_UTC)
    return parsed


_TIME = _Field(_time)

_FORMS: Final[Mapping[str, tuple[Callable[..., Any], Mapping[str, _Field]]]] = {
    "create_run": (
        messages.CreateRunMessage,
        {"client_datetime": _TIME, "force_resume": _Field(_boolean)},
    ),
    "log_metric": (
        LaxMetric,
        {
            "name": _Field(_name, required=True),
            "value": _Field(_number_or_object, required=True),
            "step": _Field(_step),
            "epoch": _Field(_number),
            "context": _Field(_object),
            "dtype": _Field(_text),
            "client_datetime": _TIME,
        },
    ),
    "log_hparams": (
        messages.LogHparamsMessage,
        {"value": _Field(_object, required=True)},
    ),
    "finish_run": (messages.FinishRunMessage, {"client_datetime": _TIME}),
    "set_run_property": (
        messages.SetRunPropertyMessage,
        {
            "name": _Field(_text),
            "description": _Field(_text),
            "experiment": _Field(_text),
            "archived": _Field(_boolean),
        },
    ),
    "add_tag": (
        messages.AddTagMessage,
        {"tag_name": _Field(_text, required=True)},
    ),
    "remove_tag": (
        messages.RemoveTagMessage,
        {"tag_name": _Field(_text, required=True)},
    ),
    "log_custom_object": (
        messages.LogCustomObjectMessage,
        {
            "name": _Field(_name, required=True),
            "value": _Field(_object, required=True),
            "step": _Field(_step),
            "epoch": _Field(_number),
            "context": _Field(_object),
            "dtype": _Field(_text),
            "client_datetime": _TIME,
        },
    ),
    "log_terminal_line": (
        messages.LogTerminalLineMessage,
        {
            "line": _Field(_text, required=True),
            "step": _Field(_step, required=True),
        },
    ),
    "log_record": (
        messages.LogRecordMessage,
        {
            "message": _Field(_text, required=True),
            "level": _Field(_step, required=True),
            "timestamp": _Field(_number, required=True),
            "logger_info": _Field(_array),
            "extra_args": _Field(_object),
        },
    ),
    "blob_ref": (
        messages.BlobRefMessage,
        {
            "s3_key": _Field(_text, required=True),
            "artifact_path": _Field(_text, required=True),
            "content_type": _Field(_text),
        },
    ),
}

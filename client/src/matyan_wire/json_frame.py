"""The items of a JSON frame, one at a time, however bad their neighbours are.

Items are delivered as functions, so that what is wrong with one is raised when it is
used and the iteration goes on. Only a frame that is not JSON cannot be iterated.

Design note: docs/subsystems/wire.md#json-protocol
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from matyan_wire import json_lax
from matyan_wire import json_messages as messages
from matyan_wire.json_lax import ItemError, LaxMetric

Item = Callable[[], messages.Message | LaxMetric]
"""Returns the item as a message, or raises `ItemError`."""

MAX_BRACKETS: Final = 1_000_000
"""Brackets read to find the end of an item that nests too deeply to be decoded."""

ARRAY_BYTES: Final = 1024 * 1024
"""Frames above this are decoded in pieces: all messages of a frame at once would take
several times its size."""

_BRACE: Final = ord("{")
MAX_DIGITS: Final = 1_000
"""Of an integer; what follows is cut off."""

STRICT_FAILURES: Final = (msgspec.DecodeError, RecursionError, UnicodeError)
"""What a strict decoder raises at input which another decoder may accept."""

_item_decoder = msgspec.json.Decoder(messages.Message)
_raw_decoder = msgspec.json.Decoder(list[msgspec.Raw])


class FrameSyntaxError(ValueError):
    """The frame is not JSON; the text says where."""


def as_array(frame: bytes) -> bytes:
    """Return the frame, put in brackets when it is an object."""
    return b"[%b]" % frame if frame.lstrip()[:1] == b"{" else frame


def iter_arrays(frame: bytes) -> Iterator[bytes]:
    """Yield the items of a large frame in arrays of about `ARRAY_BYTES`.

    A cut after an object is right exactly when what is before it is JSON: the rest of
    the frame cannot change how its beginning reads. Where the beginning is not JSON to
    the strict decoder, the rest is yielded as it is.
    """
    start = _skip_space_bytes(frame)
    if frame[start : start + 1] != b"[":
        yield frame
        return
    start += 1
    while len(frame) - start > ARRAY_BYTES:
        cut = _CUT.search(frame, start + ARRAY_BYTES)
        if cut is None:
            break
        array = b"".join((b"[", memoryview(frame)[start : cut.start() + 1], b"]"))
        try:
            _raw_decoder.decode(array)
        except STRICT_FAILURES:
            break
        yield array
        start = cut.end() - 1
    yield b"".join((b"[", memoryview(frame)[start:]))


def iter_items(
    frame: bytes, *, is_hopeless: Callable[[], bool] = lambda: False
) -> Iterator[Item | None]:
    """Yield, for each item, a function returning it as a message.

    Once `is_hopeless` says so, None stands for an item that is no object, and of the
    others only those in the strict form are looked at: telling what is wrong with an
    item takes many times what taking it does.

    Raises:
        FrameSyntaxError: If the frame is not JSON.
    """
    try:
        raws = _raw_decoder.decode(as_array(frame))
    except STRICT_FAILURES:
        yield from _lax_items(frame, is_hopeless)
        return
    for raw in raws:
        if not is_hopeless():
            yield functools.partial(_message_of, raw)
        elif memoryview(raw)[0] == _BRACE:
            yield functools.partial(_strict_message_of, raw)
        else:
            yield None


def _strict_message_of(raw: msgspec.Raw) -> messages.Message | LaxMetric:
    try:
        message: messages.Message = _item_decoder.decode(raw)
    except STRICT_FAILURES as error:
        raise ItemError(field="", reason="not looked at") from error
    return message


def _message_of(raw: msgspec.Raw) -> messages.Message | LaxMetric:
    try:
        message: messages.Message = _item_decoder.decode(raw)
    except STRICT_FAILURES:
        pass
    else:
        return message
    try:
        item = _lax_decoder.decode(bytes(raw).decode())
    except (ValueError, RecursionError) as error:
        raise ItemError(field="", reason=f"not JSON: {error}") from error
    return json_lax.to_message(item)


def _lax_items(frame: bytes, is_hopeless: Callable[[], bool]) -> Iterator[Item | None]:
    """As `iter_items`, with the decoder that accepts NaN, one item at a time."""
    try:
        text = frame.decode()
    except UnicodeDecodeError as error:
        msg = f"not UTF-8: {error.reason} at byte {error.start}"
        raise FrameSyntaxError(msg) from error
    position = _skip_space(text, 0)
    if text[position : position + 1] != "[":
        item, position = _decode_item(text, position)
        _expect_end(text, position)
        yield item
        return
    position = _skip_space(text, position + 1)
    if text[position : position + 1] == "]":
        _expect_end(text, position + 1)
        return
    while True:
        is_object = text[position : position + 1] == "{"
        item, position = _decode_item(text, position)
        yield item if is_object or not is_hopeless() else None
        position = _skip_space(text, position)
        if text[position : position + 1] == "]":
            _expect_end(text, position + 1)
            return
        if text[position : position + 1] != ",":
            msg = f"expected ',' or ']' at character {position}"
            raise FrameSyntaxError(msg)
        position = _skip_space(text, position + 1)


def _decode_item(text: str, position: int) -> tuple[Item, int]:
    """Return a function giving the item at `position`, and where the item ends."""
    try:
        item, end = _lax_decoder.raw_decode(text, position)
    except json.JSONDecodeError as error:
        msg = f"{error.msg} at character {error.pos}"
        raise FrameSyntaxError(msg) from error
    except RecursionError:
        return _refuse_nesting, _end_of_nesting(text, position)
    return lambda: json_lax.to_message(item), end


def _refuse_nesting() -> messages.Message:
    raise ItemError(field="", reason="nests too deeply")


_CUT: Final = re.compile(rb"\}[ \t\n\r]*,[ \t\n\r]*\{")
_SPACE_BYTES: Final = re.compile(rb"[ \t\n\r]*")
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_BRACKET: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)


def _skip_space_bytes(frame: bytes) -> int:
    match = _SPACE_BYTES.match(frame)
    return match.end() if match else 0


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _expect_end(text: str, position: int) -> None:
    position = _skip_space(text, position)
    if position != len(text):
        msg = f"extra data at character {position}"
        raise FrameSyntaxError(msg)


def _end_of_nesting(text: str, position: int) -> int:
    depth = 0
    for count, match in enumerate(_BRACKET.finditer(text, position)):
        first = match.group()[0]
        depth += (first in "[{") - (first in "]}")
        if depth == 0:
            return match.end()
        if count > MAX_BRACKETS:
            break
    msg = f"the item at character {position} nests too deeply and has no near end"
    raise FrameSyntaxError(msg)


def _lax_int(digits: str) -> int:
    # Python refuses to convert thousands of digits, for the time that takes. No float
    # holds such a number, so the field it stands in will be refused.
    return int(digits[:MAX_DIGITS])


_lax_decoder = json.JSONDecoder(parse_int=_lax_int)

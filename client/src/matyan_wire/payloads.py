"""Attribute values and object payloads: what may be stored, and as which bytes.

Everything JSON can say is stored, with two exceptions MessagePack makes: integers
beyond 64 bits become floats, and half surrogate pairs in text (JSON can escape them,
UTF-8 has no bytes for them) become U+FFFD.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, cast

from matyan_wire import batch as wire
from matyan_wire import limits

_MIN_INT: Final = -(2**63)
_MAX_INT: Final = 2**64 - 1


def encode_bounded(value: Any, *, max_bytes: int, levels: int | None = None) -> bytes:
    """Return the MessagePack bytes of `value`.

    Args:
        value: A decoded JSON value.
        max_bytes: Upper bound on the result.
        levels: How deep it may nest; `limits.MAX_ATTRIBUTE_DEPTH` if not given.

    Raises:
        ValueError: If it is larger, nests deeper, or has an integer no float can hold;
            the text says which.
    """
    check_depth(value, limits.MAX_ATTRIBUTE_DEPTH if levels is None else levels)
    try:
        encoded = wire.encode_payload(value)
    except (OverflowError, UnicodeEncodeError):
        encoded = wire.encode_payload(_storable(value))
    if len(encoded) > max_bytes:
        msg = f"{len(encoded)} bytes encoded; the limit is {max_bytes}"
        raise ValueError(msg)
    return encoded


def check_depth(value: Any, levels: int) -> None:
    """Raise ValueError if `value` nests deeper than `levels` objects and arrays."""
    children: Iterable[Any]
    if value.__class__ is dict:
        children = value.values()
    elif value.__class__ is list:
        children = value
    else:
        return
    if levels <= 0:
        msg = "nests too deeply"
        raise ValueError(msg)
    for child in children:
        if child.__class__ is dict or child.__class__ is list:
            check_depth(child, levels - 1)


def encodable_text(text: str) -> str:
    """Return `text` with half surrogate pairs replaced, so that UTF-8 can carry it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return encodable_text(value)
    if isinstance(value, dict):
        tree = cast("dict[str, Any]", value)
        return {encodable_text(key): _storable(child) for key, child in tree.items()}
    if isinstance(value, list):
        return [_storable(child) for child in cast("list[object]", value)]
    if isinstance(value, int) and not _MIN_INT <= value <= _MAX_INT:
        try:
            return float(value)
        except OverflowError as error:
            msg = "an integer is too large to be stored"
            raise ValueError(msg) from error
    return value

"""Tuples as keys: FoundationDB's tuple layer, so that every engine stores equal bytes.

`pack` and `unpack` agree byte for byte with `fdb.tuple` (a property test says so) and
are several times faster for what keys are made of: integers, text and bytes. Anything
else (booleans, floats, nested tuples, …) goes through `fdb.tuple` itself, which is pure
Python: nothing here loads libfdb_c or needs it installed.

Order: packed tuples sort as the tuples do, element by element. Integers take 1 byte for
0 and 2 to 9 bytes up to ±2**64, so a key of small integers is short.

Design note: docs/subsystems/engines.md#keys
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, Final

from fdb import tuple as fdb_tuple
from fdb.tuple import SingleFloat, Versionstamp

__all__ = [
    "SingleFloat",
    "Versionstamp",
    "next_prefix",
    "pack",
    "range_of",
    "unpack",
    "versionstamp_element",
]

_BYTES: Final = 0x01
_TEXT: Final = 0x02
_SMALLEST_INT: Final = 0x0C
_ZERO: Final = 0x14
_LARGEST_INT: Final = 0x1C
_VERSIONSTAMP: Final = 0x33
_LIMITS: Final = tuple((1 << (8 * size)) - 1 for size in range(9))
_LAST: Final = _LIMITS[8]
_NOT_PACKED: Final = "Not a packed tuple"
_NO_NEXT: Final = "No key follows this prefix"
_INCOMPLETE: Final = "Incomplete versionstamp in a key"
_SMALL: Final = tuple(
    bytes((_ZERO + (number.bit_length() + 7) // 8,))
    + number.to_bytes((number.bit_length() + 7) // 8, "big")
    for number in range(1024)
)


def pack(items: tuple[Any, ...]) -> bytes:
    """Return `items` as a key.

    Raises:
        ValueError: If an element has no place in a key, or is an incomplete
            versionstamp.
    """
    parts: list[bytes] = []
    for item in items:
        kind = type(item)
        if kind is int:
            parts.append(_pack_int(item))
        elif kind is str:
            text = item.encode("utf-8").replace(b"\x00", b"\x00\xff")
            parts.append(b"\x02%b\x00" % text)
        elif kind is bytes:
            parts.append(b"\x01%b\x00" % item.replace(b"\x00", b"\x00\xff"))
        else:
            parts.append(_pack_other(item))
    return b"".join(parts)


def unpack(key: bytes, prefix_length: int = 0) -> tuple[Any, ...]:
    """Return the tuple packed in `key` after its first `prefix_length` bytes.

    Raises:
        ValueError: If the bytes are no packed tuple.
    """
    items: list[Any] = []
    position = prefix_length
    end = len(key)
    try:
        while position < end:
            code = key[position]
            if _ZERO <= code <= _LARGEST_INT:
                start = position + 1
                position = start + code - _ZERO
                items.append(int.from_bytes(key[start:position], "big"))
            else:
                item, position = _unpack_element(key, position, code)
                items.append(item)
    except (IndexError, struct.error) as error:
        raise ValueError(_NOT_PACKED) from error
    if position > end:
        raise ValueError(_NOT_PACKED)
    return tuple(items)


def range_of(items: tuple[Any, ...]) -> tuple[bytes, bytes]:
    """Return [begin, end) of every key that continues `items` with more elements.

    The key of `items` itself lies outside.
    """
    prefix = pack(items)
    return prefix + b"\x00", prefix + b"\xff"


def next_prefix(prefix: bytes) -> bytes:
    """Return the first key after every key that starts with `prefix`.

    Raises:
        ValueError: If there is none: the prefix is empty or all 0xFF.
    """
    trimmed = prefix.rstrip(b"\xff")
    if not trimmed:
        raise ValueError(_NO_NEXT)
    return trimmed[:-1] + bytes((trimmed[-1] + 1,))


def versionstamp_element(user_version: int = 0) -> tuple[bytes, bytes]:
    """Return what stands before and after the stamp in a packed key.

    For `Transaction.set_versionstamped_key`: with `before, after` from here,
    `(pack(head) + before, after + pack(tail))` gives a key that unpacks to head, a
    `Versionstamp`, tail.
    """
    return bytes((_VERSIONSTAMP,)), user_version.to_bytes(2, "big")


def _pack_int(number: int) -> bytes:
    if 0 <= number < 1024:
        return _SMALL[number]
    if 0 < number < _LAST:
        size = (number.bit_length() + 7) // 8
        return bytes((_ZERO + size,)) + number.to_bytes(size, "big")
    if -_LAST < number < 0:
        size = (number.bit_length() + 7) // 8
        return bytes((_ZERO - size,)) + (number + _LIMITS[size]).to_bytes(size, "big")
    return bytes(fdb_tuple.pack((number,)))


def _pack_other(item: Any) -> bytes:
    if isinstance(item, Versionstamp):
        # The binding's own path asks for a class that exists only with libfdb_c.
        if not item.is_complete():
            raise ValueError(_INCOMPLETE)
        before, after = versionstamp_element(item.user_version)
        return before + bytes(item.tr_version) + after
    if isinstance(item, tuple | list):
        return b"\x05%b\x00" % b"".join(_pack_nested(item))
    return bytes(fdb_tuple.pack((item,)))


def _pack_nested(items: Iterable[Any]) -> Iterable[bytes]:
    for item in items:
        yield b"\x00\xff" if item is None else pack((item,))


def _unpack_element(key: bytes, position: int, code: int) -> tuple[Any, int]:
    if code in {_BYTES, _TEXT}:
        end = key.find(b"\x00", position + 1)
        while end >= 0 and key[end + 1 : end + 2] == b"\xff":
            end = key.find(b"\x00", end + 2)
        if end < 0:
            raise ValueError(_NOT_PACKED)
        raw = key[position + 1 : end].replace(b"\x00\xff", b"\x00")
        return (raw if code == _BYTES else raw.decode("utf-8")), end + 1
    if _SMALLEST_INT <= code < _ZERO:
        size = _ZERO - code
        end = position + 1 + size
        return int.from_bytes(key[position + 1 : end], "big") - _LIMITS[size], end
    item, end = fdb_tuple._decode(key, position)  # noqa: SLF001 - the one way to decode one element
    return item, end

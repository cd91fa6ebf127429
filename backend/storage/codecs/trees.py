"""Attribute trees <-> bytes: MessagePack, compressed when that helps.

Layout: version (1 byte), packing (1 byte: 0 plain, 1 zstd), CRC-32 of the rest (4
bytes, little-endian), MessagePack. A tree is a dict with text keys (empty ones too) of
None, booleans, integers of any size, floats with NaN and infinities bit for bit, text,
bytes, lists and dicts. Integers beyond 64 bits, text with lone surrogates and dicts
with such keys travel as extension types 1, 2 and 3; tuples come back as lists.

Limits: `MAX_ATTRIBUTES_BYTES` encoded, `MAX_ATTRIBUTE_DEPTH` levels.

Design note: docs/subsystems/metadata.md#attributes
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, Final

import msgspec
import zstandard
from msgspec.msgpack import Ext

from backend.errors import LimitExceededError
from backend.storage.codecs.frames import corrupt
from matyan_wire.limits import MAX_ATTRIBUTE_DEPTH, MAX_ATTRIBUTES_BYTES

VERSION: Final = 1

_HEADER: Final = struct.Struct("<BBI")
_PLAIN: Final = 0
_ZSTD: Final = 1
_MIN_COMPRESSED_BYTES: Final = 1_000
_WORTH_IT: Final = 0.8
_LEVEL: Final = 3

_BIG_INTEGER: Final = 1
_ODD_TEXT: Final = 2
_ODD_DICT: Final = 3
_MIN_INT: Final = -(2**63)
_MAX_INT: Final = 2**64 - 1

_encoder: Final = msgspec.msgpack.Encoder()


def encode_tree(tree: dict[str, Any]) -> bytes:
    """Return the bytes of an attribute tree.

    Raises:
        LimitExceededError: If it is too large or too deep.
        TypeError: If it holds a value of another type.
    """
    check_depth(tree)
    body = _encode(tree)
    if len(body) > MAX_ATTRIBUTES_BYTES:
        raise LimitExceededError(
            what="attributes", size=len(body), limit=MAX_ATTRIBUTES_BYTES
        )
    packing = _PLAIN
    if len(body) >= _MIN_COMPRESSED_BYTES:
        packed = zstandard.ZstdCompressor(level=_LEVEL).compress(body)
        if len(packed) < len(body) * _WORTH_IT:
            packing, body = _ZSTD, packed
    return _HEADER.pack(VERSION, packing, zlib.crc32(body)) + body


def decode_tree(value: bytes, *, key: bytes) -> dict[str, Any]:
    """Return the tree in `value`, which was read from `key`.

    Raises:
        FormatError: If the bytes are not a tree, or of a newer version.
    """
    if len(value) < _HEADER.size:
        raise corrupt(key, "value is cut short")
    version, packing, crc = _HEADER.unpack_from(value)
    body = value[_HEADER.size :]
    if version != VERSION or packing not in (_PLAIN, _ZSTD):
        raise corrupt(key, "unknown version of attributes")
    if zlib.crc32(body) != crc:
        raise corrupt(key, "checksum does not match")
    try:
        if packing == _ZSTD:
            body = zstandard.ZstdDecompressor().decompress(body)
        tree: dict[str, Any] = _decoder.decode(body)
    except (msgspec.DecodeError, zstandard.ZstdError) as error:
        raise corrupt(key, str(error)) from error
    return tree


def check_depth(value: Any) -> None:
    """Refuse trees nested deeper than `MAX_ATTRIBUTE_DEPTH`.

    Raises:
        LimitExceededError: If it is deeper.
    """
    level = [value]
    for _ in range(MAX_ATTRIBUTE_DEPTH + 1):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, (dict, list, tuple))
        ]
        if not level:
            return
    raise LimitExceededError(
        what="attribute depth", size=MAX_ATTRIBUTE_DEPTH + 1, limit=MAX_ATTRIBUTE_DEPTH
    )


def encoded_size(value: Any) -> int:
    """Return how many bytes `value` adds to a tree: what its limit counts.

    Raises:
        TypeError: If it holds a value of another type.
    """
    return len(_encode(value))


def is_plain(value: Any) -> bool:
    """Return whether `value` needs no extension types.

    In a plain tree the size of a dict is that of its parts, so it can be kept up as
    the tree changes.
    """
    try:
        _encoder.encode(value)
    except (OverflowError, UnicodeEncodeError):
        return False
    return True


def _encode(value: Any) -> bytes:
    try:
        return _encoder.encode(value)
    except (OverflowError, UnicodeEncodeError):
        return _encoder.encode(_portable(value))


def _portable(value: Any) -> Any:
    """Return `value` with what MessagePack has no type for as extensions."""
    if isinstance(value, dict):
        return _portable_dict(value)
    if isinstance(value, (list, tuple)):
        return [_portable(item) for item in value]
    if isinstance(value, int) and not _MIN_INT <= value <= _MAX_INT:
        size = value.bit_length() // 8 + 1
        return Ext(_BIG_INTEGER, value.to_bytes(size, "big", signed=True))
    if isinstance(value, str) and _is_odd(value):
        return Ext(_ODD_TEXT, value.encode("utf-8", "surrogatepass"))
    return value


def _portable_dict(value: dict[str, Any]) -> Any:
    items = {key: _portable(item) for key, item in value.items()}
    if not any(_is_odd(key) for key in items):
        return items
    # An extension cannot be a key: such a dict travels as a list of pairs.
    pairs = [[_portable(key), item] for key, item in items.items()]
    return Ext(_ODD_DICT, _encoder.encode(pairs))


def _is_odd(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _decode_ext(code: int, raw: memoryview) -> Any:
    if code == _BIG_INTEGER:
        return int.from_bytes(raw, "big", signed=True)
    if code == _ODD_TEXT:
        return bytes(raw).decode("utf-8", "surrogatepass")
    if code == _ODD_DICT:
        pairs: list[tuple[str, Any]] = _decoder.decode(raw)
        return dict(pairs)
    return Ext(code, bytes(raw))


_decoder: Final[msgspec.msgpack.Decoder[Any]] = msgspec.msgpack.Decoder(
    Any, ext_hook=_decode_ext
)

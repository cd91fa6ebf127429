"""The binary tree stream: how searches, logs and objects travel over HTTP.

A stream is a sequence of pairs without header or terminator: key length (uint32 LE),
encoded path, value length (uint32 LE), value. A tree is sent as the pairs of its
leaves, depth first; a leaf is a tag byte and its payload. Trees are concatenated, and
HTTP chunk boundaries mean nothing.

Decoders in the field break on bytes that are legal here, so `encode_tree` keeps their
rules unless told to be `exact`:
- Empty keys become "_" (dropped where "_" is taken); they cannot be told from integers.
- Integers of 2**31 and more in magnitude become floats; a browser reads 32 bits.
- Negative integer keys are dropped.
- Keys that are neither text nor integers become their text.

numpy is used when it is there and never needed: arrays go out from anything with the
buffer of a float64 array, and come back as `numpy.ndarray` or `array.array`.

Design note: docs/subsystems/api.md#streams
"""

from __future__ import annotations

import datetime
import decimal
import struct
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, cast

_U32: Final = struct.Struct("<I")
_INT_LEAF: Final = struct.Struct("<IBq")
_FLOAT_LEAF: Final = struct.Struct("<IBd")
_INT_KEY: Final = struct.Struct(">BqB")

_NULL, _BOOL, _INT, _FLOAT, _TEXT, _BYTES, _ARRAY, _OBJECT = range(8)
_FE: Final = 0xFE
_NULL_LEAF: Final = b"\x01\0\0\0\0"
_TRUE_LEAF: Final = b"\x02\0\0\0\x01\x01"
_FALSE_LEAF: Final = b"\x02\0\0\0\x01\x00"
_ARRAY_LEAF: Final = b"\x01\0\0\0\x06"
_OBJECT_LEAF: Final = b"\x01\0\0\0\x07"

_INT32_LIMIT: Final = 2**31
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1

_UTC: Final = datetime.timezone.utc  # noqa: UP017 - the SDK runs on Python 3.10

Key = str | int
PROGRESS_PREFIX: Final = "progress_"


class TreeStreamError(ValueError):
    """The bytes are not a tree stream, or end inside a pair."""


def encode_key(key: Key) -> bytes:
    """Return the path component of `key`; a path is its components joined."""
    if isinstance(key, int):
        return _INT_KEY.pack(_FE, key, _FE)
    return _utf8(key) + b"\xfe"


def encode_tree(tree: Any, *, prefix: bytes = b"", exact: bool = False) -> bytes:
    """Return the pairs of `tree`, its root standing at the path `prefix`.

    Mappings are objects; lists, tuples and other iterables are arrays; float64 arrays
    are numpy objects; dates become epoch seconds, decimals floats, and anything else
    its text.

    Args:
        tree: The value; mappings may have text and integer keys.
        prefix: Components from `encode_key`, joined.
        exact: Whether to write keys and integers as given, even where decoders in the
            field misread them. Integers beyond 64 bits become floats all the same.
    """
    out: list[bytes] = []
    (_write_exact if exact else _write)(out, prefix, tree)
    return b"".join(out)


def encode_progress(number: int, checked: int, total: int) -> bytes:
    """Return the `number`-th progress frame of a response."""
    return encode_tree({f"{PROGRESS_PREFIX}{number}": [checked, total]})


def is_progress(key: Key) -> bool:
    """Return whether a decoded top-level key is a progress frame's."""
    return isinstance(key, str) and key.startswith(PROGRESS_PREFIX)


def encode_float64s(prefix: bytes, count: int, blob: bytes | memoryview) -> bytes:
    """Return the numpy object of a column at path `prefix`: the searches' hot path.

    Args:
        prefix: Components from `encode_key`, joined; not empty.
        count: Number of values.
        blob: `count` little-endian float64 values.
    """
    return b"".join((_column_head(prefix, count), blob))


def _column_head(prefix: bytes, count: int) -> bytes:
    length = len(prefix)
    packer = _column_struct(length)
    return packer.pack(
        length + 5,
        prefix,
        b"type\xfe\x06\0\0\0\x04numpy",
        length + 6,
        prefix,
        b"shape\xfe\x09\0\0\0\x02",
        count,
        length + 6,
        prefix,
        b"dtype\xfe\x08\0\0\0\x04float64",
        length + 5,
        prefix,
        b"blob\xfe",
        8 * count + 1,
        b"\x05",
    )


@lru_cache(maxsize=512)
def _column_struct(length: int) -> struct.Struct:
    path = f"I{length}s"
    return struct.Struct(f"<{path}15s{path}11sq{path}18s{path}5sIc")


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="replace")  # lone surrogates have no UTF-8


def _leaf(value: Any) -> bytes | None:
    """Return length, tag and payload of a scalar; None for anything else."""
    writer = _LEAVES.get(cast("type[object]", type(value)))
    return None if writer is None else writer(value)


def _float_leaf(value: float) -> bytes:
    return _FLOAT_LEAF.pack(9, _FLOAT, value)


def _int_leaf(value: int) -> bytes:
    if -_INT32_LIMIT < value < _INT32_LIMIT:
        return _INT_LEAF.pack(9, _INT, value)
    return _huge_leaf(value)


def _huge_leaf(value: int) -> bytes:
    try:
        return _float_leaf(float(value))
    except OverflowError:
        return _float_leaf(float("inf") if value > 0 else float("-inf"))


def _exact_leaf(value: Any) -> bytes | None:
    if type(value) is int and _INT64_MIN <= value <= _INT64_MAX:
        return _INT_LEAF.pack(9, _INT, value)
    return _leaf(value)


def _text_leaf(value: str) -> bytes:
    payload = _utf8(value)
    return _U32.pack(len(payload) + 1) + b"\x04" + payload


def _bytes_leaf(value: bytes | bytearray | memoryview) -> bytes:
    payload = bytes(value)
    return _U32.pack(len(payload) + 1) + b"\x05" + payload


_LEAVES: Final[dict[type, Callable[[Any], bytes]]] = {
    type(None): lambda _: _NULL_LEAF,
    bool: lambda value: _TRUE_LEAF if value else _FALSE_LEAF,
    int: _int_leaf,
    float: _float_leaf,
    str: _text_leaf,
    bytes: _bytes_leaf,
    bytearray: _bytes_leaf,
    memoryview: _bytes_leaf,
    decimal.Decimal: lambda value: _float_leaf(float(value)),
    datetime.datetime: lambda value: _float_leaf(_epoch_s(value)),
    datetime.date: lambda value: _float_leaf(_epoch_s(value)),
}


def _epoch_s(value: datetime.date) -> float:
    if not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day, tzinfo=_UTC)
    if value.tzinfo is None:
        value = value.replace(tzinfo=_UTC)
    return value.timestamp()


def _write(out: list[bytes], path: bytes, value: Any) -> None:
    leaf = _leaf(value)
    if leaf is not None:
        out.append(_U32.pack(len(path)) + path + leaf)
    elif isinstance(value, Mapping):
        items = list(_safe_items(cast("Mapping[object, object]", value)))
        if not items:
            out.append(_U32.pack(len(path)) + path + _OBJECT_LEAF)
        for key, child in items:
            _write(out, path + encode_key(key), child)
    elif isinstance(value, (list, tuple)):
        _write_array(out, path, cast("list[object]", value), _write)
    else:
        _write(out, path, _plain(value))


def _write_exact(out: list[bytes], path: bytes, value: Any) -> None:
    leaf = _exact_leaf(value)
    if leaf is not None:
        out.append(_U32.pack(len(path)) + path + leaf)
    elif isinstance(value, Mapping):
        if not value:
            out.append(_U32.pack(len(path)) + path + _OBJECT_LEAF)
        for key, child in cast("Mapping[Key, object]", value).items():
            _write_exact(out, path + encode_key(key), child)
    elif isinstance(value, (list, tuple)):
        _write_array(out, path, cast("list[object]", value), _write_exact)
    else:
        _write_exact(out, path, _plain(value))


def _write_array(
    out: list[bytes],
    path: bytes,
    items: Iterable[Any],
    write: Callable[[list[bytes], bytes, Any], None],
) -> None:
    out.append(_U32.pack(len(path)) + path + _ARRAY_LEAF)
    for index, child in enumerate(items):
        write(out, path + _INT_KEY.pack(_FE, index, _FE), child)


def _safe_items(tree: Mapping[Any, Any]) -> Iterator[tuple[Key, Any]]:
    seen: set[Key] = set()
    for key, child in tree.items():
        safe = _safe_key(key)
        if safe is None or safe in seen or (safe != key and safe in tree):
            continue  # the same path twice stops a browser's decoder
        if safe != key:
            seen.add(safe)
        yield safe, child


def _safe_key(key: Any) -> Key | None:
    if type(key) is str:
        return key or "_"
    if type(key) is int:
        return key if 0 <= key <= _INT64_MAX else None
    return str(key) or "_"


def _plain(value: Any) -> Any:
    """Return what stands for a value that is no scalar, list, tuple or mapping.

    The result is always one of those, or a subclass of a scalar made plain.
    """
    if isinstance(value, (str, int, float, bytes)):
        return next(plain(value) for plain in _SCALARS if isinstance(value, plain))
    if isinstance(value, array):
        return _numpy_object(value)
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return (
            _numpy_object(value) if getattr(value, "ndim", 0) == 1 else value.tolist()
        )
    if isinstance(value, Iterable):
        return list(cast("Iterable[object]", value))
    return repr(value)


_SCALARS: Final[tuple[type[Any], ...]] = (str, int, float, bytes)


def _numpy_object(column: Any) -> dict[str, Any] | list[Any]:
    try:
        values = column if _is_float64s(column) else array("d", column.tolist())
    except (TypeError, OverflowError):
        return cast("list[object]", column.tolist())
    if sys.byteorder == "big":
        values = array("d", values)
        values.byteswap()
    blob = values.tobytes()
    return {
        "type": "numpy",
        "shape": len(blob) // 8,
        "dtype": "float64",
        "blob": blob,
    }


def _is_float64s(column: Any) -> bool:
    kind = column.typecode if isinstance(column, array) else column.dtype.str
    return kind in {"d", "<f8", "=f8"}


class TreeDecoder:
    """Turns the bytes of a stream, in chunks of any size, into top-level trees.

    Arrays come back as lists, objects as dicts (integer keys stay integers), numpy
    objects as one-dimensional arrays. Trees are delivered when the next one begins, so
    call `finish` for the last. Not thread-safe; memory is bounded by the largest tree.
    """

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._held_bytes = self._wanted_bytes = 0
        self._trees: dict[Key, Any] = {}
        self._columns: list[tuple[Any, Key]] = []

    def feed(self, chunk: bytes) -> Iterator[tuple[Key, Any]]:
        """Yield the (top-level key, tree) pairs that `chunk` completes.

        Exhaust the iterator before feeding the next chunk.

        Raises:
            TreeStreamError: If the bytes cannot be a stream.
        """
        self._held.append(chunk)
        self._held_bytes += len(chunk)
        if self._held_bytes < self._wanted_bytes:
            return  # joined once, when a long pair is all there
        buffer, position = b"".join(self._held), 0
        while (stop := _pair_end(buffer, position)) <= len(buffer):
            path, value = _split_pair(buffer, position, stop)
            position = stop
            if path:  # the root's own flag says nothing the other pairs do not say
                if path[0] not in self._trees:
                    yield from self._deliver()
                self._insert(path, value)
        self._held = [buffer[position:]] if position < len(buffer) else []
        self._held_bytes = len(buffer) - position
        self._wanted_bytes = stop - position

    def finish(self) -> Iterator[tuple[Key, Any]]:
        """Yield the last tree, if there is one.

        Raises:
            TreeStreamError: If the stream ended inside a pair.
        """
        if self._held_bytes:
            msg = "The stream ends inside a pair: the server stopped half way"
            raise TreeStreamError(msg)
        yield from self._deliver()

    def _insert(self, path: list[Key], value: Any) -> None:
        parent: Any = self._trees
        for key in path[:-1]:
            parent = _descend(parent, key)
        last = path[-1]
        _put(parent, last, value)
        if last == "blob" and type(value) is bytes and parent.get("type") == "numpy":
            self._columns.append(self._owner(path))

    def _owner(self, path: list[Key]) -> tuple[Any, Key]:
        """Return the container, and the key in it, of the node holding path's leaf."""
        owner: Any = self._trees
        for key in path[:-2]:
            owner = owner[key]
        return owner, path[-2]

    def _deliver(self) -> Iterator[tuple[Key, Any]]:
        trees, columns = self._trees, self._columns
        self._trees, self._columns = {}, []
        for owner, key in columns:
            owner[key] = _column(owner[key])
        yield from trees.items()


def iter_trees(chunks: Iterable[bytes]) -> Iterator[tuple[Key, Any]]:
    """Yield the (top-level key, tree) pairs of a whole response.

    Args:
        chunks: The body, cut anywhere.

    Raises:
        TreeStreamError: If the bytes are no stream, or end inside a pair.
    """
    decoder = TreeDecoder()
    for chunk in chunks:
        yield from decoder.feed(chunk)
    yield from decoder.finish()


def _pair_end(buffer: bytes, start: int) -> int:
    """Return where the pair at `start` ends, at the least while it is not all there."""
    size = len(buffer)
    if size - start < 4:
        return start + 4
    value_at: int = start + 4 + _U32.unpack_from(buffer, start)[0]
    if size - value_at < 4:
        return value_at + 4
    stop: int = value_at + 4 + _U32.unpack_from(buffer, value_at)[0]
    return stop


def _split_pair(buffer: bytes, start: int, stop: int) -> tuple[list[Key], Any]:
    value_at = start + 4 + _U32.unpack_from(buffer, start)[0]
    try:
        path = _split_path(buffer[start + 4 : value_at])
        return path, _decode_value(buffer, value_at + 4, stop)
    except (struct.error, ValueError, LookupError) as error:
        msg = "The bytes are not a tree stream"
        raise TreeStreamError(msg) from error


def _split_path(path: bytes) -> list[Key]:
    keys: list[Key] = []
    position, size = 0, len(path)
    while position < size:
        if path[position] == _FE and size - position >= 10:
            keys.append(_INT_KEY.unpack_from(path, position)[1])
            position += 10
        else:
            stop = path.index(b"\xfe", position)
            keys.append(path[position:stop].decode())
            position = stop + 1
    return keys


def _decode_value(buffer: bytes, start: int, stop: int) -> Any:
    tag = buffer[start]
    if tag == _FLOAT:
        return _FLOAT64.unpack_from(buffer, start + 1)[0]
    if tag == _INT:
        return _INT64.unpack_from(buffer, start + 1)[0]
    if tag == _TEXT:
        return buffer[start + 1 : stop].decode()
    return _RARE_VALUES[tag](buffer[start + 1 : stop])


_FLOAT64: Final = struct.Struct("<d")
_INT64: Final = struct.Struct("<q")
_RARE_VALUES: Final[dict[int, Callable[[bytes], Any]]] = {
    _NULL: lambda _: None,
    _BOOL: lambda payload: payload != b"\0",
    _BYTES: lambda payload: payload,
    _ARRAY: lambda _: [],
    _OBJECT: lambda _: {},
}


def _descend(container: Any, key: Key) -> Any:
    """Return the object or array at `key`, made an object if nothing announced it."""
    if isinstance(container, list):
        items = cast("list[object]", container)
        if isinstance(key, int) and 0 <= key < len(items):
            return items[key]
        child: Any = {}
        _put(items, key, child)
        return child
    if isinstance(container, dict):
        return cast("dict[Key, Any]", container).setdefault(key, {})
    msg = f"The stream puts {key!r} under a value that is neither object nor array"
    raise TreeStreamError(msg)


def _put(container: Any, key: Key, value: Any) -> None:
    if isinstance(container, dict):
        container[key] = value
    elif isinstance(container, list) and key == len(cast("list[object]", container)):
        cast("list[object]", container).append(value)
    else:
        msg = f"The stream puts {key!r} where it cannot stand"
        raise TreeStreamError(msg)


def _column(tree: dict[str, Any]) -> Any:
    """Return the array a numpy object stands for, or the object if it is odd."""
    code = _TYPE_CODES.get(str(tree.get("dtype")))
    blob = tree["blob"]
    if code is None or len(blob) % struct.calcsize(f"<{code}"):
        return tree
    try:
        import numpy as np  # noqa: PLC0415 - optional, and slow to import
    except ImportError:
        column = array(code, blob)
        if sys.byteorder == "big":
            column.byteswap()
        return column
    return np.frombuffer(blob, dtype=f"<{_NUMPY_CODES[code]}")


_TYPE_CODES: Final = {"float64": "d", "float32": "f", "int64": "q", "int32": "i"}
_NUMPY_CODES: Final = {"d": "f8", "f": "f4", "q": "i8", "i": "i4"}

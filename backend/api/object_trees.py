"""Tracked objects as answers show them: stored payloads into trees.

Every reader gets the same fields whatever a writer left out, because pages do not
check: a width that is unknown is 0, a caption "". A step's value is one object or a
list of them; of a list, each item keeps its place as `index` however the list is cut.

Design note: docs/subsystems/api.md#objects
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from backend.api.fields import Range

LIST_KINDS: Final = frozenset({"images", "audios", "texts"})
"""Kinds whose steps hold a list of objects; of the others a step is one object."""

OBJECT_KINDS: Final = ("images", "texts", "distributions", "audios", "figures")

NO_URI: Final = "none"
"""The URI of what has no blob: batches leave it out."""

_DTYPES: Final = frozenset(
    f"{sign}{size}"
    for sign, sizes in {"float": (16, 32, 64), "int": (8, 16, 32, 64)}.items()
    for size in sizes
)
UriOf = Callable[[Mapping[str, Any]], str]
"""Of an image's or audio's payload, the URI of its blob."""


@dataclass(frozen=True, slots=True)
class Items:
    """Which items of a step's list are wanted.

    Attributes:
        range: Indices, half-open.
        density: Most of them, 0 for all.
    """

    range: Range = (None, None)
    density: int = 0

    def pick(self, count: int) -> Sequence[int]:
        """Return the indices below `count` that are wanted, ascending."""
        start, stop = self.range
        first = max(0, start or 0)
        last = count if stop is None else max(first, min(count, stop))
        found = range(first, last)
        if takes_all(self.density, len(found)):
            return found
        places = np.linspace(first, last - 1, self.density)
        chosen: list[int] = np.rint(places).astype(int).tolist()
        return chosen


def takes_all(density: int, length: int) -> bool:
    """Return whether a density means all of a range of `length`.

    Pages ask for one less than there are.
    """
    return density <= 0 or density >= length - 1


def step_items(payload: Any) -> list[Any]:
    """Return the objects of a step's value, which is one or a list of them."""
    return payload if isinstance(payload, list) else [payload]


def object_tree(kind: str, payload: Any, *, uri_of: UriOf) -> dict[str, Any]:
    """Return one object as searches and batches send it, without its index."""
    fields = payload if isinstance(payload, Mapping) else {"data": payload}
    if kind == "images":
        return {
            "caption": _text(fields.get("caption")),
            "width": _whole(fields.get("width")),
            "height": _whole(fields.get("height")),
            "format": _text(fields.get("format")),
            "blob_uri": uri_of(fields),
        }
    if kind == "audios":
        return {
            "caption": _text(fields.get("caption")),
            "format": _text(fields.get("format")),
            "blob_uri": uri_of(fields),
        }
    if kind == "texts":
        return {"data": _text(fields.get("data"))}
    if kind == "distributions":
        return _distribution(fields)
    return {"data": _figure(fields.get("data")), "index": 0}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _whole(value: Any) -> int:
    number = _number(value)
    return int(number) if math.isfinite(number) else 0


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _figure(data: Any) -> str:
    """Return Plotly's JSON as text; what is no finite number is null in it."""
    if isinstance(data, str):
        return data
    return msgspec.json.encode(data if data is not None else {}).decode()


def _distribution(fields: Mapping[str, Any]) -> dict[str, Any]:
    weights = _weights(fields.get("data"), fields.get("dtype"))
    ends = fields.get("range")
    low, high = ends if isinstance(ends, list) and len(ends) == 2 else (0, len(weights))
    return {
        "data": {
            "type": "numpy",
            "shape": len(weights),
            "dtype": "float64",
            "blob": weights.tobytes(),
        },
        "bin_count": len(weights),
        "range": [_number(low), _number(high)],
    }


def _weights(data: Any, dtype: Any) -> npt.NDArray[np.float64]:
    """Return a histogram's counts, logged as numbers or, by importers, as hex text."""
    if isinstance(data, list):
        return np.array([_number(value) for value in data], "<f8")
    if isinstance(data, str):
        try:
            data = bytes.fromhex(data)
        except ValueError:
            data = b""
    if not isinstance(data, bytes):
        return np.empty(0, "<f8")
    name = dtype if dtype in _DTYPES else "float64"
    stored = np.dtype(name).newbyteorder("<")
    whole = len(data) // stored.itemsize * stored.itemsize
    return np.frombuffer(data[:whole], stored).astype("<f8")

"""Contexts: the JSON object that tells two series of one name apart.

A context travels as text and two contexts are the same when their texts are: object
keys sorted at every level, no spaces, non-ASCII characters as they are. Integers and
floats differ (`1` and `1.0`), as they do in the identity the JSON clients compute.

JSON knows no NaN or infinity; in a context they become the strings `"NaN"`,
`"Infinity"` and `"-Infinity"`.

Design note: docs/subsystems/wire.md#contexts
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

EMPTY_CONTEXT: Final = "{}"

MAX_CONTEXT_DEPTH: Final = 16

_encode = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
).encode


def canonical_context(context: Mapping[str, Any] | None) -> str:
    """Return the canonical text of `context`; None is the empty context.

    Raises:
        ValueError: If it nests deeper than `MAX_CONTEXT_DEPTH`.
        TypeError: If a value or key is not JSON.
    """
    if not context:
        return EMPTY_CONTEXT
    _check_depth(context, MAX_CONTEXT_DEPTH)
    try:
        return _encode(context)
    except ValueError:
        return _encode(_without_non_finite(context))


def is_canonical_context(text: str) -> bool:
    """Return whether `text` is what `canonical_context` gives for what it says."""
    if text == EMPTY_CONTEXT:
        return True
    try:
        value: object = json.loads(text)
        if not isinstance(value, dict):
            return False
        return canonical_context(cast("dict[str, Any]", value)) == text
    except (ValueError, TypeError, RecursionError):
        return False


def _check_depth(value: Any, levels: int) -> None:
    if not isinstance(value, (Mapping, list, tuple)):
        return
    if levels == 0:
        msg = f"nests deeper than {MAX_CONTEXT_DEPTH} levels"
        raise ValueError(msg)
    for child in _children(cast("object", value)):
        _check_depth(child, levels - 1)


def _children(value: object) -> Iterable[object]:
    """Return what is in a mapping, list or tuple."""
    if isinstance(value, Mapping):
        return cast("Mapping[object, object]", value).values()
    return cast("Iterable[object]", value)


def _without_non_finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{'-' * (value < 0)}Infinity"
    if isinstance(value, Mapping):
        tree = cast("Mapping[object, object]", value)
        return {key: _without_non_finite(child) for key, child in tree.items()}
    if isinstance(value, (list, tuple)):
        return [
            _without_non_finite(child) for child in _children(cast("object", value))
        ]
    return value

"""Names and contexts of series: checked, and as the wire has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from matyan_client import attributes
from matyan_wire.contexts import canonical_context
from matyan_wire.limits import MAX_CONTEXT_BYTES, MAX_SERIES_NAME_BYTES

Context = Mapping[str, Any]


def check_name(name: Any) -> str:
    """Return the name of a series.

    Raises:
        TypeError: If it is no text.
        ValueError: If it is empty or too long.
    """
    if name is None:
        msg = "track() needs a name: track(value, name='loss')"
        raise ValueError(msg)
    if not isinstance(name, str):
        msg = f"a series' name is text, not {type(name).__name__}"
        raise TypeError(msg)
    if not name or len(name.encode()) > MAX_SERIES_NAME_BYTES:
        msg = f"a series' name has 1 to {MAX_SERIES_NAME_BYTES} bytes: {name[:80]!r}"
        raise ValueError(msg)
    return str(name)


def context_text(context: Any) -> str:
    """Return the canonical text of a context.

    Raises:
        TypeError: If it is no mapping, or holds what JSON cannot say.
        ValueError: If it is too long.
    """
    if not context:
        return "{}"
    if not isinstance(context, Mapping):
        msg = f"a context is a mapping, not {type(context).__name__}"
        raise TypeError(msg)
    try:
        plain = attributes.to_plain(cast("Context", context), where="context")
        text = canonical_context(plain)
    except (TypeError, ValueError) as error:
        msg = f"the context cannot be stored ({error}): {context!r}"
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(msg) from error
    if len(text.encode()) > MAX_CONTEXT_BYTES:
        msg = f"a context takes at most {MAX_CONTEXT_BYTES} bytes"
        raise ValueError(msg)
    return text

"""Query parameters as browsers and scripts really send them.

A parameter that is empty, or one of JavaScript's words for "nothing", counts as
absent. Parameters are declared as plain serializers, which also describe them in the
OpenAPI schema; `read_params` is the one way to read them.
"""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar
from urllib.parse import unquote_plus

from rest_framework import serializers
from rest_framework.fields import empty
from rest_framework.request import Request
from typing_extensions import override

from backend.errors import BadRequestError

_NOTHING: Final = frozenset({"", "undefined", "null", "NaN"})
_RANGE: Final = re.compile(r"\s*(-?\d*)\s*:\s*(-?\d*)\s*\Z")
_MAX_TZ_OFFSET_MIN: Final = 24 * 60
_INT64_MAX: Final = 2**63 - 1
_MAX_DIGITS: Final = 1_000

Range = tuple[int | None, int | None]
Params = TypeVar("Params", bound=serializers.Serializer[Any])


class _LenientMixin:
    def run_validation(self, data: Any = empty) -> Any:
        """Return the default for values that say nothing."""
        if isinstance(data, str) and data.strip() in _NOTHING:
            data = empty
        return super().run_validation(data)  # type: ignore[misc]  # a mixin of fields


class FlagField(_LenientMixin, serializers.BooleanField):
    """true/false/1/0 in any case."""

    @override
    def to_internal_value(self, data: Any) -> bool:
        value = data.strip().lower() if isinstance(data, str) else data
        return bool(super().to_internal_value(value))


class NumberField(_LenientMixin, serializers.IntegerField):
    """A whole number, clamped into `min_value`…`max_value` rather than refused."""

    def __init__(self, *, least: int, greatest: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.least = least
        self.greatest = greatest

    @override
    def to_internal_value(self, data: Any) -> int:
        return max(self.least, min(self.greatest, super().to_internal_value(data)))


class StepRangeField(_LenientMixin, serializers.CharField):
    """`start:stop` on step values, half-open, either side may be missing.

    Text without a colon says nothing. Anything else is refused with 400.
    """

    @override
    def run_validation(self, data: Any = empty) -> Any:
        return super().run_validation(data) or (None, None)

    @override
    def to_internal_value(self, data: Any) -> Any:
        text = super().to_internal_value(data)
        if ":" not in text:
            return None, None
        match = _RANGE.match(text)
        if match is None:
            raise BadRequestError(
                parameter=self.field_name, value=text, reason="expected start:stop"
            )
        return _bound(match[1]), _bound(match[2])


def _bound(digits: str) -> int | None:
    if digits in {"", "-"}:
        return None
    # Python refuses to read thousands of digits; these are beyond any step anyway.
    number = int(digits[:_MAX_DIGITS])
    return max(-_INT64_MAX, min(_INT64_MAX, number))


def read_params(request: Request, declared: type[Params]) -> dict[str, Any]:
    """Return the request's query parameters, validated, with defaults filled in.

    The value of `q` is taken from the raw query string up to the next parameter of
    `declared`, because the web UI does not escape `&` in it.

    Raises:
        ValidationError: If a value cannot be meant.
        BadRequestError: If a range cannot.
    """
    fields = declared().fields
    query = request.query_params
    data: dict[str, Any] = {
        name: query.getlist(name)
        if isinstance(field, serializers.ListField)
        else query[name]
        for name, field in fields.items()
        if name in query
    }
    if "q" in fields:
        data["q"] = raw_query(request.META.get("QUERY_STRING", ""), frozenset(fields))
    serializer = declared(data=data)
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)


def raw_query(query_string: str, known: frozenset[str]) -> str:
    """Return `q` of an unescaped query string: up to the next parameter in `known`."""
    parts = query_string.split("&")
    starts = [index for index, part in enumerate(parts) if part.startswith("q=")]
    if not starts:
        return ""
    start = stop = starts[0]
    while stop + 1 < len(parts) and parts[stop + 1].split("=", 1)[0] not in known:
        stop += 1
    return unquote_plus("&".join(parts[start : stop + 1])[2:].rstrip("&"))


def tz_offset_min(request: Request) -> int:
    """Return the caller's offset in minutes, positive west of UTC; 0 if unusable."""
    try:
        minutes = int(request.headers.get("X-Timezone-Offset", "0").strip())
    except ValueError:
        return 0
    return minutes if abs(minutes) <= _MAX_TZ_OFFSET_MIN else 0

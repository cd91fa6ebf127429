"""The methods and data attributes a query may read, by the exact type of the value.

Design note: docs/subsystems/query.md#functions
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, timedelta
from typing import Any, Final

from backend.storage.query.budget import BudgetExceededError
from backend.storage.query.functions import (
    Evaluation,
    Guarded,
    epoch_seconds,
    iterate,
    on_text,
    plain,
    text_date,
)
from backend.storage.query.proxies import TagNames

MAX_PADDING: Final = 1_000


def _replace(ev: Evaluation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    text, old, new, *_ = args
    found = text.count(old)
    ev.budget.charge_text(2 * len(text) + found * len(new))
    return str.replace(*args, **kwargs)


def _on_both(function: Callable[..., Any]) -> Guarded:
    """Guard methods that may compare every place in a text with all of another."""

    def call(ev: Evaluation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        text, *others = args
        wanted = others[0] if others else kwargs.get("sep")
        length = len(wanted) if isinstance(wanted, str) else 1
        ev.budget.charge_text(len(text) * max(1, min(length, len(text))))
        return function(*args, **kwargs)

    return call


def _padded(function: Callable[..., Any]) -> Guarded:
    def call(_: Evaluation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args[1] > MAX_PADDING:
            raise BudgetExceededError
        return function(*args, **kwargs)

    return call


def _join(ev: Evaluation, args: tuple[Any, ...], _: dict[str, Any]) -> str:
    separator, items = args
    parts = list(iterate(ev, items))
    ev.budget.charge_text(sum(map(len, parts)) + len(separator) * len(parts))
    return str.join(separator, parts)


def _listed(function: Callable[[Any], Iterable[Any]]) -> Guarded:
    def call(_: Evaluation, args: tuple[Any, ...], __: dict[str, Any]) -> Any:
        (mapping,) = args
        return list(function(mapping))

    return call


def _of_set(function: Callable[..., Any]) -> Guarded:
    def call(ev: Evaluation, args: tuple[Any, ...], _: dict[str, Any]) -> Any:
        # Not listed before: items whose hashes collide make each step a long one.
        return function(args[0], *(iterate(ev, arg) for arg in args[1:]))

    return call


def _methods(kind: type, names: str, guard: Callable[[Any], Guarded]) -> dict[str, Any]:
    return {name: guard(getattr(kind, name)) for name in names.split()}


_SET_NAMES: Final = (
    "union intersection difference symmetric_difference issubset issuperset isdisjoint"
)
_CALENDAR_METHODS: Final = "isoformat weekday isoweekday toordinal"

_TUPLE_METHODS: Final[Mapping[str, Guarded]] = _methods(tuple, "count index", plain)

METHODS: Final[Mapping[type, Mapping[str, Guarded]]] = {
    str: {
        **_methods(
            str,
            "capitalize casefold count endswith find index isalnum isalpha isdecimal "
            "isdigit isidentifier islower isnumeric isspace istitle isupper lower "
            "partition removeprefix removesuffix split splitlines startswith swapcase "
            "title upper",
            on_text,
        ),
        **_methods(str, "lstrip rfind rindex rpartition rsplit rstrip strip", _on_both),
        **_methods(str, "center ljust rjust zfill", _padded),
        "replace": _replace,
        "join": _join,
    },
    list: _methods(list, "count index copy", plain),
    tuple: _TUPLE_METHODS,
    TagNames: {**_TUPLE_METHODS, "contains": plain(tuple.__contains__)},
    dict: {
        "get": plain(dict.get),
        "copy": plain(dict.copy),
        **_methods(dict, "keys values items", _listed),
    },
    set: _methods(set, _SET_NAMES, _of_set),
    frozenset: _methods(frozenset, _SET_NAMES, _of_set),
    int: _methods(int, "bit_length", plain),
    float: _methods(float, "is_integer", plain),
    datetime: {
        **_methods(datetime, _CALENDAR_METHODS, plain),
        **_methods(datetime, "date replace", plain),
        "strftime": text_date(datetime.strftime),
        "timestamp": lambda ev, args, _: epoch_seconds(
            *args, tz_offset_min=ev.tz_offset_min
        ),
    },
    date: _methods(date, _CALENDAR_METHODS, plain),
    timedelta: _methods(timedelta, "total_seconds", plain),
}
"""Methods by exact type. `str.format` is left out on purpose: it reads attributes."""

DATA_ATTRIBUTES: Final[Mapping[type, frozenset[str]]] = {
    int: frozenset({"real", "imag", "numerator", "denominator"}),
    float: frozenset({"real", "imag"}),
    complex: frozenset({"real", "imag"}),
    datetime: frozenset({"year", "month", "day", "hour", "minute", "second"}),
    date: frozenset({"year", "month", "day"}),
    timedelta: frozenset({"days", "seconds", "microseconds"}),
}

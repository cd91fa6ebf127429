"""The functions and types a query may call, each with its guard.

A call is looked up by the identity of what is called; whatever is not in the table
cannot be called. Guards refuse, before doing it, what would take long or grow large.

Design note: docs/subsystems/query.md#functions
"""

from __future__ import annotations

import math
import random
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from typing_extensions import override

from backend.storage.query.budget import MAX_INT_BITS, Budget, BudgetExceededError

MAX_RANGE_ITEMS: Final = 1_000
MAX_FORMAT_CHARS: Final = 64
MAX_ROUND_DIGITS: Final = 400
MAX_FACTORIAL: Final = 400
ENCODINGS: Final = ("utf-8", "ascii", "latin-1")


class Evaluation(Protocol):
    """What a guard may use of the evaluation in progress."""

    budget: Budget
    tz_offset_min: int

    @property
    def now_us(self) -> int:
        """The present."""

    def call(self, function: Any, args: tuple[Any, ...]) -> Any:
        """Call what the query passed as a function."""


Guarded = Callable[[Evaluation, tuple[Any, ...], dict[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class Namespace:
    """A module as a query sees it: some names of it."""

    name: str
    members: Mapping[str, Any]


def plain(function: Callable[..., Any]) -> Guarded:
    """Return the guard of a function that needs none."""

    def call(_: Evaluation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return function(*args, **kwargs)

    return call


def on_text(function: Callable[..., Any]) -> Guarded:
    """Guard functions whose time is linear in the texts they are given."""

    def call(ev: Evaluation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        ev.budget.charge_text(sum(len(arg) for arg in args if isinstance(arg, str)))
        return function(*args, **kwargs)

    return call


# --- built-ins -----------------------------------------------------------------------


def _range(_: Evaluation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    found = range(*args, **kwargs)
    if len(found) >= MAX_RANGE_ITEMS:
        raise BudgetExceededError
    return found


def _bytes(ev: Evaluation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if args and isinstance(args[0], int):
        raise BudgetExceededError
    return _encoded(bytes)(ev, args, kwargs)


def _encoded(kind: Callable[..., Any]) -> Guarded:
    """Guard types that take an encoding: not every one is linear, punycode is not."""

    def call(ev: Evaluation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kwargs or len(args) > 2 or (len(args) == 2 and args[1] not in ENCODINGS):
            msg = f"One value expected, and one of {', '.join(ENCODINGS)}"
            raise TypeError(msg)
        return on_text(kind)(ev, args, kwargs)

    return call


def _round(_: Evaluation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    digits = args[1] if len(args) > 1 else kwargs.get("ndigits")
    if digits is not None and abs(digits) > MAX_ROUND_DIGITS:
        raise BudgetExceededError
    return round(*args, **kwargs)


def power(base: Any, exponent: Any, modulus: Any = None) -> Any:
    """Return base ** exponent [% modulus], refusing integers that grow too large.

    Raises:
        BudgetExceededError: If the result could pass `MAX_INT_BITS`.
    """
    if isinstance(base, int) and isinstance(exponent, int):
        if modulus is None and base.bit_length() * abs(exponent) > MAX_INT_BITS:
            raise BudgetExceededError
        return pow(base, exponent, modulus)
    return pow(base, exponent)


def _pow(_: Evaluation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return power(*args, **kwargs)


def _sum(ev: Evaluation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    items, total = args[0], args[1] if len(args) > 1 else kwargs.get("start", 0)
    for item in iterate(ev, items):
        total = add(ev, total, item)
    return total


def _keyed(function: Callable[..., Any]) -> Guarded:
    """For min, max and sorted: the key may be one of the query's own functions."""

    def call(ev: Evaluation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        key = kwargs.pop("key", None)
        if key is not None:
            kwargs["key"] = lambda item: ev.call(key, (item,))
        if len(args) == 1:
            items = list(iterate(ev, args[0]))
            return function(items, **kwargs)
        return function(*args, **kwargs)

    return call


def _collect(kind: Callable[..., Any]) -> Guarded:
    """For types and functions that run through one iterable."""

    def call(ev: Evaluation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kwargs or len(args) > 1:
            msg = "One iterable expected"
            raise TypeError(msg)
        return kind(iterate(ev, args[0])) if args else kind()

    return call


def _zip(ev: Evaluation, args: tuple[Any, ...], _: dict[str, Any]) -> Any:
    # A list, not an iterator: what a call returns is weighed as a whole.
    return list(zip(*(iterate(ev, arg) for arg in args), strict=False))


def _callable(_: Evaluation, args: tuple[Any, ...], __: dict[str, Any]) -> bool:
    (value,) = args
    return callable(value)


def _same_type(_: Evaluation, args: tuple[Any, ...], __: dict[str, Any]) -> bool:
    first, *others = args
    return all(type(other) is type(first) for other in others)


def _test(_: Evaluation, args: tuple[Any, ...], __: dict[str, Any]) -> Any:
    """Return what follows the first true argument of each pair, else the last."""
    for condition, value in zip(args[::2], args[1::2], strict=False):
        if condition:
            return value
    return args[-1] if len(args) % 2 else None


def _reorder(ev: Evaluation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the items of the first list that are in the second and not the third."""
    items = list(iterate(ev, args[0]))
    wanted = args[1] if len(args) > 1 else kwargs.get("with_", items)
    unwanted = args[2] if len(args) > 2 else kwargs.get("without", ())
    left_out = list(iterate(ev, unwanted))

    def is_kept(item: Any) -> bool:
        # Before each look through the lists: one may be short and the other long.
        ev.budget.charge(len(items) + len(left_out))
        return item in items and item not in left_out

    return [item for item in iterate(ev, wanted) if is_kept(item)]


def iterate(ev: Evaluation, items: Any) -> Iterable[Any]:
    """Yield the items of anything a query may run through, charging each.

    Raises:
        TypeError: If it cannot be run through.
        BudgetExceededError: If there are too many.
    """
    if not isinstance(items, ITERABLES):
        msg = "Not iterable"
        raise TypeError(msg)
    for item in items:
        ev.budget.charge(1)
        yield item


ITERABLES: Final = (
    list,
    tuple,
    set,
    frozenset,
    dict,
    str,
    bytes,
    range,
    type(_ for _ in ()),
)


def add(ev: Evaluation, left: Any, right: Any) -> Any:
    """Return left + right, charging for its size.

    Raises:
        BudgetExceededError: If it is too large.
    """
    if isinstance(left, SIZED):
        ev.budget.charge_text(len(left) + len(right))
    total: Any = left + right
    return ev.budget.admit(total)


SIZED: Final = (str, bytes, list, tuple)


def _small(function: Callable[..., Any]) -> Guarded:
    def call(_: Evaluation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if any(abs(arg) > MAX_FACTORIAL for arg in args):
            raise BudgetExceededError
        return function(*args, **kwargs)

    return call


# --- dates ---------------------------------------------------------------------------


def _now(ev: Evaluation, _: tuple[Any, ...], __: dict[str, Any]) -> datetime:
    """Return the present in the user's zone, naive like every datetime here."""
    local_s = ev.now_us / 1_000_000 - ev.tz_offset_min * 60
    return datetime.fromtimestamp(local_s, tz=UTC).replace(tzinfo=None)


def _from_timestamp(
    ev: Evaluation, args: tuple[Any, ...], _: dict[str, Any]
) -> datetime:
    (seconds,) = args
    local_s = seconds - ev.tz_offset_min * 60
    return datetime.fromtimestamp(local_s, tz=UTC).replace(tzinfo=None)


def epoch_seconds(value: datetime, *, tz_offset_min: int) -> float:
    """Return a datetime as seconds since the epoch; a naive one is the user's time.

    Args:
        value: The datetime.
        tz_offset_min: Minutes west of UTC, as JavaScript counts them.
    """
    if value.tzinfo is not None:
        return value.timestamp()
    return value.replace(tzinfo=UTC).timestamp() + tz_offset_min * 60


def text_date(function: Callable[..., Any]) -> Guarded:
    """Guard functions that read or write dates as text."""

    def call(_: Evaluation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if any(isinstance(arg, str) and len(arg) > MAX_FORMAT_CHARS for arg in args):
            raise BudgetExceededError
        return function(*args, **kwargs)

    return call


DATETIME_MEMBERS: Final[Mapping[str, Guarded]] = {
    "now": _now,
    "today": _now,
    "utcnow": lambda ev, _args, _kwargs: datetime.fromtimestamp(
        ev.now_us / 1_000_000, tz=UTC
    ),
    "fromtimestamp": _from_timestamp,
    "fromisoformat": text_date(datetime.fromisoformat),
    "strptime": text_date(datetime.strptime),
}

# --- names ---------------------------------------------------------------------------


def _members(module: Any, names: str) -> Namespace:
    members = {name: getattr(module, name) for name in names.split()}
    return Namespace(module.__name__, members)


_MATH: Final = _members(
    math,
    "acos acosh asin asinh atan atan2 atanh ceil comb copysign cos cosh degrees e erf "
    "erfc exp expm1 fabs factorial floor fmod frexp gamma gcd hypot inf isclose "
    "isfinite isinf isnan isqrt ldexp lgamma log log10 log1p log2 modf nan perm pi pow "
    "radians sin sinh sqrt tan tanh tau trunc",
)
_random = random.Random()  # noqa: S311 - a query's coin, no secret
_RANDOM: Final = Namespace(
    "random",
    {
        "random": _random.random,
        "uniform": _random.uniform,
        "randint": _random.randint,
        "choice": _random.choice,
        "gauss": _random.gauss,
    },
)
_STRING: Final = _members(
    string,
    "ascii_letters ascii_lowercase ascii_uppercase digits hexdigits octdigits "
    "printable punctuation whitespace",
)


class _Marker:
    """A function that exists in queries only."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    @override
    def __repr__(self) -> str:
        return self.name


SAME_TYPE: Final = _Marker("same_type")
TEST: Final = _Marker("test")
REORDER: Final = _Marker("reorder")

_EXCEPTIONS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    Exception,
    IndexError,
    KeyError,
    LookupError,
    NameError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    ZeroDivisionError,
)

NAMES: Final[Mapping[str, Any]] = {
    **{
        f.__name__: f
        for f in (
            abs,
            all,
            any,
            bool,
            bytes,
            callable,
            chr,
            complex,
            divmod,
            float,
            frozenset,
            hash,
            hex,
            id,
            int,
            isinstance,
            issubclass,
            len,
            list,
            max,
            min,
            oct,
            ord,
            pow,
            range,
            repr,
            round,
            set,
            slice,
            sorted,
            str,
            sum,
            tuple,
            zip,
            datetime,
            timedelta,
            *_EXCEPTIONS,
        )
    },
    "NaN": math.nan,
    "nan": math.nan,
    "Inf": math.inf,
    "inf": math.inf,
    "Infinity": math.inf,
    "math": _MATH,
    "random": _RANDOM,
    "string": _STRING,
    "same_type": SAME_TYPE,
    "test": TEST,
    "reorder": REORDER,
}
"""What a name means in every query, unless the query binds it."""

CALLABLES: Final[Mapping[Any, Guarded]] = {
    **{
        f: plain(f)
        for f in (
            abs,
            bool,
            chr,
            datetime,
            divmod,
            hash,
            hex,
            id,
            isinstance,
            issubclass,
            len,
            oct,
            ord,
            slice,
            timedelta,
        )
    },
    **{f: on_text(f) for f in (complex, float, int, repr)},
    **{f: _collect(f) for f in (all, any, frozenset, list, set, tuple)},
    **{f: _keyed(f) for f in (max, min, sorted)},
    **{f: plain(f) for f in _MATH.members.values() if callable(f)},
    **{f: plain(f) for f in _RANDOM.members.values()},
    math.factorial: _small(math.factorial),
    math.comb: _small(math.comb),
    math.perm: _small(math.perm),
    bytes: _bytes,
    str: _encoded(str),
    callable: _callable,
    pow: _pow,
    range: _range,
    round: _round,
    sum: _sum,
    zip: _zip,
    SAME_TYPE: _same_type,
    TEST: _test,
    REORDER: _reorder,
}

"""The operators of a query: Python's, with guards on what grows.

Comparisons are Python's own (`5 == 5.0`, `1 < "a"` is an error, which means no match),
except that a time given as seconds compares with a `datetime`.

Design note: docs/subsystems/query.md#semantics
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from backend.storage.query.budget import MAX_INT_BITS, BudgetExceededError
from backend.storage.query.functions import (
    SIZED,
    Evaluation,
    add,
    epoch_seconds,
    power,
)

BinaryOperator = Callable[[Evaluation, Any, Any], Any]
MAX_WIDTH_DIGITS: Final = 3
_WIDTH: Final = re.compile(r"\d+")


def _seconds(ev: Evaluation, value: Any) -> Any:
    if isinstance(value, datetime):
        return epoch_seconds(value, tz_offset_min=ev.tz_offset_min)
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value


def with_times(function: Callable[[Any, Any], Any]) -> BinaryOperator:
    """Return the operator, trying times as seconds where Python refuses the types."""

    def apply(ev: Evaluation, left: Any, right: Any) -> Any:
        try:
            return function(left, right)
        except TypeError:
            if not isinstance(left, (datetime, timedelta)) and not isinstance(
                right, (datetime, timedelta)
            ):
                raise
            return function(_seconds(ev, left), _seconds(ev, right))

    return apply


def _add(ev: Evaluation, left: Any, right: Any) -> Any:
    if type(left) is float or type(right) is float:
        return _add_times(ev, left, right)
    return add(ev, left, right)


_add_times: Final = with_times(operator.add)
_subtract_times: Final = with_times(operator.sub)


def _subtract(ev: Evaluation, left: Any, right: Any) -> Any:
    return ev.budget.admit(_subtract_times(ev, left, right))


def _multiply(ev: Evaluation, left: Any, right: Any) -> Any:
    if isinstance(left, SIZED):
        left, right = right, left
    if isinstance(right, SIZED):
        # Charged before it is built: `"a" * 10**9` must not be tried.
        ev.budget.charge(len(right) * max(0, left))
    return ev.budget.admit(left * right)


def _power(ev: Evaluation, left: Any, right: Any) -> Any:
    return ev.budget.admit(power(left, right))


def _shift_left(_: Evaluation, left: Any, right: Any) -> Any:
    if right > MAX_INT_BITS or left.bit_length() + right > MAX_INT_BITS:
        raise BudgetExceededError
    return left << right


def _modulo(ev: Evaluation, left: Any, right: Any) -> Any:
    if isinstance(left, (str, bytes)):
        template = left if isinstance(left, str) else left.decode("latin-1")
        check_format(template.replace("%%", ""), widths_given="*" in template)
        if isinstance(right, dict):
            # One value could be written out thousands of times.
            msg = "Named formats are not in the language"
            raise TypeError(msg)
        return ev.budget.admit(left % right)
    return left % right


def _admitted(function: Callable[[Any, Any], Any]) -> BinaryOperator:
    def apply(ev: Evaluation, left: Any, right: Any) -> Any:
        return ev.budget.admit(function(left, right))

    return apply


def check_format(spec: str, *, widths_given: bool = False) -> None:
    """Refuse formats that pad to thousands of characters.

    Raises:
        BudgetExceededError: If a width or precision has over three digits, or is taken
            from the arguments.
    """
    wide = any(len(run) > MAX_WIDTH_DIGITS for run in _WIDTH.findall(spec))
    if widths_given or wide:
        raise BudgetExceededError


BINARY: Final[Mapping[type[ast.operator], BinaryOperator]] = {
    ast.Add: _add,
    ast.Sub: _subtract,
    ast.Mult: _multiply,
    ast.Div: lambda _, left, right: left / right,
    ast.FloorDiv: lambda _, left, right: left // right,
    ast.Mod: _modulo,
    ast.Pow: _power,
    ast.LShift: _shift_left,
    ast.RShift: lambda _, left, right: left >> right,
    ast.BitOr: _admitted(operator.or_),
    ast.BitAnd: _admitted(operator.and_),
    ast.BitXor: _admitted(operator.xor),
}

UNARY: Final[Mapping[type[ast.unaryop], Callable[[Any], Any]]] = {
    ast.Not: operator.not_,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Invert: operator.invert,
}

ORDERINGS: Final[Mapping[type[ast.cmpop], Callable[[Any, Any], Any]]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def _contains(ev: Evaluation, left: Any, right: Any) -> bool:
    kind = type(right)
    if kind is str or kind is bytes:
        ev.budget.charge_text(len(right))
    elif not isinstance(right, (list, tuple, set, frozenset, dict, range)):
        return _generated(ev, left, right)
    return left in right


def _generated(ev: Evaluation, left: Any, right: Any) -> bool:
    if not isinstance(right, type(_ for _ in ())):
        msg = "Nothing can be in this"
        raise TypeError(msg)
    ev.budget.charge(1)
    return left in right


COMPARE: Final[Mapping[type[ast.cmpop], BinaryOperator]] = {
    ast.Eq: lambda _, left, right: left == right,
    ast.NotEq: lambda _, left, right: left != right,
    ast.Is: lambda _, left, right: left is right,
    ast.IsNot: lambda _, left, right: left is not right,
    ast.In: _contains,
    ast.NotIn: lambda ev, left, right: not _contains(ev, left, right),
    **{kind: with_times(function) for kind, function in ORDERINGS.items()},
}

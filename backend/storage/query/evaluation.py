"""One evaluation in progress: its budget, its scopes, and every read and call it makes.

Names, attributes and calls reach only what `proxies`, `functions` and `methods` list.

Design note: docs/subsystems/query.md#evaluation
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from backend.storage.query.budget import Budget, check_int
from backend.storage.query.functions import (
    CALLABLES,
    DATETIME_MEMBERS,
    Guarded,
    Namespace,
)
from backend.storage.query.methods import DATA_ATTRIBUTES, METHODS
from backend.storage.query.proxies import (
    RUN_FIELDS,
    SEQUENCE_FIELDS,
    MetricsView,
    MissingSequence,
    RunView,
    SequenceView,
    read_run_item,
)


class Evaluation:
    """One evaluation in progress. Belongs to one thread."""

    __slots__ = ("budget", "sequence", "sequence_name", "tz_offset_min", "view")

    def __init__(
        self,
        view: RunView,
        *,
        sequence: SequenceView | None,
        sequence_name: str,
        tz_offset_min: int,
    ) -> None:
        self.view = view
        self.sequence = sequence
        self.sequence_name = sequence_name
        self.tz_offset_min = tz_offset_min
        self.budget = Budget()

    @property
    def now_us(self) -> int:
        """The present."""
        return self.view.now_us

    def call(self, function: Any, args: tuple[Any, ...]) -> Any:
        """Call what the query passed as a function."""
        return invoke(self, function, args, {})


class Scope:
    """Names an expression binds: one per evaluation, function call, comprehension."""

    __slots__ = ("is_function", "parent", "values")

    def __init__(self, parent: Scope | None, *, is_function: bool) -> None:
        self.parent = parent
        self.is_function = is_function
        self.values: dict[str, Any] = {}

    def assign(self, name: str, value: Any) -> None:
        """Bind `name` as `:=` does: in the innermost function, not comprehension."""
        scope = self
        while not scope.is_function and scope.parent is not None:
            scope = scope.parent
        scope.values[name] = value


Closure = Callable[[Evaluation, Scope], Any]


class Function:
    """A lambda of the query's own."""

    __slots__ = ("body", "defaults", "parameters", "scope")

    def __init__(
        self,
        parameters: tuple[str, ...],
        defaults: Mapping[str, Any],
        body: Closure,
        scope: Scope,
    ) -> None:
        self.parameters = parameters
        self.defaults = defaults
        self.body = body
        self.scope = scope

    def call(self, ev: Evaluation, args: tuple[Any, ...], kwargs: Any) -> Any:
        """Run the body with the arguments bound."""
        if len(args) > len(self.parameters) or not kwargs.keys() <= {*self.parameters}:
            msg = "Wrong arguments"
            raise TypeError(msg)
        scope = Scope(self.scope, is_function=True)
        given = dict(zip(self.parameters, args, strict=False))
        scope.values = {**self.defaults, **given, **kwargs}
        if len(scope.values) != len(self.parameters):
            msg = "Missing arguments"
            raise TypeError(msg)
        ev.budget.enter_call()
        try:
            return self.body(ev, scope)
        finally:
            ev.budget.leave_call()


class Method:
    """A method bound to its value."""

    __slots__ = ("guard", "value")

    def __init__(self, guard: Guarded, value: Any) -> None:
        self.guard = guard
        self.value = value


def invoke(
    ev: Evaluation, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Call `function` if queries may call it.

    Raises:
        TypeError: If it is not callable from a query.
        BudgetExceededError: If the call or its result costs too much.
    """
    ev.budget.charge(1)
    for arg in (*args, *kwargs.values()):
        if type(arg) is int:
            check_int(arg)
    kind = type(function)
    if kind is Function:
        return function.call(ev, args, kwargs)
    if kind is Method:
        result = function.guard(ev, (function.value, *args), kwargs)
    else:
        guard = CALLABLES.get(function)
        if guard is None:
            msg = "Not callable in a query"
            raise TypeError(msg)
        result = guard(ev, args, kwargs)
    return ev.budget.admit(result)


def read_attribute(value: Any, name: str) -> Any:
    """Return `value.name` where a query may read it.

    Raises:
        AttributeError: If there is no such attribute, or it is out of bounds.
    """
    kind = type(value)
    if kind is RunView:
        field = RUN_FIELDS.get(name)
        return field(value) if field else value.attributes.get(name)
    if kind is dict:
        return _read_key(value, name)
    if kind is SequenceView:
        return SEQUENCE_FIELDS[name](value)
    if kind is MissingSequence:
        return None
    method = METHODS.get(kind, {}).get(name)
    if method is not None:
        return Method(method, value)
    return _read_rarer(value, name)


def _read_key(mapping: dict[Any, Any], name: str) -> Any:
    """Attribute access on a dict is key access first: `run.hparams.items` is a key."""
    if name in mapping:
        return mapping[name]
    method = METHODS[dict].get(name)
    return None if method is None else Method(method, mapping)


def _read_rarer(value: Any, name: str) -> Any:
    if type(value) is Namespace:
        return value.members[name]
    if value is datetime and name in DATETIME_MEMBERS:
        guard = DATETIME_MEMBERS[name]
        return Method(lambda ev, args, kwargs: guard(ev, args[1:], kwargs), value)
    if name in DATA_ATTRIBUTES.get(type(value), ()):
        return getattr(value, name)
    msg = "No such attribute in a query"
    raise AttributeError(msg)


def read_item(ev: Evaluation, value: Any, key: Any) -> Any:
    """Return `value[key]` where a query may read it.

    Raises:
        TypeError: If it cannot be subscripted.
        LookupError: If there is no such item.
    """
    if type(value) is RunView:
        return read_run_item(value, key)
    if type(value) is MetricsView:
        return value.find(key)
    if isinstance(value, (dict, list, tuple, str, bytes, range)):
        found = value[key]
        return ev.budget.admit(found) if type(key) is slice else found
    msg = "Not subscriptable in a query"
    raise TypeError(msg)

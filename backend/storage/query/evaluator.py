"""Compiles a checked expression to closures, once; they are run per run or series.

Nothing is ever given to Python's own `eval`. A closure takes the evaluation in progress
and the scope of the names the expression binds itself; `run` and the sequence are read
from the evaluation.

Anything that goes wrong while evaluating (a missing name, a wrong type, a bound passed)
means "no match"; callers see only True or False.

Design note: docs/subsystems/query.md#evaluation
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NoReturn

from backend.storage.query import operators
from backend.storage.query.ast import bound_names
from backend.storage.query.budget import check_int
from backend.storage.query.evaluation import (
    Closure,
    Evaluation,
    Function,
    Scope,
    invoke,
    read_attribute,
    read_item,
)
from backend.storage.query.functions import NAMES, iterate
from backend.storage.query.proxies import (
    RUN_FIELDS,
    SEQUENCE_FIELDS,
    SEQUENCE_NAMES,
    SequenceView,
)


def compile_expression(node: ast.expr) -> Closure:
    """Return the closure of a checked expression."""
    return _Compiler(bound_names(node)).compile(node)


class _Compiler:
    """Compiles one expression; `bound` are the names it binds anywhere."""

    def __init__(self, bound: frozenset[str]) -> None:
        self.bound = bound

    def compile(self, node: ast.expr) -> Closure:
        return _COMPILERS[type(node)](self, node)

    def compile_all(self, nodes: list[ast.expr]) -> tuple[Closure, ...]:
        return tuple(self.compile(node) for node in nodes)


def _constant(value: Any) -> Closure:
    return lambda _ev, _scope: value


def _compile_constant(_: _Compiler, node: ast.Constant) -> Closure:
    return _constant(node.value)


def _compile_name(compiler: _Compiler, node: ast.Name) -> Closure:
    outer = _outer_name(node.id)
    if node.id not in compiler.bound:
        return outer
    name = node.id

    def read(ev: Evaluation, scope: Scope | None) -> Any:
        here = scope
        while here is not None:
            if name in here.values:
                return here.values[name]
            here = here.parent
        return outer(ev, scope)  # type: ignore[arg-type]  # outer names need no scope

    return read


def _outer_name(name: str) -> Closure:
    if name == "run":
        return lambda ev, _scope: ev.view
    if name in SEQUENCE_NAMES:
        return lambda ev, _scope: _read_sequence(ev, name)
    if name in NAMES:
        return _constant(NAMES[name])
    return lambda _ev, _scope: _unknown(name)


def _read_sequence(ev: Evaluation, name: str) -> SequenceView:
    if ev.sequence is None or ev.sequence_name != name:
        _unknown(name)
    return ev.sequence


def _unknown(name: str) -> NoReturn:
    raise NameError(name)


def _compile_attribute(compiler: _Compiler, node: ast.Attribute) -> Closure:
    name = node.attr
    if isinstance(node.value, ast.Name) and node.value.id not in compiler.bound:
        direct = _direct_attribute(node.value.id, name)
        if direct is not None:
            return direct
    value = compiler.compile(node.value)

    def read(ev: Evaluation, scope: Scope) -> Any:
        found = value(ev, scope)
        if type(found) is dict and name in found:
            return found[name]
        return read_attribute(found, name)

    return read


def _direct_attribute(base: str, name: str) -> Closure | None:
    """Return a shorter way for `run.x` and `metric.x`, which are most of all reads."""
    if base == "run":
        field = RUN_FIELDS.get(name)
        if field is None:
            return lambda ev, _scope: ev.view.attributes.get(name)
        return lambda ev, _scope: field(ev.view)
    if base in SEQUENCE_NAMES and name in SEQUENCE_FIELDS:
        read = SEQUENCE_FIELDS[name]
        return lambda ev, _scope: read(_read_sequence(ev, base))
    return None


def _compile_subscript(compiler: _Compiler, node: ast.Subscript) -> Closure:
    value = compiler.compile(node.value)
    key = compiler.compile(node.slice)
    return lambda ev, scope: read_item(ev, value(ev, scope), key(ev, scope))


def _compile_slice(compiler: _Compiler, node: ast.Slice) -> Closure:
    start, stop, step = (
        _constant(None) if part is None else compiler.compile(part)
        for part in (node.lower, node.upper, node.step)
    )
    return lambda ev, scope: slice(start(ev, scope), stop(ev, scope), step(ev, scope))


def _compile_bool(compiler: _Compiler, node: ast.BoolOp) -> Closure:
    parts = compiler.compile_all(node.values)
    stop_at = isinstance(node.op, ast.Or)

    def decide(ev: Evaluation, scope: Scope) -> Any:
        value = None
        for part in parts:
            value = part(ev, scope)
            if bool(value) is stop_at:
                break
        return value

    return decide


def _compile_unary(compiler: _Compiler, node: ast.UnaryOp) -> Closure:
    apply = operators.UNARY[type(node.op)]
    operand = compiler.compile(node.operand)
    return lambda ev, scope: apply(operand(ev, scope))


def _compile_binary(compiler: _Compiler, node: ast.BinOp) -> Closure:
    apply = operators.BINARY[type(node.op)]
    left, right = compiler.compile(node.left), compiler.compile(node.right)

    def calculate(ev: Evaluation, scope: Scope) -> Any:
        one, other = left(ev, scope), right(ev, scope)
        # An attribute may hold an integer of any size.
        if type(one) is int:
            check_int(one)
        if type(other) is int:
            check_int(other)
        return apply(ev, one, other)

    return calculate


def _compile_compare(compiler: _Compiler, node: ast.Compare) -> Closure:
    first = compiler.compile(node.left)
    steps = [
        (operators.COMPARE[type(op)], compiler.compile(operand))
        for op, operand in zip(node.ops, node.comparators, strict=True)
    ]
    if len(steps) == 1:
        ((apply, second),) = steps
        return lambda ev, scope: apply(ev, first(ev, scope), second(ev, scope))

    def chain(ev: Evaluation, scope: Scope) -> Any:
        left, result = first(ev, scope), True
        for apply, operand in steps:
            right = operand(ev, scope)
            result = apply(ev, left, right)
            if not result:
                break
            left = right
        return result

    return chain


def _compile_conditional(compiler: _Compiler, node: ast.IfExp) -> Closure:
    test, then, other = compiler.compile_all([node.test, node.body, node.orelse])
    return lambda ev, scope: (then if test(ev, scope) else other)(ev, scope)


def _compile_assignment(compiler: _Compiler, node: ast.NamedExpr) -> Closure:
    name, value = node.target.id, compiler.compile(node.value)

    def assign(ev: Evaluation, scope: Scope) -> Any:
        found = value(ev, scope)
        scope.assign(name, found)
        return found

    return assign


# --- calls ---------------------------------------------------------------------------


def _compile_call(compiler: _Compiler, node: ast.Call) -> Closure:
    function = compiler.compile(node.func)
    args = _compile_items(compiler, node.args)
    kwargs = [(word.arg, compiler.compile(word.value)) for word in node.keywords]

    def call(ev: Evaluation, scope: Scope) -> Any:
        callee = function(ev, scope)
        given = tuple(args(ev, scope))
        return invoke(
            ev, callee, given, {str(name): arg(ev, scope) for name, arg in kwargs}
        )

    return call


def _compile_lambda(compiler: _Compiler, node: ast.Lambda) -> Closure:
    names = tuple(arg.arg for arg in (*node.args.posonlyargs, *node.args.args))
    defaults = compiler.compile_all(node.args.defaults)
    with_default = names[len(names) - len(defaults) :]
    body = compiler.compile(node.body)

    def make(ev: Evaluation, scope: Scope) -> Function:
        values = (default(ev, scope) for default in defaults)
        bound = dict(zip(with_default, values, strict=True))
        return Function(names, bound, body, scope)

    return make


# --- displays and text ---------------------------------------------------------------


def _compile_items(
    compiler: _Compiler, nodes: list[ast.expr]
) -> Callable[[Evaluation, Scope], list[Any]]:
    """Return a closure that lists the values of `nodes`, starred ones spread."""
    if not any(isinstance(node, ast.Starred) for node in nodes):
        plain = compiler.compile_all(nodes)
        return lambda ev, scope: [item(ev, scope) for item in plain]
    parts = [
        (True, compiler.compile(node.value))
        if isinstance(node, ast.Starred)
        else (False, compiler.compile(node))
        for node in nodes
    ]

    def collect(ev: Evaluation, scope: Scope) -> list[Any]:
        items: list[Any] = []
        for is_starred, part in parts:
            value = part(ev, scope)
            items.extend(iterate(ev, value) if is_starred else (value,))
        return items

    return collect


def _compile_display(compiler: _Compiler, node: ast.List | ast.Tuple | ast.Set) -> Any:
    build: Callable[[list[Any]], Any] = {
        ast.List: list,
        ast.Tuple: tuple,
        ast.Set: set,
    }[type(node)]
    if all(isinstance(item, ast.Constant) for item in node.elts):
        # Safe to share between evaluations: no method in reach changes it.
        return _constant(build([item.value for item in node.elts]))  # type: ignore[attr-defined]  # all are constants
    items = _compile_items(compiler, node.elts)

    def display(ev: Evaluation, scope: Scope) -> Any:
        values = items(ev, scope)
        for value in values:
            ev.budget.admit_element(value)
        if build is set:
            # Items whose hashes collide make each step a long one.
            return set(iterate(ev, values))
        return build(values)

    return display


def _compile_dict(compiler: _Compiler, node: ast.Dict) -> Closure:
    keys = compiler.compile_all([key for key in node.keys if key is not None])
    values = compiler.compile_all(node.values)

    def display(ev: Evaluation, scope: Scope) -> dict[Any, Any]:
        found = {
            ev.budget.admit_element(key(ev, scope)): ev.budget.admit_element(
                value(ev, scope)
            )
            for key, value in zip(keys, values, strict=True)
        }
        ev.budget.charge(1)
        return found

    return display


def _compile_joined(compiler: _Compiler, node: ast.JoinedStr) -> Closure:
    parts = compiler.compile_all(node.values)

    def join(ev: Evaluation, scope: Scope) -> str:
        return "".join([part(ev, scope) for part in parts])

    return join


_CONVERSIONS: Final[Mapping[int, Callable[[Any], Any]]] = {
    -1: lambda value: value,
    ord("s"): str,
    ord("r"): repr,
    ord("a"): ascii,
}


def _compile_formatted(compiler: _Compiler, node: ast.FormattedValue) -> Closure:
    convert = _CONVERSIONS[node.conversion]
    value = compiler.compile(node.value)
    spec = compiler.compile(node.format_spec) if node.format_spec else _constant("")

    def fill(ev: Evaluation, scope: Scope) -> Any:
        text = spec(ev, scope)
        operators.check_format(text)
        return ev.budget.admit(format(convert(value(ev, scope)), text))

    return fill


# --- comprehensions ------------------------------------------------------------------

Assign = Callable[[Evaluation, Scope, Any], None]
Loop = tuple[Closure, Assign, tuple[Closure, ...]]


def _compile_target(node: ast.expr) -> Assign:
    if isinstance(node, ast.Name):
        name = node.id

        def bind(_ev: Evaluation, scope: Scope, value: Any) -> None:
            scope.values[name] = value

        return bind
    if not isinstance(node, (ast.Tuple, ast.List)):
        msg = "Only names can be bound"
        raise TypeError(msg)
    targets = [_compile_target(item) for item in node.elts]

    def unpack(ev: Evaluation, scope: Scope, value: Any) -> None:
        for target, item in zip(targets, list(iterate(ev, value)), strict=True):
            target(ev, scope, item)

    return unpack


def _compile_loops(
    compiler: _Compiler, generators: list[ast.comprehension]
) -> Callable[[Evaluation, Scope], Iterator[Scope]]:
    """Return a generator that binds the loop variables anew and yields their scope."""
    loops: list[Loop] = [
        (
            compiler.compile(generator.iter),
            _compile_target(generator.target),
            compiler.compile_all(generator.ifs),
        )
        for generator in generators
    ]
    first_items = loops[0][0]

    def run(ev: Evaluation, scope: Scope, depth: int, items: Any) -> Iterator[Scope]:
        _, bind, conditions = loops[depth]
        for item in iterate(ev, items):
            bind(ev, scope, item)
            if not all(condition(ev, scope) for condition in conditions):
                continue
            if depth + 1 == len(loops):
                yield scope
            else:
                yield from run(ev, scope, depth + 1, loops[depth + 1][0](ev, scope))

    def start(ev: Evaluation, outer: Scope) -> Iterator[Scope]:
        # As in Python, the first iterable is evaluated at once and outside.
        items = first_items(ev, outer)
        return run(ev, Scope(outer, is_function=False), 0, items)

    return start


Comprehension = ast.ListComp | ast.SetComp | ast.GeneratorExp


def _compile_comprehension(compiler: _Compiler, node: Comprehension) -> Closure:
    loops = _compile_loops(compiler, node.generators)
    element = compiler.compile(node.elt)

    def produce(ev: Evaluation, scopes: Iterator[Scope]) -> Iterator[Any]:
        for inner in scopes:
            yield ev.budget.admit_element(element(ev, inner))

    build: Callable[[Iterator[Any]], Any] = {
        ast.ListComp: list,
        ast.SetComp: set,
        ast.GeneratorExp: lambda items: items,
    }[type(node)]
    return lambda ev, scope: build(produce(ev, loops(ev, scope)))


def _compile_dict_comprehension(compiler: _Compiler, node: ast.DictComp) -> Closure:
    loops = _compile_loops(compiler, node.generators)
    key, value = compiler.compile(node.key), compiler.compile(node.value)
    return lambda ev, scope: {
        ev.budget.admit_element(key(ev, inner)): ev.budget.admit_element(
            value(ev, inner)
        )
        for inner in loops(ev, scope)
    }


_COMPILERS: Final[Mapping[type[ast.expr], Callable[[_Compiler, Any], Closure]]] = {
    ast.Constant: _compile_constant,
    ast.Name: _compile_name,
    ast.Attribute: _compile_attribute,
    ast.Subscript: _compile_subscript,
    ast.Slice: _compile_slice,
    ast.BoolOp: _compile_bool,
    ast.UnaryOp: _compile_unary,
    ast.BinOp: _compile_binary,
    ast.Compare: _compile_compare,
    ast.IfExp: _compile_conditional,
    ast.NamedExpr: _compile_assignment,
    ast.Call: _compile_call,
    ast.Lambda: _compile_lambda,
    ast.List: _compile_display,
    ast.Tuple: _compile_display,
    ast.Set: _compile_display,
    ast.Dict: _compile_dict,
    ast.JoinedStr: _compile_joined,
    ast.FormattedValue: _compile_formatted,
    ast.ListComp: _compile_comprehension,
    ast.SetComp: _compile_comprehension,
    ast.GeneratorExp: _compile_comprehension,
    ast.DictComp: _compile_dict_comprehension,
}

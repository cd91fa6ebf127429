"""A query to a plan: which runs need to be looked at at all.

A plan is always a superset: every run the query could match is in it, and every run in
it is re-checked by the evaluator. Predicates the indexes know (hash, experiment, tag,
active, archived, a series' name, creation time) become terms; AND intersects, OR unites
when every branch is known, anything else is unknown and restricts nothing.

    run.experiment == "e" and run.hparams.lr < 0.1
        → runs of experiment "e", residual: all of it
    (metric.name == "loss" and …) or metric.name == "acc"
        → runs with a metric "loss" or runs with a metric "acc"

Creation times bound the range of run numbers that is read.

Design note: docs/subsystems/query.md#plans
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Any, Final

from backend.storage.query.ast import bound_names
from backend.storage.query.parser import ARCHIVED_NAMES, Query
from backend.storage.query.proxies import SEQUENCE_NAMES
from matyan_wire.batch import METRIC

US_PER_S: Final = 1_000_000
_ROUNDING_US: Final = 2
"""A float of seconds is exact to about a quarter of a microsecond in this century."""


@dataclass(frozen=True, slots=True)
class Everything:
    """No restriction."""

    def explain(self) -> str:
        """Return the node for people."""
        return "every run"


@dataclass(frozen=True, slots=True)
class Nothing:
    """No run can match."""

    def explain(self) -> str:
        """Return the node for people."""
        return "no run"


@dataclass(frozen=True, slots=True)
class Lookup:
    """Runs found by a value in an index.

    Attributes:
        index: "hash", "experiment", "tag", "active", "archived" or "series".
        value: Run id, experiment name, tag name, "True"/"False", or "kind name".
    """

    index: str
    value: str

    def explain(self) -> str:
        """Return the node for people."""
        return f"{self.index} {self.value!r}"


@dataclass(frozen=True, slots=True)
class Created:
    """Runs created within bounds, microseconds, both included; None is open."""

    first_us: int | None = None
    last_us: int | None = None

    def explain(self) -> str:
        """Return the node for people."""
        return f"created {self.first_us or ''}..{self.last_us or ''} µs"


@dataclass(frozen=True, slots=True)
class AllOf:
    """Runs in every part."""

    parts: tuple[Node, ...]

    def explain(self) -> str:
        """Return the node for people."""
        return " and ".join(_bracketed(part) for part in self.parts)


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Runs in some part."""

    parts: tuple[Node, ...]

    def explain(self) -> str:
        """Return the node for people."""
        return " or ".join(_bracketed(part) for part in self.parts)


Node = Everything | Nothing | Lookup | Created | AllOf | AnyOf

EVERYTHING: Final = Everything()
NOTHING: Final = Nothing()


@dataclass(frozen=True, slots=True)
class Plan:
    """What to read for a query.

    Attributes:
        source: `Everything` (scan), `Nothing`, or where the candidates come from:
            made of `Lookup`, `AllOf` and `AnyOf` only.
        created: Bounds on the creation time.
        residual: The query's text: what every candidate is checked against.
    """

    source: Node
    created: Created
    residual: str

    def explain(self) -> str:
        """Return the plan for people: what is read, and what is re-checked."""
        how = "scan" if self.source == EVERYTHING else "index"
        lines = [f"{how}: {self.source.explain()}"]
        if self.created != Created():
            lines.append(f"bounds: {self.created.explain()}")
        lines.append(f"check: {self.residual.strip() or '(default filter)'}")
        return "\n".join(lines)


def plan_query(query: Query) -> Plan:
    """Return the plan of a compiled query."""
    parts: list[Node] = [Lookup("archived", "False")] if query.hides_archived else []
    if query.expression is not None:
        parts.append(_Planner(query).plan(query.expression))
    node = _all_of(parts)
    leaves = node.parts if isinstance(node, AllOf) else (node,)
    created = reduce(
        _intersect, (p for p in leaves if isinstance(p, Created)), Created()
    )
    return Plan(source=_indexed(node), created=created, residual=query.text)


class _Planner:
    """Plans one query's expression."""

    def __init__(self, query: Query) -> None:
        # A query that gives `run` another meaning is scanned.
        self.rebound = bound_names(query.expression or ast.Constant(value=True))

    def plan(self, node: ast.expr) -> Node:
        match node:
            case ast.BoolOp(op=ast.And(), values=values):
                return _all_of(self.plan(value) for value in values)
            case ast.BoolOp(values=values):
                return _any_of(self.plan(value) for value in values)
            case ast.Constant(value=value):
                return EVERYTHING if value else NOTHING
            case ast.Tuple(elts=[]) | ast.List(elts=[]):
                return NOTHING
            case ast.Compare(left=left, ops=ops, comparators=others):
                operands = pairwise([left, *others])
                return _all_of(
                    self._compare(op, *pair)
                    for op, pair in zip(ops, operands, strict=True)
                )
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return self._flag(operand, value=False)
            case ast.Attribute():
                return self._flag(node, value=True)
            case ast.Call():
                return self._call(node)
            case _:
                return EVERYTHING

    def _compare(self, op: ast.cmpop, left: ast.expr, right: ast.expr) -> Node:
        if isinstance(op, ast.In):
            return self._contained(left, right)
        if isinstance(left, ast.Constant):
            left, right, op = right, left, _MIRRORED.get(type(op), type(op))()
        if not isinstance(right, ast.Constant):
            return EVERYTHING
        return self._against(op, left, right.value)

    def _against(self, op: ast.cmpop, left: ast.expr, value: Any) -> Node:
        field = self._run_field(left)
        if field in {"created_at", "creation_time"}:
            return _created(op, value)
        if isinstance(op, ast.Eq):
            if field in _FLAGS and isinstance(value, bool):
                return Lookup(_FLAGS[field], str(value))
            return self._named(left, [value])
        if isinstance(op, tuple(_MIRRORED)) and isinstance(value, int | float):
            return self._measured(left)
        return EVERYTHING

    def _contained(self, left: ast.expr, right: ast.expr) -> Node:
        """`"t" in run.tags`, `run.hash in […]`, `metric.name in […]`."""
        if self._run_field(right) == "tags" and isinstance(left, ast.Constant):
            return _lookups("tag", [left.value])
        values = _constants(right)
        return EVERYTHING if values is None else self._named(left, values)

    def _named(self, left: ast.expr, values: list[Any]) -> Node:
        """`left` equals one of `values`."""
        field = self._run_field(left)
        if field in {"hash", "experiment"} and None not in values:
            return _lookups(field, values)
        match left:
            case ast.Attribute(value=ast.Name(id=kind), attr="name") if (
                kind in SEQUENCE_NAMES and kind not in self.rebound
            ):
                names = [value for value in values if isinstance(value, str)]
                return _any_of(Lookup("series", f"{kind} {name}") for name in names)
            case _:
                return EVERYTHING

    def _measured(self, left: ast.expr) -> Node:
        """`run.metrics["loss"].last < 0.1`: an ordering never holds without a value."""
        match left:
            case ast.Attribute(value=ast.Subscript(value=metrics, slice=key)):
                pass
            case _:
                return EVERYTHING
        if self._run_field(metrics) != "metrics":
            return EVERYTHING
        match key:
            case ast.Constant(value=str(name)):
                return Lookup("series", f"{METRIC} {name}")
            case ast.Tuple(elts=[ast.Constant(value=str(name)), _]):
                return Lookup("series", f"{METRIC} {name}")
            case _:
                return EVERYTHING

    def _flag(self, node: ast.expr, *, value: bool) -> Node:
        index = _FLAGS.get(self._run_field(node))
        return EVERYTHING if index is None else Lookup(index, str(value))

    def _call(self, node: ast.Call) -> Node:
        match node:
            case ast.Call(
                func=ast.Attribute(value=tags, attr="contains"),
                args=[ast.Constant(value=name)],
                keywords=[],
            ) if self._run_field(tags) == "tags":
                return _lookups("tag", [name])
            case ast.Call(
                func=ast.Name(id="any"),
                args=[ast.ListComp() | ast.GeneratorExp() as loop],
                keywords=[],
            ) if "any" not in self.rebound:
                return self._any_tag(loop)
            case _:
                return EVERYTHING

    def _any_tag(self, loop: ast.ListComp | ast.GeneratorExp) -> Node:
        """`any([t in ["a", "b"] for t in run.tags])`: the web interface's tag card."""
        match loop.generators:
            case [ast.comprehension(target=ast.Name(id=name), iter=tags)] if (
                self._run_field(tags) == "tags"
            ):
                pass
            case _:
                return EVERYTHING
        match loop.elt:
            case ast.Compare(
                left=ast.Name(id=left), ops=[ast.In()], comparators=[right]
            ) if left == name:
                values = _constants(right)
                return EVERYTHING if values is None else _lookups("tag", values)
            case ast.Compare(
                left=ast.Name(id=left),
                ops=[ast.Eq()],
                comparators=[ast.Constant(value=value)],
            ) if left == name:
                return _lookups("tag", [value])
            case _:
                return EVERYTHING

    def _run_field(self, node: ast.expr) -> str:
        match node:
            case ast.Attribute(value=ast.Name(id="run"), attr=name) if (
                "run" not in self.rebound
            ):
                return name
            case _:
                return ""


_FLAGS: Final = {"active": "active", **dict.fromkeys(ARCHIVED_NAMES, "archived")}

_MIRRORED: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.Gt,
    ast.LtE: ast.GtE,
    ast.Gt: ast.Lt,
    ast.GtE: ast.LtE,
}

_BROAD: Final = (Lookup("archived", "False"), Lookup("active", "False"))
"""Terms that most runs are under: reading them costs more than it saves."""


def _bracketed(node: Node) -> str:
    text = node.explain()
    return f"({text})" if isinstance(node, AllOf | AnyOf) else text


def _constants(node: ast.expr) -> list[Any] | None:
    """Return the values of a list of constants, None for anything else."""
    if not isinstance(node, ast.List | ast.Tuple | ast.Set):
        return None
    values = [item.value for item in node.elts if isinstance(item, ast.Constant)]
    return values if len(values) == len(node.elts) else None


def _lookups(index: str, values: list[Any]) -> Node:
    # What is no text equals no name.
    names = [value for value in values if isinstance(value, str)]
    return _any_of(Lookup(index, name) for name in names)


def _all_of(nodes: Iterable[Node]) -> Node:
    parts = list(dict.fromkeys(_flattened(nodes, AllOf)))
    parts = [part for part in parts if part != EVERYTHING]
    if NOTHING in parts:
        return NOTHING
    if not parts:
        return EVERYTHING
    return parts[0] if len(parts) == 1 else AllOf(tuple(parts))


def _any_of(nodes: Iterable[Node]) -> Node:
    parts = list(dict.fromkeys(_flattened(nodes, AnyOf)))
    parts = [part for part in parts if part != NOTHING]
    if EVERYTHING in parts:
        return EVERYTHING
    if not parts:
        return NOTHING
    return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))


def _flattened(nodes: Iterable[Node], kind: type[AllOf | AnyOf]) -> Iterator[Node]:
    for node in nodes:
        if isinstance(node, kind):
            yield from node.parts
        else:
            yield node


def _created(op: ast.cmpop, value: Any) -> Node:
    if not isinstance(value, int | float) or math.isnan(value):
        return EVERYTHING
    if abs(value) > 2**53:
        return EVERYTHING
    at_us = int(value * US_PER_S)
    first, last = at_us - _ROUNDING_US, at_us + _ROUNDING_US
    match op:
        case ast.Gt() | ast.GtE():
            return Created(first_us=first)
        case ast.Lt() | ast.LtE():
            return Created(last_us=last)
        case ast.Eq():
            return Created(first, last)
        case _:
            return EVERYTHING


def _intersect(one: Created, other: Created) -> Created:
    firsts = [b.first_us for b in (one, other) if b.first_us is not None]
    lasts = [b.last_us for b in (one, other) if b.last_us is not None]
    return Created(max(firsts, default=None), min(lasts, default=None))


def _indexed(node: Node) -> Node:
    """Return the node without what no index narrows down: times, broad terms."""
    match node:
        case Created():
            return EVERYTHING
        case Lookup() if node in _BROAD:
            return EVERYTHING
        case AllOf(parts=parts):
            return _all_of(_indexed(part) for part in parts)
        case AnyOf(parts=parts):
            return _any_of(_indexed(part) for part in parts)
        case _:
            return node

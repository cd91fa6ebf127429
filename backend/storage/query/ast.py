"""What a query may consist of: the node whitelist and the size limits.

A query is one Python expression. Everything not listed here is refused when the query
is compiled, before any data is read, so the evaluator never meets it.

Limits: text 10,000 characters, 2,000 nodes, 64 levels.

Design note: docs/subsystems/query.md#syntax
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

MAX_TEXT_CHARS: Final = 10_000
MAX_NODES: Final = 2_000
MAX_DEPTH: Final = 64

ALLOWED_NODES: Final = (
    ast.Expression,
    ast.BoolOp,
    ast.NamedExpr,
    ast.BinOp,
    ast.UnaryOp,
    ast.Lambda,
    ast.IfExp,
    ast.Dict,
    ast.Set,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
    ast.Compare,
    ast.Call,
    ast.FormattedValue,
    ast.JoinedStr,
    ast.Constant,
    ast.Attribute,
    ast.Subscript,
    ast.Starred,
    ast.Name,
    ast.List,
    ast.Tuple,
    ast.Slice,
    ast.comprehension,
    ast.arguments,
    ast.arg,
    ast.keyword,
)
"""Operators and load/store markers are not counted and not listed."""

UNCOUNTED_NODES: Final = (
    ast.expr_context,
    ast.boolop,
    ast.operator,
    ast.unaryop,
    ast.cmpop,
)

RESERVED_NAMES: Final = frozenset({"exec", "printed"})


class ForbiddenNodeError(Exception):
    """A node that no query may contain."""

    def __init__(self, node: ast.AST, reason: str) -> None:
        super().__init__(reason)
        self.node = node
        self.reason = reason


def check_tree(tree: ast.Expression) -> None:
    """Walk the tree and refuse what is not in the query language.

    Raises:
        ForbiddenNodeError: At the first node that is not allowed, in source order of
            the walk, or where a limit is passed.
    """
    for count, (node, depth, place) in enumerate(_walk(tree), start=1):
        if not isinstance(node, ALLOWED_NODES):
            raise ForbiddenNodeError(place, f"{type(node).__name__} is not allowed")
        if count > MAX_NODES:
            raise ForbiddenNodeError(place, f"more than {MAX_NODES} nodes")
        if depth > MAX_DEPTH:
            raise ForbiddenNodeError(place, f"nested more than {MAX_DEPTH} levels")
        _check_node(node, place)


def bound_names(tree: ast.AST) -> frozenset[str]:
    """Return every name the expression binds itself: loop variables, parameters, :=."""
    names = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    names.update(node.arg for node in ast.walk(tree) if isinstance(node, ast.arg))
    return frozenset(names)


def _walk(tree: ast.AST) -> Iterator[tuple[ast.AST, int, ast.AST]]:
    """Yield (node, depth, nearest node with a position), parents first."""
    stack = [(tree, 0, tree)]
    while stack:
        node, depth, place = stack.pop()
        place = node if hasattr(node, "lineno") else place
        yield node, depth, place
        children = [
            child
            for child in ast.iter_child_nodes(node)
            if not isinstance(child, UNCOUNTED_NODES)
        ]
        stack.extend((child, depth + 1, place) for child in reversed(children))


def _check_node(node: ast.AST, place: ast.AST) -> None:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
            _check_name(name, place)
        case ast.keyword(arg=str(name)):
            _check_name(name, place)
        case _:
            pass
    reason = _refusal(node)
    if reason:
        raise ForbiddenNodeError(place, reason)


def _refusal(node: ast.AST) -> str:
    match node:
        case ast.keyword(arg=None):
            return "** is not allowed"
        case ast.Dict(keys=keys) if None in keys:
            return "** is not allowed"
        case ast.comprehension(is_async=1):
            return "async is not allowed"
        case ast.arguments() if node.vararg or node.kwarg or node.kwonlyargs:
            return "only plain parameters are allowed"
        case ast.Attribute() | ast.Subscript() | ast.Starred() if isinstance(
            node.ctx, ast.Store
        ):
            return "only names can be bound"
        case ast.FormattedValue(value=ast.Starred()):
            return "* is not allowed here"
        case ast.BinOp(op=ast.MatMult()):
            return "@ is not allowed"
        case _:
            return ""


def _check_name(name: str, place: ast.AST) -> None:
    if name.startswith("_") or name.endswith("__roles__"):
        raise ForbiddenNodeError(place, "names must not start with _")
    if name in RESERVED_NAMES:
        raise ForbiddenNodeError(place, f"{name} is not allowed")

"""Query text to a compiled query.

`compile_query` trims the text, drops a leading `SELECT … IF`, puts it in parentheses,
checks every node, turns `datetime(2026, 11, 23)` into seconds in the user's zone, adds
the default filter (archived runs are hidden unless the query mentions them) and
compiles the rest to closures.

Syntax errors carry the line of the parenthesised text, its number and a 1-based column,
as CPython reports them.

Design note: docs/subsystems/query.md#syntax
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from typing_extensions import override

from backend.domain.series import Series
from backend.errors import QuerySyntaxError
from backend.storage.query.ast import (
    MAX_TEXT_CHARS,
    ForbiddenNodeError,
    bound_names,
    check_tree,
)
from backend.storage.query.budget import (
    MAX_CUT_OFF_EVALUATIONS,
    MAX_QUERY_STEPS,
    MAX_STEPS,
    BudgetExceededError,
)
from backend.storage.query.evaluation import Closure, Evaluation, Scope
from backend.storage.query.evaluator import compile_expression
from backend.storage.query.needs import Needs, find_needs
from backend.storage.query.proxies import SEQUENCE_NAMES, RunView, SequenceView

ARCHIVED_NAMES: Final = frozenset({"archived", "is_archived"})
_IF: Final = re.compile("if", re.IGNORECASE)


@dataclass(slots=True)
class Query:
    """A compiled query. Belongs to one search: it counts what evaluating has cost.

    Attributes:
        text: As the user wrote it.
        expression: The checked expression, None for an empty query.
        hides_archived: Whether the default filter applies.
        needs: What must be loaded for an evaluation.
        tz_offset_min: The user's zone, minutes west of UTC.
        sequence_name: "metric", "images", … in a sequence search; "" in a run search.
        steps_left: What all further evaluations may cost together.
        cut_off: Evaluations that passed their own bound.
    """

    text: str
    expression: ast.expr | None
    hides_archived: bool
    needs: Needs
    tz_offset_min: int
    sequence_name: str
    closure: Closure | None = field(repr=False)
    steps_left: int = MAX_QUERY_STEPS
    cut_off: int = 0

    @property
    def exhausted(self) -> bool:
        """Whether evaluation was given up for its cost; nothing matches then."""
        return self.cut_off >= MAX_CUT_OFF_EVALUATIONS or self.steps_left <= 0

    def matches(self, view: RunView, series: Series | None = None) -> bool:
        """Return whether the run (with this series, in a sequence search) matches.

        In a run search a query that names `metric` (or `images`, …) matches when one
        of the view's series of that kind does. Never raises for what the query does.
        """
        if self.hides_archived and view.run.archived:
            return False
        if self.closure is None:
            return True
        if self.sequence_name:
            return self._evaluate(view, series, self.sequence_name)
        # Without a sequence first: `run.name == "a" or metric.name == "b"`.
        return self._evaluate(view, None, "") or self._has_sequence(view)

    def _has_sequence(self, view: RunView) -> bool:
        return any(
            self._evaluate(view, series, series.kind)
            for kind in self.needs.sequence_names
            for series in view.series
            if series.kind == kind
        )

    def _evaluate(self, view: RunView, series: Series | None, name: str) -> bool:
        if self.exhausted or self.closure is None:
            return False
        sequence = None if series is None else SequenceView(series, view)
        ev = Evaluation(
            view,
            sequence=sequence,
            sequence_name=name,
            tz_offset_min=self.tz_offset_min,
        )
        try:
            return bool(self.closure(ev, Scope(None, is_function=True)))
        except BudgetExceededError:
            self.cut_off += 1
            return False
        except Exception:  # noqa: BLE001 - the contract: an error means "no match"
            return False
        finally:
            self.steps_left -= MAX_STEPS - ev.budget.left


def compile_query(
    text: str, *, names: frozenset[str] = frozenset({"run"}), tz_offset_min: int = 0
) -> Query:
    """Return the compiled query.

    Args:
        text: MatyanQL; may be empty.
        names: {"run"} for a run search, plus the sequence's name in a sequence search.
        tz_offset_min: The user's zone in minutes west of UTC, as JavaScript counts.

    Raises:
        QuerySyntaxError: If the text is not an expression of the language.
    """
    source = strip_select(text)
    expression = _parse(source, tz_offset_min=tz_offset_min) if source else None
    sequence_name = next(iter(sorted(names & SEQUENCE_NAMES)), "")
    return Query(
        text=text,
        expression=expression,
        hides_archived=expression is None or not _mentions_archived(expression),
        needs=find_needs(expression, sequence_name=sequence_name),
        tz_offset_min=tz_offset_min,
        sequence_name=sequence_name,
        closure=None if expression is None else compile_expression(expression),
    )


def strip_select(text: str) -> str:
    """Return what follows the first "if" of a text that starts with "select".

    Other texts are only trimmed. Without an "if" nothing is left.
    """
    source = text.strip()
    if not source.lower().startswith("select"):
        return source
    parts = _IF.split(source, maxsplit=1)
    return parts[1].strip() if len(parts) > 1 else ""


def _parse(source: str, *, tz_offset_min: int) -> ast.expr:
    statement = f"({source})"
    if len(source) > MAX_TEXT_CHARS:
        reason = f"longer than {MAX_TEXT_CHARS} characters"
        raise _error(statement[:80], line=1, offset=1, reason=reason)
    tree = _parse_statement(statement)
    lines = statement.splitlines() or [statement]
    try:
        check_tree(tree)
    except ForbiddenNodeError as exc:
        raise _error_at(exc, lines) from exc
    expression = tree.body
    if "datetime" not in bound_names(expression):
        expression = _DatetimeConstants(tz_offset_min).visit(expression)
    return expression


def _parse_statement(statement: str) -> ast.Expression:
    try:
        return ast.parse(statement, mode="eval")
    except SyntaxError as exc:
        line = exc.lineno or 1
        text = exc.text if exc.text is not None else _line(statement, line)
        raise _error(
            text.rstrip("\r\n"),
            line=line,
            offset=max(1, exc.offset or 1),
            reason=exc.msg,
        ) from exc
    except (ValueError, MemoryError, RecursionError, OverflowError) as exc:
        # Null characters, surrogates, nesting beyond what the parser can hold.
        raise _error(
            _line(statement, 1), line=1, offset=1, reason="cannot be parsed"
        ) from exc


def _line(statement: str, number: int) -> str:
    lines = statement.splitlines()
    return lines[number - 1] if 0 < number <= len(lines) else statement


def _error_at(exc: ForbiddenNodeError, lines: list[str]) -> QuerySyntaxError:
    number = getattr(exc.node, "lineno", 1)
    line = lines[number - 1] if number <= len(lines) else lines[-1]
    column = getattr(exc.node, "col_offset", 0)
    # The tree counts UTF-8 bytes, the user interface characters.
    offset = len(line.encode()[:column].decode(errors="ignore")) + 1
    return _error(line, line=number, offset=offset, reason=exc.reason)


def _error(statement: str, *, line: int, offset: int, reason: str) -> QuerySyntaxError:
    return QuerySyntaxError(
        statement=statement, line=line, offset=offset, reason=reason
    )


class _DatetimeConstants(ast.NodeTransformer):
    """Replaces `datetime(constants…)` by seconds since the epoch."""

    def __init__(self, tz_offset_min: int) -> None:
        self.offset_s = tz_offset_min * 60

    @override
    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Return the constant, or the call where it is not made of constants."""
        self.generic_visit(node)
        match node:
            case ast.Call(func=ast.Name(id="datetime"), args=[_, *_], keywords=[]):
                seconds = self._seconds(node.args)
                if seconds is not None:
                    return ast.copy_location(ast.Constant(seconds), node)
        return node

    def _seconds(self, args: list[ast.expr]) -> float | None:
        values: list[Any] = [arg.value for arg in args if isinstance(arg, ast.Constant)]
        if len(values) != len(args):
            return None
        try:
            local = datetime(*values)  # noqa: DTZ001 - the user's zone, below
            return local.replace(tzinfo=UTC).timestamp() + self.offset_s
        except (TypeError, ValueError, OverflowError):
            # Left as a call, which fails when evaluated: no match, no syntax error.
            return None


def _mentions_archived(expression: ast.expr) -> bool:
    """Return whether `run.archived` or `run.is_archived` occurs anywhere."""
    return any(
        isinstance(node, ast.Attribute)
        and node.attr in ARCHIVED_NAMES
        and _is_run(node.value)
        for node in ast.walk(expression)
    )


def _is_run(node: ast.expr) -> bool:
    match node:
        case ast.Name(id="run") | ast.Attribute(attr="run"):
            return True
        case _:
            return False

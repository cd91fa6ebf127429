"""What an evaluation of a query must have loaded, so that scans read nothing else.

Design note: docs/subsystems/query.md#needs
"""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import dataclass
from typing import Final

from backend.storage.query.proxies import RUN_FIELDS, SEQUENCE_NAMES
from matyan_wire.batch import METRIC

_FREE_FIELDS: Final = frozenset(RUN_FIELDS) - {"tags", "experiment", "metrics"}


@dataclass(frozen=True, slots=True)
class Needs:
    """What a query reads besides the run's record.

    Attributes:
        attributes: The attribute tree.
        series_kinds: Kinds of series, with their summaries.
        experiment: The experiment's name.
        tags: The tags' names.
        sequence_names: Sequences a run search names: "some series of this kind …".
    """

    attributes: bool = False
    series_kinds: frozenset[str] = frozenset()
    experiment: bool = False
    tags: bool = False
    sequence_names: tuple[str, ...] = ()


def find_needs(expression: ast.expr | None, *, sequence_name: str) -> Needs:
    """Return what evaluating `expression` may read; too much rather than too little."""
    if expression is None:
        return Needs(series_kinds=frozenset({sequence_name} - {""}))
    names = {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}
    fields, items = _run_reads(expression)
    everything = _run_escapes(expression)
    sequences = names & SEQUENCE_NAMES
    kinds = {sequence_name} - {""}
    if everything or "metrics" in fields:
        kinds.add(METRIC)
    if not sequence_name:
        kinds |= sequences
    return Needs(
        attributes=everything or items or not fields <= RUN_FIELDS.keys(),
        series_kinds=frozenset(kinds),
        experiment=everything or "experiment" in fields,
        tags=everything or "tags" in fields,
        sequence_names=() if sequence_name else tuple(sorted(sequences)),
    )


def _run_reads(expression: ast.expr) -> tuple[set[str], bool]:
    """Return the names read as `run.name`, and whether `run[…]` occurs."""
    fields, items = set(), False
    for node in ast.walk(expression):
        match node:
            case ast.Attribute(value=base, attr=name) if _is_run(base):
                fields.add(name)
            case ast.Subscript(value=base) if _is_run(base):
                items = True
            case _:
                pass
    return fields, items


def _run_escapes(expression: ast.expr) -> bool:
    """Return whether `run` is used other than as `run.x` or `run[x]`."""
    used: Counter[str] = Counter()
    for node in ast.walk(expression):
        if _is_run(node):
            used["all"] += 1
        if isinstance(node, ast.Attribute | ast.Subscript) and _is_run(node.value):
            used["read"] += 1
    return used["all"] != used["read"]


def _is_run(node: ast.AST) -> bool:
    match node:
        case ast.Name(id="run"):
            return True
        case ast.Attribute(value=ast.Name(id=name), attr="run"):
            return name in SEQUENCE_NAMES
        case _:
            return False

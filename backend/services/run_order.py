"""The order of a run search: what `sort` says, and each run's place in it.

Newest first is the order of run numbers and needs no sorting. Every other order ends
with the run's hash, so that pages neither repeat nor skip a run.

Design note: docs/subsystems/query.md#order
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from backend.domain.runs import Run
from backend.errors import BadRequestError


@dataclass(frozen=True, slots=True)
class SortKey:
    """One criterion.

    Attributes:
        field: One of `FIELDS`.
        descending: Greatest first.
    """

    field: str
    descending: bool = False


Order = tuple[SortKey, ...]

NEWEST_FIRST: Final[Order] = (SortKey("date", descending=True),)

FIELDS: Final[Mapping[str, Callable[[Run, str, int], Any]]] = {
    "run": lambda run, _experiment, _now_us: run.name,
    "experiment": lambda _run, experiment, _now_us: experiment,
    "hash": lambda run, _experiment, _now_us: run.run_id,
    "date": lambda run, _experiment, _now_us: run.number,
    "duration": lambda run, _experiment, now_us: run.duration_us(now_us=now_us),
    "description": lambda run, _experiment, _now_us: run.description,
    "creator": lambda _run, _experiment, _now_us: "",
}
"""Field -> its value, from the run, its experiment's name ("" without) and the time."""


def parse_order(text: str) -> Order:
    """Return the order a request's `sort` parameter asks for.

    Nothing, an empty list and what is no list mean newest first.

    Raises:
        BadRequestError: If it is not JSON, or names an unknown field or direction.
    """
    if not text.strip():
        return NEWEST_FIRST
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = f"Invalid sort JSON: {error}"
        raise BadRequestError(parameter="sort", value=text, reason=reason) from error
    if not isinstance(found, list) or not found:
        return NEWEST_FIRST
    return tuple(_parse_key(item, text) for item in found)


def _parse_key(item: Any, text: str) -> SortKey:
    field = item.get("field") if isinstance(item, dict) else item
    if not isinstance(field, str) or field not in FIELDS:
        reason = f"Unknown sort field: {field!r}"
        raise BadRequestError(parameter="sort", value=text, reason=reason)
    order = item.get("order") or "asc"
    if order not in {"asc", "desc"}:
        reason = f"Invalid sort order: {order!r}"
        raise BadRequestError(parameter="sort", value=text, reason=reason)
    return SortKey(field, descending=order == "desc")


def is_newest_first(order: Order) -> bool:
    """Return whether the order is that of run numbers, newest first."""
    return not order or order[0] == NEWEST_FIRST[0]


@dataclass(frozen=True, slots=True)
class Place:
    """A run's place in an order.

    Attributes:
        values: One per sort key.
        run_id: The final tie-breaker.
        number: Where to find the run.
    """

    values: tuple[Any, ...]
    run_id: str
    number: int


def place_of(order: Order, run: Run, *, experiment: str, now_us: int) -> Place:
    """Return the run's place in `order`."""
    values = tuple(FIELDS[key.field](run, experiment, now_us) for key in order)
    return Place(values, run.run_id, run.number)


def sort_places(order: Order, places: Sequence[Place]) -> list[Place]:
    """Return the places in order."""
    ordered = sorted(places, key=lambda place: place.run_id)
    for index, key in reversed(list(enumerate(order))):
        # Python's sort is stable, reversed too: the last criterion goes first.
        ordered.sort(key=lambda p, i=index: p.values[i], reverse=key.descending)  # type: ignore[misc]  # bound per turn
    return ordered

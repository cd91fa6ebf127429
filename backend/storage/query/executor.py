"""A plan to run numbers: index scans, newest first, united and intersected lazily.

Every stream answers one question: which is your greatest number not above a bound? An
intersection leaps from stream to stream with the answers, so a rare tag within a large
experiment reads little of the latter. Rows are read in pages, each in a transaction of
its own; nothing is held while the caller works.

Design note: docs/subsystems/query.md#plans
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from backend.storage import indexes
from backend.storage.engine.base import Engine
from backend.storage.indexes import Term
from backend.storage.query.planner import (
    AllOf,
    AnyOf,
    Created,
    Everything,
    Lookup,
    Node,
    Nothing,
)

FIRST_PAGE: Final = 256
MAX_PAGE: Final = 8_192


class Names(Protocol):
    """What names in a query stand for in the store."""

    def experiment_id(self, name: str) -> str | None:
        """Return the id of the experiment of this name, None if there is none."""

    def tag_id(self, name: str) -> str | None:
        """Return the id of the tag of this name, None if there is none."""

    def run_numbers(self, run_ids: Sequence[str]) -> list[int]:
        """Return the numbers of the runs there are among `run_ids`."""


class _Stream(Protocol):
    def at_most(self, bound: int) -> int | None:
        """Return the greatest number <= bound, None if there is none.

        Bounds only descend from call to call.
        """


def iter_candidates(
    engine: Engine, source: Node, names: Names, *, below: int
) -> Iterator[int]:
    """Yield the numbers of the runs in `source` that are below `below`, newest first.

    `source` is `Plan.source` and not `Everything`.
    """
    stream = _open(engine, source, names)
    bound = below - 1
    while (number := stream.at_most(bound)) is not None:
        yield number
        bound = number - 1


def _open(engine: Engine, node: Node, names: Names) -> _Stream:
    match node:
        case Nothing():
            return _Listed([])
        case Lookup():
            return _open_lookup(engine, node, names)
        case AnyOf(parts=parts):
            return _open_union(engine, parts, names)
        case AllOf(parts=parts):
            return _Intersection([_open(engine, part, names) for part in parts])
        case Everything() | Created():
            msg = "A scan has no candidates to list"
            raise ValueError(msg)


def _open_union(engine: Engine, parts: tuple[Node, ...], names: Names) -> _Stream:
    hashes = [p.value for p in parts if isinstance(p, Lookup) and p.index == "hash"]
    others = [p for p in parts if not (isinstance(p, Lookup) and p.index == "hash")]
    streams = [_open(engine, part, names) for part in others]
    if hashes:
        streams.append(_Listed(names.run_numbers(hashes)))
    return _Union(streams)


def _open_lookup(engine: Engine, lookup: Lookup, names: Names) -> _Stream:
    if lookup.index == "hash":
        return _Listed(names.run_numbers([lookup.value]))
    term = _term(lookup, names)
    return _Listed([]) if term is None else _Rows(engine, term)


def _term(lookup: Lookup, names: Names) -> Term | None:
    match lookup.index:
        case "experiment":
            experiment_id = names.experiment_id(lookup.value)
            return (experiment_id and indexes.experiment_term(experiment_id)) or None
        case "tag":
            tag_id = names.tag_id(lookup.value)
            return (tag_id and indexes.tag_term(tag_id)) or None
        case "active":
            return indexes.active_term(active=lookup.value == "True")
        case "archived":
            return indexes.archived_term(archived=lookup.value == "True")
        case _:
            kind, _, name = lookup.value.partition(" ")
            return indexes.series_name_term(kind, name)


class _Listed:
    """Numbers known beforehand."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self.ascending = sorted(set(numbers))

    def at_most(self, bound: int) -> int | None:
        place = bisect_left(self.ascending, bound + 1)
        return self.ascending[place - 1] if place else None


class _Rows:
    """The rows of one index term, read in pages that grow while they are used up."""

    def __init__(self, engine: Engine, term: Term) -> None:
        self.engine = engine
        self.term = term
        self.page: list[int] = []  # ascending
        self.size = FIRST_PAGE
        self.is_last = False

    def at_most(self, bound: int) -> int | None:
        place = bisect_left(self.page, bound + 1)
        if place:
            return self.page[place - 1]
        if self.is_last:
            return None
        found = self.engine.read(
            lambda tr: indexes.run_numbers(
                tr, self.term, before=bound + 1, limit=self.size
            )
        )
        self.page = found[::-1]
        self.is_last = len(found) < self.size
        self.size = min(self.size * 2, MAX_PAGE)
        return self.page[-1] if self.page else None


class _Union:
    """Numbers in any of the streams."""

    def __init__(self, streams: list[_Stream]) -> None:
        self.streams = streams

    def at_most(self, bound: int) -> int | None:
        found = [stream.at_most(bound) for stream in self.streams]
        return max((number for number in found if number is not None), default=None)


class _Intersection:
    """Numbers in all of the streams."""

    def __init__(self, streams: list[_Stream]) -> None:
        self.streams = streams

    def at_most(self, bound: int) -> int | None:
        agreed = 0
        while agreed < len(self.streams):
            for stream in self.streams:
                number = stream.at_most(bound)
                if number is None:
                    return None
                agreed = agreed + 1 if number == bound else 1
                bound = number
        return bound

"""Searches as generators of small steps: plan, read a batch, evaluate, load, yield.

Every store read is a short transaction of its own; nothing is held while the caller
sends a step to a slow client, and closing the generator ends the work. A batch costs a
fixed number of range reads, however many runs it holds.

Newest-first searches stream: the first page of a scan reads the first page of runs.
Other orders first collect each match's sort key, then load matches page by page.

Design note: docs/subsystems/query.md#search
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from backend.domain.entities import Experiment, Tag
from backend.domain.runs import MAX_NUMBER_DRIFT_US, Run
from backend.domain.series import Series
from backend.services.damage import read_intact, read_page, read_runs
from backend.services.run_order import (
    NEWEST_FIRST,
    Order,
    Place,
    is_newest_first,
    place_of,
    sort_places,
)
from backend.services.search_tables import SearchTables
from backend.storage import indexes
from backend.storage.engine.base import ReadTransaction
from backend.storage.query.executor import iter_candidates
from backend.storage.query.parser import Query
from backend.storage.query.planner import EVERYTHING, Plan, plan_query
from backend.storage.query.proxies import NO_TAGS, RunView, TagNames
from matyan_wire.batch import METRIC

if TYPE_CHECKING:
    from backend.storage.factory import Store

FIRST_BATCH: Final = 64
MAX_BATCH: Final = 512
MAX_COUNTED: Final = 10_000
"""Candidates counted beforehand; with more the total is given as 0, unknown."""

FIRST_PAGE: Final = 16
MAX_PAGE: Final = 256
MAX_PAGE_SERIES: Final = 20_000
"""Series loaded at once, about: pages of matches shrink when runs have many."""

MAX_NUMBER: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class RunMatch:
    """A run that matched, with what was asked for.

    Attributes:
        run: The run.
        experiment: Its experiment, None without one.
        tags: Its tags, ordered by name.
        attributes: Its attribute tree; empty if not asked for.
        series: In a run search its series of the kinds asked for; in a sequence search
            those that matched. With summaries.
    """

    run: Run
    experiment: Experiment | None
    tags: tuple[Tag, ...]
    attributes: Mapping[str, Any]
    series: Sequence[Series]


@dataclass(frozen=True, slots=True)
class SearchStep:
    """What a search has come to.

    Attributes:
        checked: Candidates looked at so far.
        total: Candidates in all, 0 while unknown.
        matches: Matches found since the last step, in order; may be empty.
    """

    checked: int
    total: int
    matches: list[RunMatch] = field(default_factory=list)


def search_runs(  # noqa: PLR0913 - the parameters of the endpoint
    store: Store,
    query: Query,
    *,
    order: Order = NEWEST_FIRST,
    offset_run_id: str = "",
    limit: int = 0,
    with_attributes: bool = True,
    series_kinds: Collection[str] = (METRIC,),
    now_us: int,
) -> Iterator[SearchStep]:
    """Yield steps whose matches are the runs the query matches, in order.

    The first step has no matches. Reads begin with the first `next`.

    Args:
        store: The store.
        query: Compiled with names {"run"}; used for this search only.
        order: From `run_order.parse_order`.
        offset_run_id: Start after this run, whether or not it matches; a deleted one
            still has its place while its tombstone stands. Unknown: nothing matches.
        limit: Most matches, 0 for all.
        with_attributes: Load attribute trees.
        series_kinds: Kinds of series to load; none: none.
        now_us: The present.
    """
    search = _Search(
        store=store,
        query=query,
        with_attributes=with_attributes,
        series_kinds=frozenset(series_kinds),
        now_us=now_us,
    )
    return search.run(order=order, offset_run_id=offset_run_id, limit=limit)


def search_series(
    store: Store, query: Query, *, with_attributes: bool = True, now_us: int
) -> Iterator[SearchStep]:
    """Yield steps whose matches are runs with the series the query matches.

    Newest runs first. The first step has no matches. Reads begin with the first `next`.

    Args:
        store: The store.
        query: Compiled with names {"run", kind}; used for this search only.
        with_attributes: Load attribute trees.
        now_us: The present.
    """
    search = _Search(
        store=store,
        query=query,
        with_attributes=with_attributes,
        series_kinds=frozenset({query.sequence_name}),
        now_us=now_us,
    )
    return search.run(order=NEWEST_FIRST, offset_run_id="", limit=0)


@dataclass(slots=True)
class _Found:
    """A match before everything asked for is loaded."""

    run: Run
    attributes: Mapping[str, Any] | None
    series: list[Series] | None


class _Search:
    """One search in progress. Belongs to one thread at a time."""

    def __init__(
        self,
        *,
        store: Store,
        query: Query,
        with_attributes: bool,
        series_kinds: frozenset[str],
        now_us: int,
    ) -> None:
        self.store = store
        self.query = query
        self.with_attributes = with_attributes
        self.series_kinds = series_kinds
        self.now_us = now_us
        self.plan: Plan = plan_query(query)
        self.total = 0
        self.page_size = FIRST_PAGE

    def run(
        self, *, order: Order, offset_run_id: str, limit: int
    ) -> Iterator[SearchStep]:
        self.tables = SearchTables(self.store)
        offset = self._find_offset(offset_run_id) if offset_run_id else None
        if offset_run_id and offset is None:
            yield SearchStep(0, 0)
        elif is_newest_first(order):
            below = offset.number if offset else MAX_NUMBER
            yield from self._stream(below=below, limit=limit)
        else:
            yield from self._sort(order=order, offset=offset, limit=limit)

    def _find_offset(self, run_id: str) -> Run | None:
        if not indexes.is_entity_id(run_id):
            return None
        runs = self.store.runs
        return self.store.engine.read(
            lambda tr: runs.find(tr, run_id) or runs.find_deleted(tr, run_id)
        )

    # --- orders ----------------------------------------------------------------------

    def _stream(self, *, below: int, limit: int) -> Iterator[SearchStep]:
        first = limit if limit and self.query.closure is None else FIRST_BATCH
        batches = self._batches(below=below, first_size=min(first, MAX_BATCH))
        yield SearchStep(0, self.total)
        checked = emitted = 0
        for batch in batches:
            runs = self._visible(batch)
            found = self._evaluate(runs)
            checked += len(runs)
            if limit:
                found = found[: limit - emitted]
            emitted += len(found)
            yield from self._load(found, checked=checked)
            if (limit and emitted >= limit) or self.query.exhausted:
                return

    def _sort(
        self, *, order: Order, offset: Run | None, limit: int
    ) -> Iterator[SearchStep]:
        batches = self._batches(below=MAX_NUMBER, first_size=FIRST_BATCH)
        yield SearchStep(0, self.total)
        places: list[Place] = []
        checked = 0
        for batch in batches:
            runs = self._visible(batch)
            places += [self._place(order, found.run) for found in self._evaluate(runs)]
            checked += len(runs)
            yield SearchStep(checked, self.total)
            if self.query.exhausted:
                break
        if offset is not None:
            places = _after(order, places, self._place(order, offset))
        chosen = sort_places(order, places)[: limit or None]
        for start in range(0, len(chosen), MAX_PAGE):
            numbers = [place.number for place in chosen[start : start + MAX_PAGE]]
            runs = self._read_runs(numbers)
            found = [_Found(run, None, None) for run in runs]
            yield from self._load(found, checked=checked)

    def _place(self, order: Order, run: Run) -> Place:
        experiment = self.tables.experiment_of(run)
        name = "" if experiment is None else experiment.name
        return place_of(order, run, experiment=name, now_us=self.now_us)

    # --- candidates ------------------------------------------------------------------

    def _batches(self, *, below: int, first_size: int) -> Iterator[list[Run]]:
        """Set the total and return the candidates, newest first, in batches."""
        if self.plan.created.last_us is not None:
            # A number may lie above its run's creation time, by a bounded amount; the
            # runs where it lies higher are listed.
            last_no = self.plan.created.last_us + MAX_NUMBER_DRIFT_US
            antedated = self.store.engine.read(
                lambda tr: self.store.runs.numbers_with(
                    tr, indexes.antedated_term(), before=below, limit=1
                )
            )
            below = min(below, max(last_no, *antedated, 0) + 1)
        first_no = max(0, self.plan.created.first_us or 0)
        if self.plan.source == EVERYTHING:
            self.total = self._count(first_no, below)
            return self._scan(first_no, below, first_size)
        numbers = iter_candidates(
            self.store.engine, self.plan.source, self.tables, below=below
        )
        counted = []
        for number in islice(numbers, MAX_COUNTED):
            if number < first_no:
                break
            counted.append(number)
        is_all = len(counted) < MAX_COUNTED
        self.total = len(counted) if is_all else 0
        rest = iter(()) if is_all else numbers
        return self._lookup(counted, rest, first_no, first_size)

    def _count(self, first_no: int, below: int) -> int:
        states = (False,) if self.query.hides_archived else (False, True)

        def read(tr: ReadTransaction) -> int:
            return sum(
                len(
                    indexes.run_numbers(
                        tr,
                        indexes.archived_term(archived=state),
                        after=first_no - 1,
                        before=below,
                        limit=MAX_COUNTED,
                    )
                )
                for state in states
            )

        count = self.store.engine.read(read)
        return count if count < MAX_COUNTED else 0

    def _scan(self, first_no: int, below: int, size: int) -> Iterator[list[Run]]:
        before: int = below
        while True:
            runs = self.store.engine.read(self._page(first_no, before, size))
            if runs:
                yield runs
            if len(runs) < size:
                return
            before = runs[-1].number
            size = min(size * 2, MAX_BATCH)

    def _page(
        self, first_no: int, before: int, size: int
    ) -> Callable[[ReadTransaction], list[Run]]:
        return lambda tr: read_page(
            self.store.runs, tr, limit=size, after=first_no - 1, before=before
        )

    def _lookup(
        self, counted: list[int], rest: Iterator[int], first_no: int, size: int
    ) -> Iterator[list[Run]]:
        start = 0
        while start < len(counted):
            yield self._read_runs(counted[start : start + size])
            start += size
            size = min(size * 2, MAX_BATCH)
        while numbers := list(islice(rest, size)):
            wanted = [number for number in numbers if number >= first_no]
            if wanted:
                yield self._read_runs(wanted)
            if len(wanted) < len(numbers):
                return

    def _read_runs(self, numbers: Sequence[int]) -> list[Run]:
        return self.store.engine.read(
            lambda tr: read_runs(self.store.runs, tr, numbers)
        )

    # --- evaluation ------------------------------------------------------------------

    def _visible(self, runs: list[Run]) -> list[Run]:
        if not self.query.hides_archived:
            return runs
        return [run for run in runs if not run.archived]

    def _evaluate(self, runs: list[Run]) -> list[_Found]:
        """Return the runs of a batch that match, with what evaluating has loaded."""
        if not runs:
            return []
        needs = self.query.needs
        numbers = [run.number for run in runs]

        def read(tr: ReadTransaction) -> tuple[dict[int, Any], dict[int, list[Series]]]:
            attributes: dict[int, Any] = {}
            series: dict[int, list[Series]] = {}
            if needs.attributes:
                attributes = read_intact(
                    lambda some: self._read_attributes(tr, some), numbers
                )
            if needs.series_kinds:
                series = self._list_series(tr, numbers, needs.series_kinds)
            return attributes, series

        attributes, series = self.store.engine.read(read)
        views = (
            self._view(run, attributes.get(run.number, {}), series.get(run.number, []))
            for run in runs
        )
        found = (self._match(view) for view in views)
        return [match for match in found if match is not None]

    def _list_series(
        self, tr: ReadTransaction, numbers: Sequence[int], kinds: Collection[str]
    ) -> dict[int, list[Series]]:
        return read_intact(
            lambda some: self.store.series.list_many(tr, some, kinds=kinds), numbers
        )

    def _read_attributes(
        self, tr: ReadTransaction, numbers: Sequence[int]
    ) -> dict[int, dict[str, Any]]:
        if self.plan.source == EVERYTHING:
            # Neighbours: one range read for all of them.
            return self.store.attributes.get_span(tr, numbers[-1], numbers[0])
        return self.store.attributes.get_many(tr, numbers)

    def _view(
        self, run: Run, attributes: dict[str, Any], series: list[Series]
    ) -> RunView:
        needs = self.query.needs
        experiment = self.tables.experiment_of(run) if needs.experiment else None
        tags = NO_TAGS
        if needs.tags:
            tags = TagNames(tag.name for tag in self.tables.tags_of(run))
        return RunView(
            run=run,
            experiment_name=None if experiment is None else experiment.name,
            tag_names=tags,
            attributes=attributes,
            series=series,
            now_us=self.now_us,
        )

    def _match(self, view: RunView) -> _Found | None:
        needs = self.query.needs
        attributes = view.attributes if needs.attributes else None
        kind = self.query.sequence_name
        if kind:
            matching = [
                series
                for series in view.series
                if series.kind == kind and self.query.matches(view, series)
            ]
            return _Found(view.run, attributes, matching) if matching else None
        if not self.query.matches(view):
            return None
        series = None
        if self.series_kinds and self.series_kinds <= needs.series_kinds:
            series = [s for s in view.series if s.kind in self.series_kinds]
        return _Found(view.run, attributes, series)

    # --- loading ---------------------------------------------------------------------

    def _load(self, found: list[_Found], *, checked: int) -> Iterator[SearchStep]:
        """Yield the matches with everything asked for, page by page."""
        if not found:
            yield SearchStep(checked, self.total)
        start = 0
        while start < len(found):
            page = found[start : start + self.page_size]
            start += len(page)
            matches = self._complete(page)
            self._adapt(sum(len(match.series) for match in matches))
            yield SearchStep(checked, self.total, matches)

    def _adapt(self, series: int) -> None:
        if series > MAX_PAGE_SERIES:
            self.page_size = max(1, self.page_size // 4)
        elif series < MAX_PAGE_SERIES // 4:
            self.page_size = min(self.page_size * 2, MAX_PAGE)

    def _complete(self, page: list[_Found]) -> list[RunMatch]:
        bare = [f.run.number for f in page if f.attributes is None]
        unlisted = [f.run.number for f in page if f.series is None]

        def read(tr: ReadTransaction) -> tuple[dict[int, Any], dict[int, list[Series]]]:
            attributes: dict[int, Any] = {}
            series: dict[int, list[Series]] = {}
            if self.with_attributes and bare:
                attributes = read_intact(
                    lambda some: self.store.attributes.get_many(tr, some), bare
                )
            if self.series_kinds and unlisted:
                series = self._list_series(tr, unlisted, self.series_kinds)
            return attributes, series

        attributes, series = self.store.engine.read(read)
        return [
            RunMatch(
                run=one.run,
                experiment=self.tables.experiment_of(one.run),
                tags=self.tables.tags_of(one.run),
                attributes=self._attributes(one, attributes),
                series=series.get(one.run.number, [])
                if one.series is None
                else one.series,
            )
            for one in page
        ]

    def _attributes(
        self, found: _Found, loaded: Mapping[int, Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        if not self.with_attributes:
            return {}
        if found.attributes is not None:
            return found.attributes
        return loaded.get(found.run.number, {})


def _after(order: Order, places: list[Place], offset: Place) -> list[Place]:
    """Return the places behind `offset`, which need not be among them."""
    others = [place for place in places if place.number != offset.number]
    ordered = sort_places(order, [*others, offset])
    return ordered[ordered.index(offset) + 1 :]

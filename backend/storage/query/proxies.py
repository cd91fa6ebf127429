"""What a query sees: the run, its metrics, one sequence, its tags.

Nothing here is reachable except through `read_attribute` and `read_item`, which know
every name a query may use; attribute trees and contexts are plain dicts, whose keys
can also be read as attributes (a missing one is None).

Design note: docs/subsystems/query.md#names
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from typing_extensions import override

from backend.domain.runs import Run
from backend.domain.series import Series
from matyan_wire.batch import METRIC

US_PER_S: Final = 1_000_000

SEQUENCE_NAMES: Final = frozenset(
    ("metric", "images", "texts", "distributions", "audios", "figures")
)
"""Names of a sequence in a query; each is also the kind of series it stands for."""


class TagNames(tuple[str, ...]):
    """A run's tag names, as a query sees them."""

    __slots__ = ()


NO_TAGS: Final = TagNames()


@dataclass(slots=True)
class RunView:
    """One run as a query sees it, with what the query needs of it.

    Attributes:
        run: The run.
        experiment_name: Name of its experiment, None without one.
        tag_names: Names of its tags.
        attributes: Its attribute tree; empty if `Needs.attributes` is False.
        series: Its series of the kinds in `Needs.series_kinds`.
        now_us: The present, for `datetime.now()`.
    """

    run: Run
    experiment_name: str | None = None
    tag_names: TagNames = NO_TAGS
    attributes: Mapping[str, Any] = field(default_factory=dict)
    series: Sequence[Series] = ()
    now_us: int = 0

    @override
    def __repr__(self) -> str:
        return f"Run({self.run.run_id})"


@dataclass(frozen=True, slots=True)
class MetricsView:
    """`run.metrics`: series by name, or by (name, context)."""

    series: Sequence[Series]

    def find(self, key: Any) -> SequenceView | MissingSequence:
        """Return the metric of this name (and context), or what stands for none.

        Without a context the series with an empty one is meant, else the oldest.

        Raises:
            TypeError: If the key is not a name or a name and a context.
        """
        match key:
            case str(name):
                found = [s for s in self.series if s.kind == METRIC and s.name == name]
                found.sort(key=lambda s: bool(s.context))
            case (str(name), dict(context)):
                found = [
                    s
                    for s in self.series
                    if s.kind == METRIC and s.name == name and s.context == context
                ]
            case _:
                msg = "A metric is named by its name, or its name and context"
                raise TypeError(msg)
        return SequenceView(found[0], None) if found else MISSING_SEQUENCE


@dataclass(frozen=True, slots=True)
class SequenceView:
    """One series: `metric` in a metric search, or one of `run.metrics`."""

    series: Series
    run: RunView | None


class MissingSequence:
    """A metric the run does not have: falsy, every field None."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return False


MISSING_SEQUENCE: Final = MissingSequence()


def _seconds(time_us: int | None) -> float | None:
    return None if time_us is None else time_us / US_PER_S


def _duration(view: RunView) -> float:
    run = view.run
    return 0.0 if run.finished_us is None else run.duration_us(now_us=0) / US_PER_S


RUN_FIELDS: Final[Mapping[str, Callable[[RunView], Any]]] = {
    "hash": lambda view: view.run.run_id,
    "name": lambda view: view.run.name,
    "description": lambda view: view.run.description,
    "experiment": lambda view: view.experiment_name,
    "tags": lambda view: view.tag_names,
    "created_at": lambda view: view.run.created_us / US_PER_S,
    "creation_time": lambda view: view.run.created_us / US_PER_S,
    "end_time": lambda view: _seconds(view.run.finished_us),
    "finalized_at": lambda view: _seconds(view.run.finished_us),
    "duration": _duration,
    "active": lambda view: view.run.active,
    "archived": lambda view: view.run.archived,
    "is_archived": lambda view: view.run.archived,
    "metrics": lambda view: MetricsView(view.series),
}
"""Everything `run.x` means apart from attributes."""


def _last(series: Series) -> float | None:
    if series.kind != METRIC:
        return 0.0
    return None if series.summary is None else series.summary.last


def _of_summary(name: str) -> Callable[[SequenceView], Any]:
    def read(view: SequenceView) -> Any:
        summary = view.series.summary
        return None if summary is None else getattr(summary, name)

    return read


SEQUENCE_FIELDS: Final[Mapping[str, Callable[[SequenceView], Any]]] = {
    "name": lambda view: view.series.name,
    "context": lambda view: view.series.context,
    "last": lambda view: _last(view.series),
    "last_step": _of_summary("last_step"),
    "first": _of_summary("first"),
    "first_step": _of_summary("first_step"),
    "min": _of_summary("min"),
    "max": _of_summary("max"),
    "count": _of_summary("count"),
    "run": lambda view: view.run,
}


def read_run_item(view: RunView, key: Any) -> Any:
    """Return `run[key]`: an attribute, or what stands at a path of attributes.

    A missing attribute is None; on a longer path only its last component may miss.

    Raises:
        TypeError: If a component cannot be a key.
        KeyError: If the path leaves the tree before its end.
    """
    if not isinstance(key, tuple):
        return view.attributes.get(key)
    *parents, last = key
    node: Any = view.attributes
    for component in parents:
        node = node[component]
    return node.get(last) if isinstance(node, dict) else node[last]

"""Object searches and batches as frames: images, texts, distributions, audios, figures.

Objects are read, encoded and sent in pieces, so neither a long series nor a large
object is ever in memory whole beside its neighbours. What a slider needs to know (how
long the lists are) is sent last, when it is known.

Design note: docs/subsystems/api.md#objects
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from backend.api.fields import Range
from backend.api.object_trees import (
    LIST_KINDS,
    NO_URI,
    Items,
    UriOf,
    object_tree,
    step_items,
    takes_all,
)
from backend.api.search_frames import match_props, opening_frame
from backend.api.streaming import Progress, join_frames
from backend.api.trees import array_flag, params_tree, seconds, traces_path
from backend.blobs.uris import BlobAddress, BlobUris
from backend.domain.runs import Run
from backend.domain.series import ObjectPoints, Series
from backend.services.search import RunMatch, SearchStep
from backend.storage.factory import Store
from matyan_wire.batch import decode_payload
from matyan_wire.tree_stream import encode_key, encode_tree

LAST_STEP: Final = -1
"""As a step: the last there is."""

MAX_STEPS: Final = 2**63 - 1
"""As `max_points`: all."""

_VALUES: Final = encode_key("values")
_COLUMNS: Final = ("iters", "epochs", "timestamps")


@dataclass(frozen=True, slots=True)
class ObjectRequest:
    """What was asked of object series.

    Attributes:
        store: Where they are.
        uris: Makes the URIs of blobs.
        kind: One of `object_trees.OBJECT_KINDS`.
        steps: Steps, half-open.
        density: Most steps of a series, 0 for all.
        items: Which items of a step's list.
    """

    store: Store
    uris: BlobUris
    kind: str
    steps: Range = (None, None)
    density: int = 0
    items: Items = field(default_factory=Items)

    @property
    def is_list(self) -> bool:
        """Whether steps hold lists."""
        return self.kind in LIST_KINDS

    def pieces(
        self, run: Run, series: Sequence[Series]
    ) -> Iterator[tuple[int, ObjectPoints]]:
        """Yield (series number, points), in the order of `series`, none twice."""
        start, stop = self.steps
        first, last = self.used_steps(series)
        everything = takes_all(self.density, last - first)
        return self.store.series.sample_objects(
            self.store.engine,
            run.number,
            [one.number for one in series],
            max_points=MAX_STEPS if everything else self.density,
            start=start,
            stop=stop,
        )

    def used_steps(self, series: Sequence[Series]) -> tuple[int, int]:
        """Return the steps asked for, or all there are, half-open."""
        first, last = total_steps(series)
        start, stop = self.steps
        return first if start is None else start, last if stop is None else stop

    def item_ranges(self, longest: int) -> dict[str, Any]:
        """Return the lists' indices there are and that were asked for."""
        if not self.is_list:
            return {"index_range_total": None, "index_range_used": None}
        start, stop = self.items.range
        return {
            "index_range_total": [0, longest],
            "index_range_used": [start or 0, longest if stop is None else stop],
        }


def total_steps(series: Sequence[Series]) -> tuple[int, int]:
    """Return the steps of some series together, half-open; (0, 0) without points."""
    known = [one.summary for one in series if one.summary is not None]
    if not known:
        return 0, 0
    return min(one.first_step for one in known), max(one.last_step for one in known) + 1


class TraceWriter:
    """Encodes one trace piece by piece, at the path given.

    Args:
        request: What was asked.
        run: The run.
        series: The series.
        path: Where the trace stands in the stream's tree.
    """

    def __init__(
        self, request: ObjectRequest, run: Run, series: Series, path: bytes = b""
    ) -> None:
        self._request = request
        self._run = run
        self._series = series
        self._path = path
        self._count = 0
        self._columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        self.longest = 0
        """Items of the longest list seen so far."""

    def head(self) -> bytes:
        """Return what comes first."""
        tree = {"name": self._series.name, "context": self._series.context}
        values = array_flag(self._path + _VALUES)
        return encode_tree(tree, prefix=self._path) + values

    def values(self, points: ObjectPoints) -> bytes:
        """Return the values of some steps, the next ones."""
        frames = []
        steps = points.steps.tolist()
        for step, payload in zip(steps, points.payloads, strict=True):
            path = self._path + _VALUES + encode_key(self._count)
            frames.append(encode_tree(self._value(step, payload), prefix=path))
            self._count += 1
        self._columns["iters"] += steps
        self._columns["epochs"] += [
            None if math.isnan(epoch) else epoch for epoch in points.epochs.tolist()
        ]
        offset_us = self._run.clock_offset_us
        self._columns["timestamps"] += [
            seconds(time_us + offset_us) for time_us in points.times_us.tolist()
        ]
        return b"".join(frames)

    def columns(self, *names: str) -> bytes:
        """Return the steps' columns, of all values there have been."""
        tree = {name: self._columns[name] for name in names or _COLUMNS}
        return encode_tree(tree, prefix=self._path)

    def _value(self, step: int, payload: bytes) -> Any:
        items = self.items(step, payload)
        return items if self._request.is_list else items[0]

    def items(self, step: int, payload: bytes) -> list[dict[str, Any]]:
        """Return the wanted objects of one step; of a step that is no list, its one."""
        kind = self._request.kind
        found = step_items(decode_payload(payload))
        uri_of = self._uri_of(step)
        if not self._request.is_list:
            first = found[0] if found else None
            return [object_tree(kind, first, uri_of=uri_of)]
        self.longest = max(self.longest, len(found))
        return [
            {**object_tree(kind, found[index], uri_of=uri_of), "index": index}
            for index in self._request.items.pick(len(found))
        ]

    def _uri_of(self, step: int) -> UriOf:
        def uri_of(payload: Any) -> str:
            key = payload.get("s3_key")
            address = BlobAddress.of_key(
                key if isinstance(key, str) else "",
                run_id=self._run.run_id,
                series_number=self._series.number,
                step=step,
            )
            return NO_URI if address is None else self._request.uris.encode(address)

        return uri_of


# --- searches ------------------------------------------------------------------------


def search_frames(
    request: ObjectRequest,
    steps: Iterator[SearchStep],
    progress: Progress,
    *,
    skip_system: bool,
) -> Iterator[bytes]:
    """Yield an object search: attributes, properties, sampled objects, ranges."""
    for step in steps:
        yield opening_frame(step, progress)
        for match in step.matches:
            yield from join_frames(_run_frames(request, match, skip_system=skip_system))
            yield progress.frame(step.checked, step.total)
    yield progress.frame(0, 0)


def _run_frames(
    request: ObjectRequest, match: RunMatch, *, skip_system: bool
) -> Iterator[bytes]:
    run, series = match.run, match.series
    head = {
        "params": params_tree(match.attributes, skip_system=skip_system),
        "props": match_props(match),
    }
    yield encode_tree({run.run_id: head})
    yield array_flag(traces_path(run))
    writers = [
        TraceWriter(request, run, one, traces_path(run) + encode_key(index))
        for index, one in enumerate(series)
    ]
    yield from _traces(request, run, series, writers)
    first, last = total_steps(series)
    ranges = {
        "record_range_total": [first, last],
        "record_range_used": list(request.used_steps(series)),
    }
    if request.is_list:
        longest = max((writer.longest for writer in writers), default=0)
        ranges |= request.item_ranges(longest)
    yield encode_tree({run.run_id: {"ranges": ranges}})


def _traces(
    request: ObjectRequest,
    run: Run,
    series: Sequence[Series],
    writers: Sequence[TraceWriter],
) -> Iterator[bytes]:
    """Yield every trace; those without points in the range have empty columns."""
    places = {one.number: index for index, one in enumerate(series)}
    at = -1  # the trace begun last
    for number, points in request.pieces(run, series):
        while at < places[number]:
            if at >= 0:
                yield writers[at].columns()
            at += 1
            yield writers[at].head()
        yield writers[at].values(points)
    if at >= 0:
        yield writers[at].columns()
    for writer in writers[at + 1 :]:
        yield writer.head() + writer.columns()


# --- one run -------------------------------------------------------------------------


def batch_frames(
    request: ObjectRequest, run: Run, series: Sequence[Series]
) -> Iterator[bytes]:
    """Yield the objects of each series, one tree without a run's key after another."""
    for one in series:
        yield from join_frames(_batch_trace(request, run, one))


def _batch_trace(request: ObjectRequest, run: Run, one: Series) -> Iterator[bytes]:
    writer = TraceWriter(request, run, one)
    yield writer.head()
    for _, points in request.pieces(run, [one]):
        yield writer.values(points)
    yield writer.columns("iters")
    first, last = total_steps([one])
    ranges = {
        "record_range_used": list(request.used_steps([one])),
        "record_range_total": [first, last],
    }
    yield encode_tree(ranges | request.item_ranges(writer.longest))


def step_frames(
    request: ObjectRequest, run: Run, series: Sequence[Series], *, step: int
) -> Iterator[bytes]:
    """Yield the objects of one step of each series that has it; -1 is its last step.

    Reads the chunk the step is in, never the series.
    """
    for one in series:
        if one.summary is None:
            continue
        wanted = one.summary.last_step if step == LAST_STEP else step
        points = _read_step(request.store, run, one, wanted)
        if len(points):
            yield _step_tree(request, run, one, wanted, points.payloads[0])


def _read_step(store: Store, run: Run, one: Series, step: int) -> ObjectPoints:
    return store.engine.read(
        lambda tr: store.series.read_objects(
            tr, run.number, one.number, start=step, stop=step + 1
        )
    )


def _step_tree(
    request: ObjectRequest, run: Run, one: Series, step: int, payload: bytes
) -> bytes:
    writer = TraceWriter(request, run, one)
    tree = {
        "name": one.name,
        "context": one.context,
        "values": writer.items(step, payload),
        "iters": [step],
        "record_range_used": [step, step],
        "record_range_total": list(total_steps([one])),
    }
    return encode_tree(tree | request.item_ranges(writer.longest))

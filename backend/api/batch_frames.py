"""The points of a run's series as one JSON list, made trace by trace.

What a series' points look like is written once for all that name it in a group, in
pieces: neither the answer nor a series is in memory as Python objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from backend.api.point_groups import Sampling, iter_groups
from backend.api.renderers import encode_json
from backend.api.serializers.runs import TraceRef
from backend.domain.series import Points, Series
from backend.storage.engine.base import ReadTransaction
from backend.storage.factory import Store

PIECE_POINTS: Final = 20_000
"""Points that are Python objects at once."""


def batch_frames(
    store: Store,
    run_number: int,
    wanted: Sequence[tuple[TraceRef, Series]],
    *,
    sampling: Sampling,
) -> Iterator[bytes]:
    """Yield the list of the series' points, in the order of `wanted`."""
    separator = b"["
    for group in iter_groups(wanted, sampling):
        points = _read(store, run_number, {one.number for _, one in group}, sampling)
        written: dict[int, list[bytes]] = {}
        for ref, series in group:
            number = series.number
            if number not in written:
                written[number] = list(_columns(points.pop(number, None)))
            head = {"name": ref.name, "context": ref.context or {}}
            yield separator + encode_json(head)[:-1]
            yield from written[number]
            separator = b","
    yield b"[]" if separator == b"[" else b"]"


def _read(
    store: Store, run_number: int, numbers: set[int], sampling: Sampling
) -> dict[int, Points]:
    def read(tr: ReadTransaction) -> dict[int, Points]:
        return store.series.sample_points(
            tr,
            run_number,
            sorted(numbers),
            max_points=sampling.density,
            start=sampling.start,
            stop=sampling.stop,
        )

    return store.engine.read(read)


def _columns(points: Points | None) -> Iterator[bytes]:
    """Yield the rest of a trace's object; `points` is None if the run has gone."""
    yield b',"iters":['
    if points is not None:
        yield from _numbers(points.steps)
    yield b'],"values":['
    if points is not None:
        yield from _numbers(points.values)
    yield b"]}"


def _numbers(column: npt.NDArray[np.generic]) -> Iterator[bytes]:
    for start in range(0, len(column), PIECE_POINTS):
        piece = encode_json(column[start : start + PIECE_POINTS].tolist())[1:-1]
        yield piece if start == 0 else b"," + piece

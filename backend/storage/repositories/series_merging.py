"""How new points meet the chunks of a series: what is rewritten, and into what.

Pure planning, shared by sealing (which writes the result) and by listing (which only
wants its summary).

Appending creates small chunks and merges them as a log-structured tree does: a trailing
chunk is rewritten only while it holds at most `TIER_RATIO` times the points that come
with it, and is not nearly full. A point is so rewritten a few times, however little
comes at a time. Late and repeated points rewrite the chunk that covers them, and no
other.

Design note: docs/subsystems/storage.md#sealing
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from backend.domain.series import Int64s
from backend.storage.codecs import chunks, objects
from backend.storage.codecs.summaries import Rows
from backend.storage.repositories.series_columns import Columns, sizes_of

TIER_RATIO: Final = 4
TRAILING_ROWS: Final = 16
"""How many of the last chunks an append looks at."""

MAX_MERGE_BYTES: Final = 2 * 1024 * 1024
"""An append absorbs chunks of objects only while old and new together stay below it,
and a transaction of several merges ends there: one alone always goes through. A chunk
of more than `objects.TARGET_BYTES` holds a single point, so it stays below the 7 MiB of
an object and a few small chunks."""

_NEARLY_FULL: Final = 0.75


@dataclass(frozen=True, slots=True)
class Merge:
    """Chunks first..last-1 (may be none) take the new points start..stop-1."""

    first: int
    last: int
    start: int
    stop: int


def plan_merges(
    rows: Rows,
    steps: Int64s,
    *,
    is_object: bool,
    compact: bool = False,
    sizes: Int64s | None = None,
) -> list[Merge]:
    """Return the merges for new, ascending, unique, non-empty `steps`.

    Args:
        rows: Summaries of the series' chunks, ascending: all of them, or the last
            `TRAILING_ROWS` if no step is at or below the last chunk's last step.
        steps: The new points' steps.
        is_object: Which limits count.
        compact: Whether to merge all that is small at the end, as when a run finishes.
        sizes: Bytes of each new object, where the merges are to be made.

    Returns:
        Merges that partition both the chunks they name and the points, ascending.
    """
    count = len(steps)
    if not len(rows):
        return [Merge(0, 0, 0, count)]
    firsts = rows["first_step"]
    late = int(np.searchsorted(steps, rows["last_step"][-1], side="right"))
    cover = np.maximum(np.searchsorted(firsts, steps[:late], side="right") - 1, 0)
    suffix = len(rows)
    if late < count:
        new_bytes = 0 if sizes is None else int(sizes[late:].sum())
        suffix = _absorb(
            rows,
            count - late,
            is_object=is_object,
            compact=compact,
            new_bytes=new_bytes,
        )
        if late and int(cover[-1]) == len(rows) - 1:
            suffix = min(suffix, len(rows) - 1)
    merges = []
    stop = 0
    for chunk in np.unique(cover[cover < suffix]).tolist():
        start, stop = stop, int(np.searchsorted(cover, chunk, side="right"))
        merges.append(Merge(chunk, chunk + 1, start, stop))
    if late < count:
        merges.append(Merge(suffix, len(rows), stop, count))
    return merges


def _absorb(
    rows: Rows, total: int, *, is_object: bool, compact: bool, new_bytes: int
) -> int:
    first, size = len(rows), new_bytes
    counts, sums = rows["count"].tolist(), rows["sum"].tolist()
    while first > 0:
        count = counts[first - 1]
        if not compact and count > TIER_RATIO * total:
            break
        if is_object:
            full = (
                count > _NEARLY_FULL * objects.TARGET_POINTS
                or sums[first - 1] > _NEARLY_FULL * objects.TARGET_BYTES
                or size + sums[first - 1] > MAX_MERGE_BYTES
            )
            size += sums[first - 1]
        else:
            full = count > _NEARLY_FULL * chunks.TARGET_POINTS
        if full:
            break
        total += count
        first -= 1
    return first


def cut(points: Columns, *, is_append: bool) -> Iterator[Columns]:
    """Yield `points` in chunks.

    At the end of a series they are cut at the full size, and the rest waits for more;
    in its middle a chunk may grow a little and is then halved.
    """
    if points.values.dtype != np.float64:
        yield from _cut_objects(points)
        return
    count = len(points)
    if is_append:
        size = chunks.TARGET_POINTS
    elif count <= chunks.MAX_POINTS:
        size = count
    else:
        size = -(-count // -(-count // chunks.TARGET_POINTS))
    for start in range(0, count, size):
        yield points.take(slice(start, start + size))


def _cut_objects(points: Columns) -> Iterator[Columns]:
    start, size = 0, 0
    for index, length in enumerate(sizes_of(points.values).tolist()):
        full = index - start >= objects.TARGET_POINTS or (
            index > start and size + length > objects.TARGET_BYTES
        )
        if full:
            yield points.take(slice(start, index))
            start, size = index, 0
        size += length
    yield points.take(slice(start, len(points)))


def untouched(rows: Rows, merges: list[Merge]) -> Rows:
    """Return the rows that no merge rewrites."""
    keep: Any = np.ones(len(rows), bool)
    for merge in merges:
        keep[merge.first : merge.last] = False
    kept: Rows = rows[keep]
    return kept

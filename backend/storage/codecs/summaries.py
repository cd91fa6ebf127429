"""Summaries: fixed-width bytes <-> numpy rows <-> `domain.series.Summary`.

One summary is 104 bytes (`SUMMARY`, little-endian), so that the summaries of a series
are one numpy array: join the values and view them. Making and merging them is
vectorised; merging is exact and associative for everything but `sum`, which rounds.

A row whose `nan_count + inf_count` is 0 has no first non-finite step. Of an object
chunk the values are NaN and `sum` holds the payload bytes: it is for the sealer alone.

Design note: docs/subsystems/storage.md#summaries
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from backend.domain.series import Float64s, Int64s, Summary
from backend.storage.codecs.frames import corrupt

SUMMARY: Final = np.dtype(
    [
        ("count", "<i8"),
        ("first_step", "<i8"),
        ("last_step", "<i8"),
        ("first", "<f8"),
        ("last", "<f8"),
        ("min", "<f8"),
        ("min_step", "<i8"),
        ("max", "<f8"),
        ("max_step", "<i8"),
        ("sum", "<f8"),
        ("nan_count", "<i8"),
        ("inf_count", "<i8"),
        ("first_non_finite_step", "<i8"),
    ]
)
SUMMARY_BYTES: Final = SUMMARY.itemsize

Rows = npt.NDArray[np.void]

_STRUCT: Final = struct.Struct("<qqqdddqdqdqqq")
_LAST: Final = np.iinfo(np.int64).max


def decode_summaries(values: Sequence[bytes], *, key: bytes = b"") -> Rows:
    """Return the rows in `values`, in order.

    Raises:
        FormatError: If a value is not a whole number of summaries.
    """
    joined = b"".join(values)
    if len(joined) != len(values) * SUMMARY_BYTES:
        raise corrupt(key, "summary of another size")
    return np.frombuffer(joined, SUMMARY)


def encode_summaries(rows: Rows) -> list[bytes]:
    """Return the bytes of each row."""
    joined = rows.tobytes()
    return [
        joined[start : start + SUMMARY_BYTES]
        for start in range(0, len(joined), SUMMARY_BYTES)
    ]


def unpack_summary(value: bytes, offset: int = 0, *, is_object: bool) -> Summary | None:
    """Return the summary in 104 bytes at `offset`, None if it has no points."""
    fields = _STRUCT.unpack_from(value, offset)
    return _to_summary(fields, is_object=is_object)


def row_to_summary(row: Any, *, is_object: bool) -> Summary | None:
    """Return one row as a `Summary`, None if it has no points."""
    return _to_summary(row.item(), is_object=is_object)


def empty_rows(count: int) -> Rows:
    """Return rows of no points, ready to be merged into."""
    rows = np.zeros(count, SUMMARY)
    for name in ("first", "last", "min", "max", "sum"):
        rows[name] = np.nan
    return rows


def _to_summary(fields: tuple[Any, ...], *, is_object: bool) -> Summary | None:
    if not fields[0]:
        return None
    if is_object:
        fields = (*fields[:9], np.nan, *fields[10:])
    # The last field has a value only where something is not finite.
    step = fields[12] if fields[10] or fields[11] else None
    values: Any = (*fields[:12], step)
    return Summary(*values)


def summarise(steps: Int64s, values: Float64s, starts: Int64s) -> Rows:
    """Return a summary of each group of points.

    Args:
        steps: Steps, ascending within a group.
        values: As many values.
        starts: Where each group begins, ascending from 0; no group is empty.
    """
    n = len(steps)
    ends = np.append(starts[1:], n)
    rows = np.zeros(len(starts), SUMMARY)
    counts = ends - starts
    rows["count"] = counts
    rows["first_step"] = steps[starts]
    rows["last_step"] = steps[ends - 1]
    rows["first"] = values[starts]
    rows["last"] = values[ends - 1]
    groups = np.repeat(np.arange(len(starts)), counts)
    is_nan = np.isnan(values)
    rows["nan_count"] = np.add.reduceat(is_nan.astype(np.int64), starts)
    non_finite = ~np.isfinite(values)
    rows["inf_count"] = (
        np.add.reduceat(non_finite.astype(np.int64), starts) - rows["nan_count"]
    )
    _first_where(rows, "first_non_finite_step", non_finite, groups, steps)
    # Not fmin and fmax: they give NaN when they meet a signalling one.
    least = np.minimum.reduceat(np.where(is_nan, np.inf, values), starts)
    most = np.maximum.reduceat(np.where(is_nan, -np.inf, values), starts)
    _put_extreme(rows, "min", least, groups, steps, values)
    _put_extreme(rows, "max", most, groups, steps, values)
    with np.errstate(invalid="ignore", over="ignore"):
        rows["sum"] = np.add.reduceat(np.where(is_nan, 0.0, values), starts)
    rows["sum"][rows["nan_count"] == counts] = np.nan
    return rows


def summarise_objects(steps: Int64s, sizes: Int64s, starts: Int64s) -> Rows:
    """Return a summary of each group of object points; `sum` holds their bytes."""
    ends = np.append(starts[1:], len(steps))
    rows = empty_rows(len(starts))
    rows["count"] = ends - starts
    rows["first_step"] = rows["min_step"] = rows["max_step"] = steps[starts]
    rows["last_step"] = steps[ends - 1]
    rows["sum"] = np.add.reduceat(sizes, starts)
    return rows


def _put_extreme(  # noqa: PLR0913, PLR0917 - columns of one table
    rows: Rows,
    name: str,
    extremes: Float64s,
    groups: Int64s,
    steps: Int64s,
    values: Float64s,
) -> None:
    # The value stored is the one at the step stored: -0.0 and 0.0 are equal extremes.
    found = np.flatnonzero(values == extremes[groups])[::-1]
    at = np.full(len(rows), -1)
    at[groups[found]] = found
    present = at >= 0
    rows[name] = np.nan
    rows[f"{name}_step"] = rows["first_step"]
    rows[name][present] = values[at[present]]
    rows[f"{name}_step"][present] = steps[at[present]]


def _first_where(
    rows: Rows,
    name: str,
    mask: npt.NDArray[np.bool_],
    groups: Int64s,
    steps: Int64s,
) -> None:
    found = np.flatnonzero(mask)[::-1]
    rows[name][groups[found]] = steps[found]


def fold(rows: Rows) -> Rows:
    """Return one row: the summary of the union of disjoint, non-empty `rows`."""
    order = np.argsort(rows["first_step"], kind="stable")
    rows = rows[order]
    while len(rows) > 1:
        half = len(rows) // 2
        merged = merge_pairs(rows[0 : 2 * half : 2], rows[1 : 2 * half : 2])
        rows = np.concatenate([merged, rows[2 * half :]])
    return rows


def merge_pairs(left: Rows, right: Rows) -> Rows:
    """Return, row by row, the summary of the union of two disjoint sets of points.

    A row without points (count 0) is neutral.
    """
    rows = np.empty(len(left), SUMMARY)
    for name in ("count", "nan_count", "inf_count"):
        rows[name] = left[name] + right[name]
    has_left, has_right = left["count"] > 0, right["count"] > 0
    _pick(
        rows,
        ("first_step", "first"),
        left,
        right,
        ~has_right | (has_left & (left["first_step"] <= right["first_step"])),
    )
    _pick(
        rows,
        ("last_step", "last"),
        left,
        right,
        ~has_right | (has_left & (left["last_step"] >= right["last_step"])),
    )
    _pick(rows, ("min", "min_step"), left, right, _wins(left, right, "min", 1.0))
    _pick(rows, ("max", "max_step"), left, right, _wins(left, right, "max", -1.0))
    _settle_absent(rows)
    _add_sums(rows, left, right)
    bad_left = left["nan_count"] + left["inf_count"] > 0
    bad_right = right["nan_count"] + right["inf_count"] > 0
    first = np.minimum(
        np.where(bad_left, left["first_non_finite_step"], _LAST),
        np.where(bad_right, right["first_non_finite_step"], _LAST),
    )
    rows["first_non_finite_step"] = np.where(bad_left | bad_right, first, 0)
    return rows


def _pick(
    rows: Rows,
    names: tuple[str, str],
    left: Rows,
    right: Rows,
    take_left: npt.NDArray[np.bool_],
) -> None:
    for name in names:
        rows[name] = np.where(take_left, left[name], right[name])


def _wins(left: Rows, right: Rows, name: str, sign: float) -> npt.NDArray[np.bool_]:
    a, b = left[name] * sign, right[name] * sign
    earlier = left[f"{name}_step"] <= right[f"{name}_step"]
    wins: npt.NDArray[np.bool_] = np.isnan(b) | (a < b) | ((a == b) & earlier)
    return wins


def _settle_absent(rows: Rows) -> None:
    for name in ("min", "max"):
        absent = np.isnan(rows[name])
        rows[f"{name}_step"][absent] = rows["first_step"][absent]


def _add_sums(rows: Rows, left: Rows, right: Rows) -> None:
    # Of objects nothing is NaN-counted, so their byte counts add up here as well.
    in_left = left["count"] > left["nan_count"]
    in_right = right["count"] > right["nan_count"]
    with np.errstate(invalid="ignore", over="ignore"):
        total = np.where(in_left, left["sum"], 0.0) + np.where(
            in_right, right["sum"], 0.0
        )
    rows["sum"] = np.where(in_left | in_right, total, np.nan)

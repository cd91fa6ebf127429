"""Summaries: right for any points, and the same however they are merged."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import FormatError
from backend.storage.codecs import summaries
from matyan_wire.batch import SeriesRef
from tests.backend.storage.series_model import (
    Point,
    assert_same_summary,
    expected_summary,
)

LOSS = SeriesRef("metric", "loss")
values = st.one_of(
    st.floats(-100, 100),
    st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0]),
)
series = st.lists(values, min_size=1, max_size=30)


def rows_of(found: list[float], starts: list[int]) -> summaries.Rows:
    return summaries.summarise(
        np.arange(len(found)) - 5, np.array(found), np.array(starts)
    )


def model_of(found: list[float]) -> list[Point]:
    return [Point(LOSS, step - 5, value) for step, value in enumerate(found)]


@given(series)
def test_a_summary_is_that_of_its_points(found: list[float]) -> None:
    row = rows_of(found, [0])[0]
    summary = summaries.row_to_summary(row, is_object=False)
    assert_same_summary(summary, expected_summary(model_of(found)))
    unpacked = summaries.unpack_summary(row.tobytes(), is_object=False)
    assert_same_summary(unpacked, summary)


@given(series, st.data())
def test_merging_parts_gives_the_summary_of_the_whole(
    found: list[float], data: st.DataObject
) -> None:
    cuts = data.draw(st.sets(st.integers(1, max(1, len(found) - 1)), max_size=6))
    starts = [0, *sorted(cut for cut in cuts if cut < len(found))]
    parts = rows_of(found, starts)
    shuffled = parts[data.draw(st.permutations(range(len(parts))))]
    merged = summaries.row_to_summary(summaries.fold(shuffled)[0], is_object=False)
    assert_same_summary(merged, expected_summary(model_of(found)))


@given(series)
def test_a_row_without_points_is_neutral(found: list[float]) -> None:
    row = rows_of(found, [0])
    nothing = summaries.empty_rows(1)
    expected = expected_summary(model_of(found))
    for merged in (
        summaries.merge_pairs(row, nothing),
        summaries.merge_pairs(nothing, row),
    ):
        assert_same_summary(
            summaries.row_to_summary(merged[0], is_object=False), expected
        )
    assert summaries.row_to_summary(nothing[0], is_object=False) is None


def test_objects_have_steps_and_no_values() -> None:
    rows = summaries.summarise_objects(
        np.array([3, 8, 1]), np.array([10, 20, 5]), np.array([0, 2])
    )
    summary = summaries.row_to_summary(rows[0], is_object=True)
    assert summary is not None
    assert (summary.count, summary.first_step, summary.last_step) == (2, 3, 8)
    assert all(
        math.isnan(value)
        for value in (summary.first, summary.last, summary.min, summary.sum)
    )
    assert rows["sum"].tolist() == [30, 5]


def test_rows_of_another_size_are_refused() -> None:
    with pytest.raises(FormatError, match="another size"):
        summaries.decode_summaries([b"\x00" * 103], key=b"k")


def test_rows_are_cut_as_they_were_joined() -> None:
    rows = rows_of([1.0, 2.0, 3.0], [0, 1])
    values_of = summaries.encode_summaries(rows)
    assert [len(value) for value in values_of] == [104, 104]
    assert summaries.decode_summaries(values_of).tobytes() == rows.tobytes()

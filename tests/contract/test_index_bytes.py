"""Index rows: their numbers and bytes are on disk and never change."""

from __future__ import annotations

import pytest

from backend.storage import indexes
from backend.storage.indexes import Index, Term
from backend.storage.keyspace import pack_index


def test_index_numbers_are_permanent() -> None:
    assert {index.name: int(index) for index in Index} == {
        "EXPERIMENT": 1,
        "TAG": 2,
        "ACTIVE": 3,
        "ARCHIVED": 4,
        "SERIES_NAME": 5,
        "RUN_SERIES": 6,
        "PURGE": 7,
        "ANTEDATED": 8,
    }


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        (indexes.experiment_term("e"), "14151315010265001507"),
        (indexes.tag_term("t"), "14151315020274001507"),
        (indexes.active_term(active=True), "1415131503" + "1501" + "1507"),
        (indexes.archived_term(archived=False), "1415131504" + "14" + "1507"),
        (indexes.antedated_term(), "1415131508" + "1507"),
        (
            indexes.series_name_term("metric", "loss"),
            "141513150501" + "bc0756eef9d0a8af7bb30d94efad5e66" + "001507",
        ),
    ],
)
def test_rows_are_stable(term: Term, expected: str) -> None:
    index, values = term
    assert pack_index(index, values, 7).hex() == expected

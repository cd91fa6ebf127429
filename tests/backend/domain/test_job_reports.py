"""Reports of jobs in words."""

from __future__ import annotations

from backend.domain.job_reports import describe_report, format_bytes


def test_values_have_units_and_known_names() -> None:
    told = describe_report(
        {
            "blobs": 12_345,
            "orphan_bytes": 1_500_000,
            "estimated": False,
            "own_name": "as it is",
        }
    )
    assert told == [
        ("files looked at", "12,345"),
        ("size of these", "1.5 MB"),
        ("the rest estimated", "no"),
        ("own name", "as it is"),
    ]


def test_names_within_a_value_have_a_line_each() -> None:
    assert describe_report({"kinds": {"points": 2_000, "series": 0}}) == [
        ("of runs: points", "2.0 kB"),
        ("of runs: series", "0 B"),
    ]


def test_long_lists_are_cut_and_empty_ones_said() -> None:
    assert describe_report({"run_ids": []}) == [("which", "none")]
    ((_, text),) = describe_report({"run_ids": [f"r{n}" for n in range(12)]})
    assert text.endswith("r9 and 2 more")
    largest = [{"run_id": "r", "bytes": 999}]
    assert describe_report({"largest": largest}) == [("largest runs", "r (999 B)")]


def test_bytes_are_told_in_the_largest_unit() -> None:
    assert [format_bytes(n) for n in (0, 999, 1_000, 5e12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "5.0 TB",
    ]

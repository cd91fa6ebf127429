"""Query text: what is dropped, what is refused and where, what is added."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.runs import Run
from backend.errors import QuerySyntaxError
from backend.storage.query.parser import compile_query, strip_select
from backend.storage.query.proxies import RunView

UTC_2024_01_01 = 1_704_067_200.0


def view(*, archived: bool = False, created_us: int = 0) -> RunView:
    return RunView(Run(1, "h", "n", "", created_us, archived=archived))


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("  run.active ", "run.active"),
        ("SELECT run IF run.active == True", "run.active == True"),
        ("select * from runs if a if b", "a if b"),
        ("SELECTED == 1", ""),
        ("select nothing", ""),
    ],
)
def test_select_is_dropped(text: str, rest: str) -> None:
    assert strip_select(text) == rest


@pytest.mark.parametrize(
    ("text", "statement", "offset"),
    [
        ("run.hash ==", "(run.hash ==)", 13),
        ("a b", "(a b)", 2),
        ("run.x = 1", "(run.x = 1)", 2),
        ("import os", "(import os)", 2),
        ("run._private", "(run._private)", 2),
        ("exec('1')", "(exec('1'))", 2),
        ("__import__('os')", "(__import__('os'))", 2),
        ("run.x == await y", "(run.x == await y)", 11),
        ("(yield)", "((yield))", 3),
        ("run.é.__class__", "(run.é.__class__)", 2),
        ("'é' == run._x", "('é' == run._x)", 9),
        ("f(**run)", "(f(**run))", 4),
        ("{**run}", "({**run})", 2),
        ("lambda *a: a", "(lambda *a: a)", 2),
        ("[1 for run.x in [1]]", "([1 for run.x in [1]])", 9),
        ("run @ run", "(run @ run)", 2),
        ("run.x__roles__", "(run.x__roles__)", 2),
    ],
)
def test_syntax_error_names_the_place(text: str, statement: str, offset: int) -> None:
    with pytest.raises(QuerySyntaxError) as caught:
        compile_query(text)
    assert caught.value.fields["statement"] == statement
    assert (caught.value.fields["line"], caught.value.fields["offset"]) == (1, offset)


def test_syntax_error_in_a_later_line() -> None:
    with pytest.raises(QuerySyntaxError) as caught:
        compile_query("run.active and\n  run._x")
    fields = caught.value.fields
    assert (fields["statement"], fields["line"], fields["offset"]) == (
        "  run._x)",
        2,
        3,
    )


def test_lines_are_joined_and_a_trailing_comment_is_refused() -> None:
    assert compile_query("True\n and\n True").matches(view())
    with pytest.raises(QuerySyntaxError):
        compile_query("True # all of them")


@pytest.mark.parametrize(
    "text",
    ["(" * 500, "-" * 9_000 + "1", "not " * 100 + "1", "1\0", "9" * 5_000, "'\ud800'"],
)
def test_what_python_cannot_parse_is_a_syntax_error(text: str) -> None:
    with pytest.raises(QuerySyntaxError):
        compile_query(text)


@pytest.mark.parametrize(
    "text",
    [
        " or ".join(["run.x"] * 1_300),
        "a" * 10_001,
        "run" + ".a" * 70,
        "[" * 65 + "]" * 65,
    ],
)
def test_size_limits(text: str) -> None:
    with pytest.raises(QuerySyntaxError):
        compile_query(text)


def test_limits_leave_room_for_large_selections() -> None:
    parts = [
        f'(metric.name == "m{i}" and metric.context.subset == "t")' for i in range(150)
    ]
    compile_query(" or ".join(parts), names=frozenset({"run", "metric"}))


@given(st.text(max_size=60))
def test_any_text_compiles_or_is_a_syntax_error(text: str) -> None:
    place = [1, 1]
    with contextlib.suppress(QuerySyntaxError):
        try:
            assert compile_query(text).matches(view()) in {True, False}
        except QuerySyntaxError as error:
            place = [error.fields["line"], error.fields["offset"]]
            raise
    assert min(place) >= 1


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", False),
        ("run.hash == 'h'", False),
        ("run.archived", True),
        ("run.is_archived == True", True),
        ("not run.archived", False),
        ("run.hash == 'h' or run.archived == None", True),
        ("run['archived'] == None", False),
    ],
)
def test_archived_runs_are_hidden_unless_mentioned(text: str, *, matches: bool) -> None:
    assert compile_query(text).matches(view(archived=True)) is matches


@pytest.mark.parametrize(
    ("tz_offset_min", "midnight"),
    [(0, UTC_2024_01_01), (-180, UTC_2024_01_01 - 10_800), (60, UTC_2024_01_01 + 3600)],
)
def test_datetime_is_in_the_users_zone(tz_offset_min: int, midnight: float) -> None:
    # B2: the original added the offset with the opposite sign.
    query = compile_query(
        "run.created_at == datetime(2024, 1, 1)", tz_offset_min=tz_offset_min
    )
    assert query.matches(view(created_us=int(midnight * 1e6)))


def test_heat_map_query() -> None:
    query = compile_query(
        "datetime(2026, 11, 23) <= run.created_at < datetime(2026, 11, 24) "
    )
    day_us = 86_400_000_000
    start_us = 1_795_392_000_000_000
    inside = [query.matches(view(created_us=start_us + at)) for at in (0, day_us - 1)]
    outside = [query.matches(view(created_us=start_us + at)) for at in (-1, day_us)]
    assert inside == [True, True]
    assert outside == [False, False]


@pytest.mark.parametrize(
    "text", ["datetime(2024, 13, 1) < 1", "datetime('x') < 1", "datetime() < 1"]
)
def test_impossible_datetime_matches_nothing(text: str) -> None:
    assert not compile_query(text).matches(view())


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("run.name == 'x'", {"run"}, (False, set(), False, False)),
        ("run.hparams.lr < 1", {"run"}, (True, set(), False, False)),
        ("run['a'] and run.experiment", {"run"}, (True, set(), True, False)),
        ("any([t in ['a'] for t in run.tags])", {"run"}, (False, set(), False, True)),
        ("run.metrics['loss'].last < 1", {"run"}, (False, {"metric"}, False, False)),
        ("images.name == 'x'", {"run"}, (False, {"images"}, False, False)),
        ("metric.name == 'x'", {"run", "metric"}, (False, {"metric"}, False, False)),
        ("metric.run.x", {"run", "metric"}, (True, {"metric"}, False, False)),
        ("(lambda r: r.x)(run)", {"run"}, (True, {"metric"}, True, True)),
        ("", {"run"}, (False, set(), False, False)),
    ],
)
def test_needs_name_what_must_be_loaded(
    text: str, names: set[str], expected: tuple[bool, set[str], bool, bool]
) -> None:
    needs = compile_query(text, names=frozenset(names)).needs
    found = (needs.attributes, set(needs.series_kinds), needs.experiment, needs.tags)
    assert found == expected

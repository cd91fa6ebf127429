"""Searches: plans against full scans, order, paging, what a match carries."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import BadRequestError
from backend.services import search as search_module
from backend.services.run_order import SortKey, parse_order
from backend.services.runs import archive_runs, delete_run, finish_runs
from backend.services.search import RunMatch, search_runs, search_series
from backend.services.tags import list_tags, update_tag
from backend.storage.factory import Store, open_store
from backend.storage.query.parser import compile_query
from backend.storage.query.planner import EVERYTHING, Created, plan_query
from matyan_wire.batch import SeriesRef
from tests.backend.writing import START_US, make_run

NOW = START_US + 1_000_000_000
STEP_US = 1_000_000
TRAIN = SeriesRef("metric", "loss", '{"subset":"train"}')
LOSS = SeriesRef("metric", "loss")
ACC = SeriesRef("metric", "acc")


def found(store: Store, text: str, **options: Any) -> list[str]:
    steps = search_runs(store, compile_query(text), now_us=NOW, **options)
    return [match.run.run_id for step in steps for match in step.matches]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Thirty runs with experiments, tags, parameters, metrics; not to be changed."""
    with contextlib.closing(
        open_store(
            engine="backend.storage.engine.embedded.EmbeddedEngine",
            options={
                "path": str(tmp_path_factory.mktemp("search") / "store"),
                "durable": False,
            },
        )
    ) as store:
        for i in range(30):
            make_run(
                store,
                f"r{i:02}",
                at_us=START_US + (i // 2) * STEP_US,
                name=f"name {i * 7 % 5}",
                experiment=[None, "e", "f"][i % 3],
                tags=[["a"], ["a", "b"], [], ["c"]][i % 4],
                params={"hparams": {"lr": [0.1, 1, "x", None, 5][i % 5], "i": i}},
                metrics=[{}, {LOSS: [1.0, i]}, {TRAIN: [2.0], ACC: [i / 30]}][i % 3],
            )
        finish_runs(store, run_ids=[f"r{i:02}" for i in range(0, 30, 3)], now_us=NOW)
        archive_runs(
            store,
            run_ids=[f"r{i:02}" for i in range(0, 30, 5)],
            archived=True,
            now_us=NOW,
        )
        yield store


def scanned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every search a full scan."""

    def plan_nothing(query: Any) -> Any:
        return replace(plan_query(query), source=EVERYTHING, created=Created())

    monkeypatch.setattr(search_module, "plan_query", plan_nothing)


def seconds(index: int) -> float:
    return (START_US + index * STEP_US) / 1e6


atoms = st.sampled_from(
    [
        "run.hash == 'r07'",
        "run.hash in ['r01', 'r08', 'nope']",
        "run.experiment == 'e'",
        "run.experiment in ['f', 'nope']",
        "run.experiment == None",
        "'a' in run.tags",
        "run.tags.contains('b')",
        "any([t in ['b', 'c'] for t in run.tags])",
        "len(run.tags) == 0",
        "run.active == True",
        "run.active",
        "not run.active",
        "run.archived == True",
        "run.is_archived == False",
        "run.hparams.lr < 1",
        "run.hparams.lr == None",
        "run.hparams.i % 2 == 0",
        f"run.created_at > {seconds(4)}",
        f"run.created_at <= {seconds(9)}",
        f"{seconds(2)} <= run.creation_time < {seconds(11)}",
        f"run.created_at == {seconds(6)}",
        "run.metrics['loss'].last < 12",
        "run.metrics['acc'].last > 0.5",
        "run.metrics['loss', {'subset': 'train'}]",
        "metric.name == 'loss'",
        "metric.name == 'loss' and metric.context.subset == 'train'",
        "()",
        "True",
        "run.nope.deeper",
    ]
)
queries = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda p: f"({p[0]}) and ({p[1]})"),
        st.tuples(inner, inner).map(lambda p: f"({p[0]}) or ({p[1]})"),
        inner.map(lambda text: f"not ({text})"),
        st.tuples(inner, inner).map(lambda p: f"({p[0]}) if run.active else ({p[1]})"),
    ),
    max_leaves=5,
)


@given(queries)
def test_planned_search_finds_what_a_full_scan_finds(filled: Store, text: str) -> None:
    planned = found(filled, text)
    with pytest.MonkeyPatch.context() as monkeypatch:
        scanned(monkeypatch)
        assert planned == found(filled, text)


@given(queries)
def test_planned_series_search_finds_what_a_full_scan_finds(
    filled: Store, text: str
) -> None:
    def pairs() -> list[tuple[str, str, str]]:
        query = compile_query(text, names=frozenset({"run", "metric"}))
        return [
            (match.run.run_id, series.name, series.context_text)
            for step in search_series(filled, query, now_us=NOW)
            for match in step.matches
            for series in match.series
        ]

    planned = pairs()
    with pytest.MonkeyPatch.context() as monkeypatch:
        scanned(monkeypatch)
        assert planned == pairs()


orders = st.lists(
    st.builds(
        SortKey,
        st.sampled_from(
            ["run", "experiment", "hash", "date", "duration", "description", "creator"]
        ),
        descending=st.booleans(),
    ),
    max_size=3,
).map(tuple)


@given(
    orders, st.integers(1, 7), st.sampled_from(["", "'a' in run.tags", "run.active"])
)
def test_pages_put_together_are_the_whole_list(
    filled: Store, order: tuple[SortKey, ...], size: int, text: str
) -> None:
    whole = found(filled, text, order=order)
    pages: list[str] = []
    for _ in range(40):
        offset = pages[-1] if pages else ""
        page = found(filled, text, order=order, limit=size, offset_run_id=offset)
        pages += page
        if len(page) < size:
            break
    assert pages == whole
    assert len(set(whole)) == len(whole)


def test_default_order_is_newest_first(filled: Store) -> None:
    everything = found(filled, "run.archived == True or run.archived == False")
    assert everything == [f"r{i:02}" for i in reversed(range(30))]


def test_equal_keys_are_ordered_by_hash(filled: Store) -> None:
    # B30: the original had no tie-breaker, and pages repeated and skipped runs.
    listed = found(filled, "'a' in run.tags", order=(SortKey("creator"),))
    assert listed == sorted(listed)


def test_order_by_name_descending_then_date(filled: Store) -> None:
    order = parse_order('[{"field":"run","order":"desc"},{"field":"date"}]')
    listed = found(filled, "'a' in run.tags", order=order)
    names = [f"name {int(run_id[1:]) * 7 % 5}" for run_id in listed]
    assert names == sorted(names, reverse=True)
    first = [
        run_id for run_id, name in zip(listed, names, strict=True) if name == names[0]
    ]
    assert first == sorted(first)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[", "Invalid sort JSON"),
        ('[{"field":"x"}]', "Unknown sort field: 'x'"),
        ('["x"]', "Unknown sort field"),
        ('[{"field":"run","order":"up"}]', "Invalid sort order: 'up'"),
        ('[{"field":["run"]}]', "Unknown sort field"),
    ],
)
def test_bad_sort_is_refused(text: str, reason: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        parse_order(text)
    assert caught.value.fields["reason"].startswith(reason)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", " "])
def test_no_sort_is_newest_first(text: str) -> None:
    assert parse_order(text) == (SortKey("date", descending=True),)


def test_offset_may_be_a_run_that_does_not_match(filled: Store) -> None:
    after = found(filled, "'a' in run.tags", offset_run_id="r02")
    assert after == ["r01"]


@pytest.mark.parametrize("offset", ["nope", "x" * 300, "\ud800"])
def test_unknown_offset_gives_nothing(filled: Store, offset: str) -> None:
    assert found(filled, "", offset_run_id=offset) == []


@pytest.mark.parametrize("order", [(), (SortKey("run"),)])
def test_offset_may_have_been_deleted_meanwhile(
    store: Store, order: tuple[SortKey, ...]
) -> None:
    # B30: in the original the rest of the list vanished with the run.
    for i in range(5):
        make_run(store, f"r{i}", at_us=START_US + i, name=f"n{9 - i}")
    delete_run(store, run_id="r3", now_us=NOW)
    assert found(store, "", order=order, offset_run_id="r3") == ["r2", "r1", "r0"]


def matches_of(steps: Iterator[Any]) -> list[RunMatch]:
    return [match for step in steps for match in step.matches]


def test_match_carries_what_was_asked_for(filled: Store) -> None:
    query = compile_query("run.hash == 'r17'")
    (match,) = matches_of(search_runs(filled, query, now_us=NOW))
    assert match.run.run_id == "r17"
    assert match.experiment is not None
    assert match.experiment.name == "f"
    assert [tag.name for tag in match.tags] == ["a", "b"]
    assert match.attributes == {"hparams": {"lr": "x", "i": 17}}
    assert sorted(series.name for series in match.series) == ["acc", "loss"]
    bare = matches_of(
        search_runs(
            filled,
            compile_query("run.hash == 'r17'"),
            with_attributes=False,
            series_kinds=(),
            now_us=NOW,
        )
    )
    assert (bare[0].attributes, bare[0].series) == ({}, [])


def test_what_evaluating_read_is_not_shown_unasked(filled: Store) -> None:
    query = compile_query("run.hparams.i == 17 and run.metrics['acc'].last > 0")
    (match,) = matches_of(
        search_runs(filled, query, with_attributes=False, series_kinds=(), now_us=NOW)
    )
    assert (match.attributes, list(match.series)) == ({}, [])


def test_series_search_carries_only_matching_series(filled: Store) -> None:
    query = compile_query("metric.name == 'acc'", names=frozenset({"run", "metric"}))
    matches = matches_of(search_series(filled, query, now_us=NOW))
    assert [[series.name for series in match.series] for match in matches] == [
        ["acc"]
    ] * len(matches)
    assert matches[0].attributes["hparams"]["i"] == int(matches[0].run.run_id[1:])
    assert matches[0].series[0].summary is not None


def test_renamed_tag_matches_by_its_new_name_only(store: Store) -> None:
    # B11
    make_run(store, "a", tags=["old"])
    ((tag, _),) = list_tags(store)
    update_tag(store, tag_id=tag.tag_id, name="new")
    assert found(store, "'new' in run.tags") == ["a"]
    assert found(store, "'old' in run.tags") == []


def test_values_compare_as_in_python(filled: Store) -> None:
    # B1: the original returned integers and texts for `lr < 0.5`.
    assert {int(r[1:]) % 5 for r in found(filled, "run.hparams.lr < 0.5")} <= {0}
    shown = "run.archived != None and "
    assert {int(r[1:]) % 5 for r in found(filled, shown + "run.hparams.lr < 0.5")} == {
        0
    }
    assert {int(r[1:]) % 5 for r in found(filled, shown + "run.hparams.lr == 5.0")} == {
        4
    }
    assert {int(r[1:]) % 5 for r in found(filled, shown + "run.hparams.lr > 0.5")} == {
        1,
        4,
    }
    assert {int(r[1:]) % 5 for r in found(filled, "run.hparams.lr == None")} == {3}


def test_progress_comes_first_and_when_nothing_matches(filled: Store) -> None:
    # B6: the original sent no progress at all when nothing matched.
    steps = list(search_runs(filled, compile_query("run.nope"), now_us=NOW))
    assert (steps[0].checked, steps[0].total, steps[0].matches) == (0, 24, [])
    assert (steps[-1].checked, steps[-1].total) == (24, 24)


def test_limit_ends_the_work(store: Store) -> None:
    # B36: the original's limited searches never ended and leaked a thread each.
    for i in range(200):
        make_run(store, f"r{i:03}", at_us=START_US + i)
    steps = list(search_runs(store, compile_query(""), limit=5, now_us=NOW))
    assert sum(len(step.matches) for step in steps) == 5
    assert steps[-1].checked == 5


def test_empty_selection_reads_no_run(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(type(filled.runs), "page")
    query = compile_query("()", names=frozenset({"run", "metric"}))
    steps = list(search_series(filled, query, now_us=NOW))
    assert [(step.checked, step.total) for step in steps] == [(0, 0)]


def test_hostile_query_gives_up_instead_of_checking_every_run(filled: Store) -> None:
    query = compile_query("[0 for a in range(999) for b in range(999)]")
    query.cut_off = 10_000
    steps = list(search_runs(filled, query, now_us=NOW))
    assert query.exhausted
    assert all(not step.matches for step in steps)


def test_large_results_come_in_pages(filled: Store) -> None:
    steps = list(search_runs(filled, compile_query("run.active"), now_us=NOW))
    assert [len(step.matches) for step in steps if step.matches] == [16]
    everything = "run.archived == True or True"
    steps = list(search_runs(filled, compile_query(everything), now_us=NOW))
    assert [len(step.matches) for step in steps if step.matches] == [16, 14]

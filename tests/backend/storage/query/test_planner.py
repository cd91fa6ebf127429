"""Plans: what becomes an index scan, and that a plan tells what it does."""

from __future__ import annotations

import pytest

from backend.storage.query.parser import compile_query
from backend.storage.query.planner import plan_query

NAMES = frozenset({"run", "metric"})


def explain(text: str, names: frozenset[str] = frozenset({"run"})) -> str:
    return plan_query(compile_query(text, names=names)).source.explain()


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("", "every run"),
        ("run.hparams.lr < 0.1", "every run"),
        ("()", "no run"),
        ("False", "no run"),
        ("True", "every run"),
        ("run.hash == 'a'", "hash 'a'"),
        ("'a' == run.hash", "hash 'a'"),
        ("run.hash in ['a', 'b', 5]", "hash 'a' or hash 'b'"),
        ("run.hash in []", "no run"),
        ("run.hash in 'abc'", "every run"),
        ("run.hash != 'a'", "every run"),
        ("run.experiment == 'e'", "experiment 'e'"),
        ("run.experiment == None", "every run"),
        ("run.experiment in ['e', None]", "every run"),
        ("'t' in run.tags", "tag 't'"),
        ("run.tags.contains('t')", "tag 't'"),
        ("any([t in ['a', 'b'] for t in run.tags])", "tag 'a' or tag 'b'"),
        ("any(t == 'a' for t in run.tags)", "tag 'a'"),
        ("any([t not in ['a'] for t in run.tags])", "every run"),
        ("all([t in ['a'] for t in run.tags])", "every run"),
        ("'t' not in run.tags", "every run"),
        ("run.active == True", "active 'True'"),
        ("run.active", "active 'True'"),
        ("not run.active", "every run"),
        ("run.active == False", "every run"),
        ("run.archived == True", "archived 'True'"),
        ("run.is_archived", "archived 'True'"),
        ("run.active == 1", "every run"),
        ("run.hparams.x == 1 and 't' in run.tags", "tag 't'"),
        ("'a' in run.tags and 'b' in run.tags", "tag 'a' and tag 'b'"),
        ("'a' in run.tags or run.x", "every run"),
        (
            "run.experiment == 'e' and ('a' in run.tags or 'b' in run.tags)",
            "experiment 'e' and (tag 'a' or tag 'b')",
        ),
        ("not ('a' in run.tags)", "every run"),
        ("'a' in run.tags if run.x else True", "every run"),
        ("run.metrics['loss'].last < 0.1", "series 'metric loss'"),
        ("0.1 > run.metrics['loss', {'a': 1}].last", "series 'metric loss'"),
        ("run.metrics['loss'].last == None", "every run"),
        ("metric.name == 'loss'", "series 'metric loss'"),
        ("any([run for run in [1]]) and run.hash == 'a'", "every run"),
        ("(run := 1) and run.hash == 'a'", "every run"),
    ],
)
def test_source_of_candidates(text: str, source: str) -> None:
    assert explain(text) == source


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("metric.name == 'loss'", "series 'metric loss'"),
        (
            "((metric.name == 'a' and metric.context.x == 1) or (metric.name == 'b'))",
            "series 'metric a' or series 'metric b'",
        ),
        ("metric.name in ['a', 'b']", "series 'metric a' or series 'metric b'"),
        (
            "run.hash == 'h' and metric.name == 'a'",
            "hash 'h' and series 'metric a'",
        ),
        ("metric.last < 1", "every run"),
    ],
)
def test_source_of_candidates_in_a_metric_search(text: str, source: str) -> None:
    assert explain(text, NAMES) == source


def test_creation_time_bounds_the_scan() -> None:
    plan = plan_query(compile_query("100.5 <= run.created_at < 200 and run.x"))
    assert plan.source.explain() == "every run"
    assert plan.created.first_us == 100_499_998
    assert plan.created.last_us == 200_000_002


def test_creation_time_in_one_branch_bounds_nothing() -> None:
    plan = plan_query(compile_query("run.created_at < 5 or 'a' in run.tags"))
    assert (plan.created.first_us, plan.created.last_us) == (None, None)
    assert plan.source.explain() == "every run"


@pytest.mark.parametrize("value", ["Inf", "NaN", "-Inf", "1e300", "10**3", "None"])
def test_odd_times_bound_nothing(value: str) -> None:
    plan = plan_query(compile_query(f"run.created_at < {value}"))
    assert plan.created.last_us is None


def test_explain_prints_the_plan() -> None:
    query = compile_query("run.experiment == 'e' and run.created_at > 1 and run.x")
    assert plan_query(query).explain() == (
        "index: experiment 'e'\n"
        "bounds: created 999998.. µs\n"
        "check: run.experiment == 'e' and run.created_at > 1 and run.x"
    )

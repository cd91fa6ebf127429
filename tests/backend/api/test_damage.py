"""A run with damaged data is a gap in a search, not the end of it."""

from __future__ import annotations

from urllib.parse import quote

import numpy as np
import pytest

from backend.errors import FormatError
from backend.services.damage import read_intact, read_page
from backend.services.store_verify import verify_store
from backend.storage.keyspace import Subspace, run_prefix


def damage(store, run_id, subspace):
    """Overwrite the first value a run has in a subspace."""

    def write(tr):
        number = store.runs.get(tr, run_id).number
        prefix = run_prefix(subspace, number)
        ((key, _value),) = tr.get_range(prefix, prefix + b"\xff", limit=1)
        tr.set(key, b"\xc1rotten")

    store.engine.transact(write)


@pytest.fixture
def runs(writer):
    """Three runs with two metrics and attributes; that in the middle gets damaged."""
    found = ["first", "rotten", "last"]
    for second, run_id in enumerate(found):
        writer.run(run_id, second=second, attributes={"lr": 0.5})
        writer.metric(run_id, "acc", np.arange(50.0))
        writer.metric(run_id, "loss", np.arange(50.0))
    return found


DAMAGED = [
    Subspace.RUN,
    Subspace.ATTRIBUTES,
    Subspace.SERIES,
    Subspace.TAIL,
    Subspace.CHUNK,
]


@pytest.mark.parametrize("subspace", DAMAGED, ids=lambda item: item.name)
@pytest.mark.parametrize("query", ["", "run.lr == 0.5", 'metric.name == "loss"'])
def test_searches_go_on_past_a_damaged_run(api, store, runs, subspace, query, caplog):
    if subspace is Subspace.CHUNK:
        number = store.engine.read(lambda tr: store.runs.get(tr, "rotten").number)
        store.series.seal(store.engine, number, final=True)
    damage(store, "rotten", subspace)

    metrics = api.trees(f"runs/search/metric?q={quote(query)}&x_axis=acc")
    for run_id in ("first", "last"):
        traces = metrics[run_id]["traces"]
        assert len(traces) == (1 if "loss" in query else 2)
        assert all(len(trace["values"]) == 50 for trace in traces)
    if "metric" not in query:
        found = api.trees(f"runs/search/run?q={quote(query)}")
        for run_id in ("first", "last"):
            assert found[run_id]["params"]["lr"] == 0.5
            assert len(found[run_id]["traces"]["metric"]) == 2
    assert "store.damage_left_out" in caplog.messages


def test_a_damaged_chunk_costs_its_own_series_only(api, store, runs):
    number = store.engine.read(lambda tr: store.runs.get(tr, "rotten").number)
    store.series.seal(store.engine, number, final=True)
    damage(store, "rotten", Subspace.CHUNK)

    acc, loss = api.trees("runs/search/metric?q=")["rotten"]["traces"]

    assert (len(acc["values"]), len(loss["values"])) == (0, 50)


@pytest.fixture
def intact(store, writer):
    """The intact ones of 30 runs of which the records of some are damaged."""
    for second in range(30):
        writer.run(f"r{second}", second=second, attributes={f"p{second}": 1})
        writer.metric(f"r{second}", "loss", [1.0])
    rotten = {"r0", "r7", "r8", "r29"}
    for run_id in rotten:
        damage(store, run_id, Subspace.RUN)
    return [f"r{n}" for n in range(30) if f"r{n}" not in rotten]


def test_lists_pass_over_a_damaged_record_and_go_on_behind_it(api, store, intact):
    newest_first = intact[::-1]

    assert list(api.trees("runs/search/run?q=")) == newest_first
    assert list(api.trees("runs/search/run?q=&limit=25")) == newest_first[:25]
    assert list(api.trees("runs/search/run?q=run.active")) == newest_first
    params = api.get("projects/params").json()["params"]
    assert sorted(params) == sorted(f"p{run_id[1:]}" for run_id in intact)
    problems = []
    verify_store(store.engine, on_problem=problems.append)
    assert len([p for p in problems if p.where.startswith("run ")]) >= 4


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 13, 26, 40])
def test_pages_are_full_whatever_is_damaged(store, intact, newest_first, limit):
    found, last = [], None
    while True:
        bound = {"before" if newest_first else "after": last}
        page = store.engine.read(
            lambda tr, bound=bound: read_page(
                store.runs, tr, limit=limit, newest_first=newest_first, **bound
            )
        )
        found += [run.run_id for run in page]
        if len(page) < limit:
            break
        last = page[-1].number

    assert found == (intact[::-1] if newest_first else intact)


def test_what_is_intact_is_found_whatever_is_not():
    damaged = {3, 4, 9}

    def read(items):
        if damaged & set(items):
            raise FormatError(key="00")
        return {item: str(item) for item in items}

    found = read_intact(read, range(10))

    assert found == {item: str(item) for item in range(10) if item not in damaged}
    assert read_intact(read, []) == {}

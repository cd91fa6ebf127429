"""A run with damaged data is a gap in a search, not the end of it."""

from __future__ import annotations

from urllib.parse import quote

import numpy as np
import pytest

from backend.errors import FormatError
from backend.services.damage import read_intact
from backend.storage.keyspace import Subspace, run_range


def damage(store, run_id, subspace):
    """Overwrite the first value a run has in a subspace."""

    def write(tr):
        number = store.runs.get(tr, run_id).number
        ((key, _value),) = tr.get_range(*run_range(subspace, number), limit=1)
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


DAMAGED = [Subspace.ATTRIBUTES, Subspace.SERIES, Subspace.TAIL, Subspace.CHUNK]


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


def test_what_is_intact_is_found_whatever_is_not():
    damaged = {3, 4, 9}

    def read(items):
        if damaged & set(items):
            raise FormatError(key="00")
        return {item: str(item) for item in items}

    found = read_intact(read, range(10))

    assert found == {item: str(item) for item in range(10) if item not in damaged}
    assert read_intact(read, []) == {}

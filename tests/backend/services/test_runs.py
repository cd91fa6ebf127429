"""Runs: properties, finishing, archiving, deleting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from backend.domain.runs import Run
from backend.errors import (
    ExperimentNotFoundError,
    LimitExceededError,
    RunNotFoundError,
)
from backend.services import outbox
from backend.services.experiments import create_experiment
from backend.services.notes import create_note, list_notes
from backend.services.runs import (
    archive_runs,
    clear_tombstone,
    clear_tombstones,
    delete_run,
    delete_runs,
    finish_run,
    finish_runs,
    purge_pending,
    purge_run,
    update_run,
)
from backend.services.tags import create_tag, delete_tag, list_tags
from backend.storage import indexes
from backend.storage.engine.faults import Fault, FaultInjector
from backend.storage.factory import Store
from backend.storage.repositories.runs import MAX_TAGS
from matyan_wire.batch import SeriesRef
from tests.backend.storage.engines import CountingEngine
from tests.backend.writing import START_US, make_run
from tests.services.stores import Stores

NOW = START_US + 10_000_000


def get(store: Store, run_id: str) -> Run:
    return store.engine.read(lambda tr: store.runs.get(tr, run_id))


def exists(store: Store, run_id: str) -> bool:
    return store.engine.read(lambda tr: store.runs.find(tr, run_id)) is not None


def test_none_leaves_a_property_as_it_is(store: Store) -> None:
    make_run(store, "a", name="n")
    update_run(store, run_id="a", description="d", now_us=NOW)
    run = update_run(store, run_id="a", name="m", now_us=NOW)
    assert (run.name, run.description, run.archived) == ("m", "d", False)
    assert get(store, "a") == run


def test_active_finishes_once_and_opens_again(store: Store) -> None:
    make_run(store, "a")
    assert finish_run(store, run_id="a", now_us=NOW).finished_us == NOW
    assert finish_run(store, run_id="a", now_us=NOW + 5).finished_us == NOW
    opened = update_run(store, run_id="a", active=True, now_us=NOW + 6)
    assert (opened.active, opened.finished_us) == (True, None)


def test_experiment_is_linked_by_name_and_unlinked_by_nothing(store: Store) -> None:
    # B16: the original cleared the record and kept the index for unknown names.
    make_run(store, "a", experiment="old")
    new = create_experiment(store, name="new", now_us=NOW)
    linked = update_run(store, run_id="a", experiment=" new ", now_us=NOW)
    assert linked.experiment_id == new.experiment_id
    with pytest.raises(ExperimentNotFoundError, match="unknown"):
        update_run(store, run_id="a", experiment="unknown", now_us=NOW)
    assert get(store, "a") == linked
    assert (
        update_run(store, run_id="a", experiment="", now_us=NOW).experiment_id is None
    )
    term = indexes.experiment_term(new.experiment_id)
    assert store.engine.read(lambda tr: store.runs.numbers_with(tr, term)) == []


def test_unknown_run_is_not_found_and_not_made(store: Store) -> None:
    # B20: the original's batch operations made ghost runs.
    for change in (
        lambda: update_run(store, run_id="x", name="n", now_us=NOW),
        lambda: delete_run(store, run_id="x", now_us=NOW),
    ):
        with pytest.raises(RunNotFoundError, match="x"):
            change()
    make_run(store, "a")
    ids = ["x", "a", "a"]
    assert finish_runs(store, run_ids=ids, now_us=NOW) == 1
    assert archive_runs(store, run_ids=ids, archived=True, now_us=NOW) == 1
    assert delete_runs(store, run_ids=ids, now_us=NOW) == 1
    assert not exists(store, "x")


def test_too_long_texts_are_refused(store: Store) -> None:
    make_run(store, "a")
    with pytest.raises(LimitExceededError, match="description"):
        update_run(store, run_id="a", description="x" * 70_000, now_us=NOW)


def test_archiving_tells_once(store: Store) -> None:
    make_run(store, "a")
    for archived in (True, True, False):
        archive_runs(store, run_ids=["a"], archived=archived, now_us=NOW)
    assert outbox.count_pending(store) == 2
    assert not get(store, "a").archived


def test_many_runs_take_several_transactions(store: Store) -> None:
    ids = [f"r{i}" for i in range(250)]
    for i, run_id in enumerate(ids):
        make_run(store, run_id, at_us=START_US + i)
    assert finish_runs(store, run_ids=ids, now_us=NOW) == 250
    assert delete_runs(store, run_ids=ids, now_us=NOW) == 250
    assert store.engine.read(store.runs.count) == 0


LOSS = SeriesRef("metric", "loss")


def test_many_runs_of_much_are_changed_and_deleted_by_bytes(store: Store) -> None:
    """In one transaction they would be beyond 10 MB, on every try."""
    names = [f"r{i}" for i in range(90)]
    tag_ids = tuple(sorted(str(uuid4()) for _ in range(MAX_TAGS)))
    for name in names:
        make_run(store, name)
        run = get(store, name)
        heavy = replace(run, tag_ids=tag_ids, description="x" * 60_000)
        store.engine.transact(lambda tr, a=run, b=heavy: store.runs.save(tr, a, b))
    engine = CountingEngine(store.engine)
    counted = Store(engine)
    assert archive_runs(counted, run_ids=names, archived=True, now_us=5) == 90
    assert 5 <= engine.transactions <= 20
    assert delete_runs(counted, run_ids=[*names, "unknown"], now_us=6) == 90
    assert 10 <= engine.transactions <= 50
    assert store.engine.read(store.runs.count) == 0
    assert outbox.count_pending(store) == 180


def test_a_tag_is_taken_off_many_runs_of_much(store: Store) -> None:
    tag = create_tag(store, name="t", now_us=1)
    for number in range(170):
        make_run(store, f"r{number}")
        run = get(store, f"r{number}")
        heavy = replace(run, tag_ids=(tag.tag_id,), description="x" * 60_000)
        store.engine.transact(lambda tr, a=run, b=heavy: store.runs.save(tr, a, b))
    delete_tag(store, tag_id=tag.tag_id, now_us=2)
    assert list_tags(store) == []
    assert not any(
        run.tag_ids
        for run in store.engine.read(lambda tr: store.runs.page(tr, limit=0))
    )


def test_deleted_run_is_gone_at_once_and_its_data_after_the_purge(
    store: Store,
) -> None:
    make_run(store, "a", tags=["t"], params={"x": 1}, metrics={LOSS: [1.0, 2.0]})
    create_note(store, owner_kind="run", owner_id="a", content="note", now_us=NOW)
    number = get(store, "a").number
    delete_run(store, run_id="a", now_us=NOW)
    assert not exists(store, "a")
    assert store.engine.read(lambda tr: store.attributes.get(tr, number)) != {}
    with pytest.raises(RunNotFoundError, match="a"):
        list_notes(store, owner_kind="run", owner_id="a")
    with pytest.raises(RunNotFoundError, match="a"):
        delete_run(store, run_id="a", now_us=NOW + 1)
    assert purge_pending(store) == 1
    assert purge_pending(store) == 0
    purge_run(store, run_number=number)
    assert store.engine.read(lambda tr: store.attributes.get(tr, number)) == {}
    assert store.engine.read(lambda tr: store.series.list(tr, number)) == []


def test_late_records_are_dropped_until_the_tombstone_is_cleared(store: Store) -> None:
    make_run(store, "a", params={"x": 1})
    delete_run(store, run_id="a", now_us=NOW)
    make_run(store, "a", at_us=NOW)
    assert not exists(store, "a")
    clear_tombstone(store, run_id="a")
    make_run(store, "a", at_us=NOW + 1, metrics={LOSS: [3.0]})
    run = get(store, "a")
    purge_pending(store)
    assert get(store, "a") == run
    (series,) = store.engine.read(lambda tr: store.series.list(tr, run.number))
    assert series.summary is not None
    assert series.summary.last == 3.0
    assert store.engine.read(lambda tr: store.attributes.get(tr, run.number)) == {}


def test_old_tombstones_are_cleared(store: Store) -> None:
    for i, run_id in enumerate("abc"):
        make_run(store, run_id)
        delete_run(store, run_id=run_id, now_us=NOW + i)
    assert clear_tombstones(store, deleted_before_us=NOW + 2) == 2
    left = store.engine.read(lambda tr: store.runs.list_tombstones(tr, limit=9))
    assert left == [("c", NOW + 2)]


@pytest.fixture
def faults() -> FaultInjector:
    """What happens to the commits of `faulty_store`; nothing until planned."""
    return FaultInjector()


@pytest.fixture
def faulty_store(stores: Stores, faults: FaultInjector) -> Iterator[Store]:
    """A store whose commits fail as planned."""
    with stores.open(faults=faults) as store:
        yield store


@pytest.mark.parametrize(
    "use_case",
    [
        lambda store: delete_run(store, run_id="a", now_us=NOW),
        lambda store: finish_run(store, run_id="a", now_us=NOW),
        lambda store: create_experiment(store, name="e", now_us=NOW),
        lambda store: archive_runs(store, run_ids=["a"], archived=True, now_us=NOW),
        lambda store: create_note(
            store, owner_kind="run", owner_id="a", content="x", now_us=NOW
        ),
    ],
)
@pytest.mark.parametrize("fault", [Fault.UNKNOWN_APPLIED, Fault.UNKNOWN_LOST])
def test_commit_of_unknown_result_is_repeated_without_harm(
    faulty_store: Store,
    faults: FaultInjector,
    use_case: Callable[[Store], Any],
    fault: Fault,
) -> None:
    store = faulty_store
    make_run(store, "a")
    faults.plan(fault)
    use_case(store)
    assert faults.fired[fault] == 1
    assert outbox.count_pending(store) <= 1
    notes = store.engine.read(
        lambda tr: store.notes.count(tr, owner_kind="run", owner_id="a")
    )
    assert notes <= 1
    assert len(store.engine.read(store.experiments.list_all)) <= 1

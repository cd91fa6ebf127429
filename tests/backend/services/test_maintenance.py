"""Maintenance services: stale runs, tombstones, orphans, compaction, indexes, sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.blobs.base import BlobEntry, BlobStore
from backend.blobs.filesystem import FilesystemBlobStore
from backend.bus.base import EventLog
from backend.bus.topics import CONTROL, CONTROL_GROUP, TOPICS
from backend.domain.blobs import BlobHistory, blob_key, new_blob_id
from backend.services import runs
from backend.services.blob_sweep import sweep_blobs
from backend.services.compaction import compact_chunks
from backend.services.ingestion import apply_records
from backend.services.log_trim import trim_log
from backend.services.long_work import Step
from backend.services.reindex import reindex
from backend.services.stale_runs import finish_stale_runs
from backend.services.store_sizes import measure_run, measure_store
from backend.services.store_verify import verify_store
from backend.services.tombstones import expire_tombstones, find_deleted, page_deleted
from backend.storage import indexes, keyspace
from backend.storage.engine.base import Transaction
from backend.storage.factory import Store
from backend.storage.keyspace import Subspace
from backend.storage.repositories.run_state import get_run_state, put_run_state
from matyan_wire.batch import AddTag, FinishRun, SeriesRef, SetProperties
from tests.backend.services.store_contents import fill
from tests.backend.storage.series_model import Frame, Log, Point
from tests.backend.writing import START_US, write

LOSS = SeriesRef("metric", "loss")
DAY_US = 86_400_000_000
LOG = Log()


class StopAt:
    """Ends work at its n-th step, and remembers the checkpoint."""

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.checkpoint: dict[str, Any] = {}

    def __call__(self, step: Step) -> None:
        self.checkpoint = dict(step.checkpoint)
        self.left -= 1
        if self.left <= 0:
            raise InterruptedError


def run_of(store: Store, run_id: str) -> Any:
    return store.engine.read(lambda tr: store.runs.get(tr, run_id))


def problems_of(store: Store) -> list[str]:
    found: list[str] = []
    verify_store(
        store.engine, on_problem=lambda p: found.append(f"{p.where}: {p.reason}")
    )
    return found


# --- stale runs ----------------------------------------------------------------------


def test_a_stale_run_is_finished_when_it_last_received(store: Store) -> None:
    write(store, "stale", metrics={LOSS: [1.0]}, at_us=START_US)
    write(store, "fresh", at_us=START_US + 9 * DAY_US)
    write(store, "over", FinishRun(START_US), at_us=START_US)
    now_us = START_US + 10 * DAY_US
    report = finish_stale_runs(store, idle_us=5 * DAY_US, now_us=now_us)
    assert report == {
        "active": 2,
        "finished": 1,
        "unsealed": 0,
        "damaged": 0,
        "run_ids": ["stale"],
    }
    stale = run_of(store, "stale")
    assert (stale.active, stale.finished_us) == (False, START_US)
    assert run_of(store, "fresh").active
    again = finish_stale_runs(store, idle_us=5 * DAY_US, now_us=now_us)
    assert again["finished"] == 0


def test_a_run_that_cannot_be_read_or_sealed_does_not_stop_the_others(
    store: Store,
) -> None:
    for run_id in ("first", "rotten", "unsealed", "last"):
        write(store, run_id, metrics={LOSS: [1.0]}, at_us=START_US)
    store.series.seal(store.engine, run_of(store, "unsealed").number)
    write(store, "unsealed", metrics={LOSS: [2.0]}, at_us=START_US)
    keys = [
        keyspace.pack_run_state(run_of(store, "rotten").number),
        keyspace.pack_chunk(run_of(store, "unsealed").number, 0, 0, 0),
    ]
    store.engine.transact(lambda tr: [tr.set(key, b"\xc1") for key in keys])
    now_us = START_US + 10 * DAY_US
    report = finish_stale_runs(store, idle_us=DAY_US, now_us=now_us)
    assert (report["finished"], report["unsealed"], report["damaged"]) == (3, 1, 1)
    assert not run_of(store, "last").active
    assert run_of(store, "rotten").active
    compacted = compact_chunks(store)
    assert (compacted["runs"], compacted["damaged"]) == (4, 1)


def test_a_dry_run_finishes_nothing(store: Store) -> None:
    write(store, "stale", at_us=START_US)
    report = finish_stale_runs(
        store, idle_us=DAY_US, now_us=START_US + 10 * DAY_US, dry_run=True
    )
    assert report["run_ids"] == ["stale"]
    assert run_of(store, "stale").active


def test_a_run_that_does_not_know_when_it_received_goes_by_its_points(
    store: Store,
) -> None:
    write(store, "old", at_us=START_US)
    write(store, "old", metrics={LOSS: [1.0, 2.0]}, at_us=START_US + 2 * DAY_US)
    number = run_of(store, "old").number

    def forget(tr: Transaction) -> None:
        state = get_run_state(tr, number)
        state.received_us = 0
        put_run_state(tr, number, state)

    store.engine.transact(forget)
    now_us = START_US + 4 * DAY_US
    assert not finish_stale_runs(store, idle_us=3 * DAY_US, now_us=now_us)["finished"]
    assert finish_stale_runs(store, idle_us=DAY_US, now_us=now_us)["finished"]
    assert run_of(store, "old").finished_us == START_US + 2 * DAY_US


# --- tombstones ----------------------------------------------------------------------


def test_old_tombstones_go_once_the_data_is_gone(store: Store) -> None:
    for run_id in ("old", "purging", "new"):
        write(store, run_id)
    runs.delete_run(store, run_id="old", now_us=START_US)
    runs.purge_pending(store)
    runs.delete_run(store, run_id="purging", now_us=START_US)
    runs.delete_run(store, run_id="new", now_us=START_US + DAY_US)
    assert [d.purging for d in page_deleted(store, limit=5)] == [True, False, True]
    for dry_run in (True, False):
        report = expire_tombstones(
            store, deleted_before_us=START_US + 1, dry_run=dry_run
        )
        assert report == {"looked_at": 3, "cleared": 1}
    assert find_deleted(store, "old") is None
    assert find_deleted(store, "purging") is not None


# --- orphans -------------------------------------------------------------------------


@pytest.fixture
def blobs(data_dir: Path) -> Iterator[BlobStore]:
    opened = FilesystemBlobStore(
        path=str(data_dir / "blobs"),
        secret="x",  # noqa: S106 - of this test
        durable=False,
    )
    yield opened
    opened.close()


def test_blobs_that_no_run_knows_are_swept(store: Store, blobs: BlobStore) -> None:
    write(store, "run")
    number = run_of(store, "run").number
    known, forgotten = new_blob_id(now_us=1), new_blob_id(now_us=2)
    history = BlobHistory("a").with_grant(known, session=0)
    store.engine.transact(lambda tr: store.blobs.put(tr, number, history))
    keys = [
        blob_key("run", "a", known),
        blob_key("run", "a", forgotten),
        blob_key("run", "b", known),
        blob_key("nobody", "a", known),
        "run/by/hand.txt",
    ]
    for key in keys:
        blobs.put(key, [b"1234"])
    newest = max(entry.modified_us for entry in blobs.iter_entries())
    young = sweep_blobs(store, blobs, modified_before_us=0)
    assert (young["orphans"], young["young"]) == (0, 3)
    expected = {
        "blobs": 5,
        "orphans": 3,
        "orphan_bytes": 12,
        "young": 0,
        "foreign": 1,
        "uploads": 0,
    }
    for dry_run in (True, False):
        report = sweep_blobs(
            store, blobs, modified_before_us=newest + 1, dry_run=dry_run
        )
        assert report == expected
    assert set(blobs.iter_keys()) == {keys[0], keys[4]}


def test_a_sweep_that_is_stopped_has_done_what_it_did(
    store: Store, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.services.blob_sweep.BATCH", 2)
    for n in range(5):
        blobs.put(blob_key("nobody", f"{n}", new_blob_id(now_us=n)), [b"x"])
    with pytest.raises(InterruptedError):
        sweep_blobs(store, blobs, modified_before_us=2**62, on_step=StopAt(1))
    left: list[BlobEntry] = list(blobs.iter_entries())
    assert len(left) == 3
    sweep_blobs(store, blobs, modified_before_us=2**62)
    assert list(blobs.iter_keys()) == []


# --- compaction ----------------------------------------------------------------------


def small_chunks(store: Store, run_id: str, *, pieces: int) -> int:
    """Write a finished run whose chunks are all small; return its number."""
    for at in range(pieces):
        values = [float(n) for n in range(at * 100, at * 100 + 100)]
        write_at(store, run_id, values, first=at * 100)
        store.series.seal(store.engine, run_of(store, run_id).number)
    number = run_of(store, run_id).number
    runs.finish_run(store, run_id=run_id, now_us=START_US + 1)
    return int(number)


def write_at(store: Store, run_id: str, values: list[float], *, first: int) -> None:
    points = [Point(LOSS, first + n, value) for n, value in enumerate(values)]
    apply_records(store, [LOG.append(Frame(points, run_id=run_id))])


def chunk_count(store: Store, number: int) -> int:
    begin, end = keyspace.run_range(Subspace.CHUNK_SUMMARY, number)
    return len(store.engine.read(lambda tr: tr.get_range(begin, end)))


@pytest.fixture
def no_tiers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sealing merges nothing, as when points come very slowly."""
    monkeypatch.setattr("backend.storage.repositories.series_merging.TIER_RATIO", 0)


@pytest.mark.usefixtures("no_tiers")
def test_small_chunks_are_merged_and_read_as_before(store: Store) -> None:
    number = small_chunks(store, "run", pieces=40)
    assert chunk_count(store, number) == 40
    before = store.engine.read(lambda tr: store.series.read_points(tr, number, 0))
    listed = store.engine.read(lambda tr: store.series.list(tr, number))
    dry = compact_chunks(store, dry_run=True)
    report = compact_chunks(store)
    assert report["runs"] == report["changed"] == 1
    assert report["chunks_before"] == dry["chunks_before"] == 40
    assert chunk_count(store, number) == report["chunks_after"] == 3
    after = store.engine.read(lambda tr: store.series.read_points(tr, number, 0))
    assert np.array_equal(before.steps, after.steps)
    assert np.array_equal(before.values, after.values)
    assert store.engine.read(lambda tr: store.series.list(tr, number)) == listed
    assert problems_of(store) == []


@pytest.mark.usefixtures("no_tiers")
def test_compaction_leaves_active_runs_and_goes_on_where_it_was(store: Store) -> None:
    numbers = [small_chunks(store, f"run{n}", pieces=3) for n in range(3)]
    runs.update_run(store, run_id="run1", active=True, now_us=START_US)
    stop = StopAt(2)
    with pytest.raises(InterruptedError):
        compact_chunks(store, on_step=stop)
    assert [chunk_count(store, n) for n in numbers] == [1, 3, 3]
    report = compact_chunks(store, checkpoint=stop.checkpoint)
    assert [chunk_count(store, n) for n in numbers] == [1, 3, 1]
    assert (report["runs"], report["changed"]) == (3, 2)


# --- indexes -------------------------------------------------------------------------

Damage = Callable[[Transaction, Any], None]

DAMAGE: dict[str, Damage] = {
    "a term is missing": lambda tr, run: tr.clear(
        keyspace.pack_index(*indexes.active_term(active=True), run.number)
    ),
    "a term is false": lambda tr, run: tr.set(
        keyspace.pack_index(*indexes.archived_term(archived=True), run.number), b""
    ),
    "a term of nobody": lambda tr, _: tr.set(
        keyspace.pack_index(*indexes.active_term(active=True), 12345), b""
    ),
    "a series name is missing": lambda tr, run: tr.clear(
        keyspace.pack_index(*indexes.series_name_term("metric", "loss"), run.number)
    ),
    "a run id is missing": lambda tr, run: tr.clear(keyspace.pack_run_id(run.run_id)),
    "a run id leads to nobody": lambda tr, _: tr.set(
        keyspace.pack_run_id("ghost"), (12345).to_bytes(8, "big")
    ),
    "an experiment's name is missing": lambda tr, _: tr.clear(
        keyspace.pack_experiment_name("baseline")
    ),
    "a tag's name is missing": lambda tr, _: tr.clear(keyspace.pack_tag_name("red")),
    "a tag's name leads to nobody": lambda tr, _: tr.set(
        keyspace.pack_tag_name("ghost"), b"nobody"
    ),
    "the run is to be purged": lambda tr, run: indexes.set_purge(tr, run.number),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_index_is_put_right(store: Store, name: str) -> None:
    write(
        store,
        "run",
        SetProperties(experiment="baseline"),
        AddTag("red"),
        metrics={LOSS: [1.0]},
    )
    run = run_of(store, "run")
    store.engine.transact(lambda tr: DAMAGE[name](tr, run))
    assert problems_of(store)
    dry = reindex(store, dry_run=True)
    assert dry["missing"] + dry["stale"] == 1
    assert problems_of(store)
    report = reindex(store)
    assert report["missing"] + report["stale"] == 1
    assert problems_of(store) == []


def test_a_sound_store_is_left_alone(store: Store) -> None:
    fill(store)
    report = reindex(store)
    assert (report["missing"], report["stale"]) == (0, 0)


def test_reindexing_goes_on_where_it_was(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.services.reindex.RUNS", 2)
    monkeypatch.setattr("backend.services.reindex.ROWS", 2)
    for n in range(7):
        write(store, f"run{n}", AddTag("red"))
    begin, end = keyspace.subspace_range(Subspace.INDEX)
    store.engine.transact(lambda tr: tr.clear_range(begin, end))
    stop = StopAt(2)
    with pytest.raises(InterruptedError):
        reindex(store, on_step=stop)
    report = reindex(store, checkpoint=stop.checkpoint)
    assert report["missing"] == 7 * 3
    assert problems_of(store) == []


# --- the event log -------------------------------------------------------------------


def test_what_every_group_has_consumed_can_be_trimmed(event_log: EventLog) -> None:
    producer = event_log.producer()
    for n in range(3):
        producer.publish(CONTROL, key=b"k", value=b"%d" % n).result(10)
    consumer = event_log.consumer(group=CONTROL_GROUP, topics=[CONTROL])
    records = []
    while not records:
        records = consumer.poll(max_records=2, max_bytes=1000, timeout_s=1)
    from workers.loop import next_offsets

    consumer.commit(next_offsets(records))
    consumer.close()
    report = trim_log(event_log, topics=TOPICS, dry_run=True)
    # Control events are kept for a week after they were consumed.
    assert report == {"deleted": 0, "consumed": 2, "waiting": 1}
    assert trim_log(event_log, topics=TOPICS) == report


# --- sizes ---------------------------------------------------------------------------


def test_every_byte_of_a_store_is_counted(store: Store) -> None:
    fill(store)
    report = measure_store(store, max_runs=100)
    pairs = store.engine.read(lambda tr: tr.get_range(b"", b"\xff"))
    purging = store.engine.read(lambda tr: store.runs.list_purges(tr, limit=9))
    hidden = sum(measure_run(store, number).total for number in purging)
    stamp = sum(len(k) + len(v) for k, v in pairs if k == keyspace.pack_format())
    counted = sum(report["kinds"].values()) + sum(report["shared"].values())
    assert counted + hidden + stamp == sum(len(k) + len(v) for k, v in pairs)
    assert not report["estimated"]
    largest = report["largest"][0]
    assert largest["run_id"] == "sealed"
    assert largest["bytes"] == measure_run(store, run_of(store, "sealed").number).total


def test_a_large_store_is_estimated(store: Store) -> None:
    for n in range(10):
        write(store, f"run{n}", metrics={LOSS: [1.0]})
    whole = measure_store(store, max_runs=10)
    some = measure_store(store, max_runs=3)
    assert (some["measured_runs"], some["estimated"]) == (3, True)
    assert some["kinds"]["series"] == pytest.approx(whole["kinds"]["series"], rel=0.01)


def test_a_large_run_is_measured_in_part(store: Store) -> None:
    write(store, "run", metrics={SeriesRef("metric", f"m{n}"): [1.0] for n in range(9)})
    size = measure_run(store, run_of(store, "run").number, max_rows=1)
    assert not size.complete

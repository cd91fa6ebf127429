"""Experiments, tags, notes and documents: unique names, links by id, true counts."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from backend.errors import (
    EntityNotFoundError,
    ExperimentNotFoundError,
    InvalidInputError,
    NameTakenError,
    NoteNotFoundError,
    RunNotFoundError,
    TagNotFoundError,
)
from backend.services import documents, experiments, links, notes, outbox, tags
from backend.services.runs import delete_run
from backend.storage.factory import Store
from tests.backend.writing import START_US, make_run

NOW = START_US + 10_000_000


def experiment_id(store: Store, name: str) -> str:
    found = store.engine.read(lambda tr: store.experiments.find_by_name(tr, name))
    assert found is not None
    return found.experiment_id


def counts(listed: list[tuple[Any, int]]) -> dict[str, int]:
    return {one.name: count for one, count in listed}


# --- experiments ---------------------------------------------------------------------


def test_experiment_names_are_unique_and_trimmed(store: Store) -> None:
    # B12: the original let a rename take another's name.
    one = experiments.create_experiment(store, name=" one ", now_us=NOW)
    experiments.create_experiment(store, name="two", now_us=NOW)
    assert one.name == "one"
    with pytest.raises(NameTakenError, match="one"):
        experiments.create_experiment(store, name="one", now_us=NOW)
    with pytest.raises(NameTakenError, match="two"):
        experiments.update_experiment(
            store, experiment_id=one.experiment_id, name="two"
        )
    with pytest.raises(InvalidInputError, match="empty"):
        experiments.create_experiment(store, name="  ", now_us=NOW)


@pytest.mark.parametrize("kind", ["experiment", "tag"])
def test_one_name_is_given_once_whoever_races(store: Store, kind: str) -> None:
    create: Any = {
        "experiment": experiments.create_experiment,
        "tag": tags.create_tag,
    }[kind]
    start = threading.Barrier(4)

    def attempt(_: int) -> str:
        start.wait(timeout=10)
        with contextlib.suppress(NameTakenError):
            create(store, name="same", now_us=NOW)
            return "created"
        return "taken"

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(attempt, range(4)))
    assert sorted(results) == ["created", "taken", "taken", "taken"]


def test_absent_description_is_unchanged_and_empty_clears(store: Store) -> None:
    # B14: the original wiped the description on any update.
    made = experiments.create_experiment(
        store, name="e", description="about", now_us=NOW
    )
    change = experiments.update_experiment
    after = change(store, experiment_id=made.experiment_id, archived=True, name="")
    assert (after.name, after.description, after.archived) == ("e", "about", True)
    after = change(store, experiment_id=made.experiment_id, description="")
    assert (after.description, after.archived) == ("", True)


def test_renamed_experiment_keeps_its_runs(store: Store) -> None:
    make_run(store, "a", experiment="old")
    found = experiment_id(store, "old")
    experiments.update_experiment(store, experiment_id=found, name="new")
    assert counts(experiments.list_experiments(store)) == {"new": 1}
    make_run(store, "b", experiment="old", at_us=START_US + 1)
    assert counts(experiments.list_experiments(store)) == {"old": 1, "new": 1}


def test_deleted_experiment_unlinks_its_runs(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # B13: the original left the link and the index row behind.
    monkeypatch.setattr(links, "UNLINK_PAGE", 2)
    for i in range(5):
        make_run(store, f"r{i}", experiment="e", at_us=START_US + i)
    found = experiment_id(store, "e")
    owner = {"owner_kind": "experiment", "owner_id": found}
    notes.create_note(store, content="x", now_us=NOW, **owner)
    experiments.delete_experiment(store, experiment_id=found, now_us=NOW)
    runs = store.engine.read(lambda tr: store.runs.page(tr, limit=9))
    assert [run.experiment_id for run in runs] == [None] * 5
    assert outbox.count_pending(store) == 1
    with pytest.raises(ExperimentNotFoundError, match="experiment_id"):
        experiments.get_experiment(store, experiment_id=found)
    with pytest.raises(ExperimentNotFoundError, match="experiment_id"):
        experiments.delete_experiment(store, experiment_id=found, now_us=NOW)
    assert experiments.create_experiment(store, name="e", now_us=NOW)


def test_counts_follow_deleted_runs(store: Store) -> None:
    for i in range(3):
        make_run(store, f"r{i}", experiment="e", tags=["t"], at_us=START_US + i)
    delete_run(store, run_id="r1", now_us=NOW)
    assert counts(experiments.list_experiments(store)) == {"e": 2}
    assert counts(tags.list_tags(store)) == {"t": 2}


# --- tags ----------------------------------------------------------------------------


def test_tag_is_made_when_missing_and_attached_once(store: Store) -> None:
    make_run(store, "a")
    first = tags.add_tag(store, run_id="a", tag_name=" t ", now_us=NOW)
    assert tags.add_tag(store, run_id="a", tag_name="t", now_us=NOW) == first
    assert tags.get_tag(store, tag_id=first.tag_id) == (first, 1)
    tags.remove_tag(store, run_id="a", tag_id=first.tag_id)
    tags.remove_tag(store, run_id="a", tag_id="not attached")
    assert tags.get_tag(store, tag_id=first.tag_id) == (first, 0)


def test_tag_needs_a_run_and_a_name(store: Store) -> None:
    with pytest.raises(RunNotFoundError, match="x"):
        tags.add_tag(store, run_id="x", tag_name="t", now_us=NOW)
    with pytest.raises(RunNotFoundError, match="x"):
        tags.remove_tag(store, run_id="x", tag_id="t")
    make_run(store, "a")
    with pytest.raises(InvalidInputError, match="empty"):
        tags.add_tag(store, run_id="a", tag_name=" ", now_us=NOW)
    assert tags.list_tags(store) == []


def test_renamed_tag_keeps_its_runs(store: Store) -> None:
    # B11: the original kept matching the old name and not the new one.
    make_run(store, "a", tags=["old"])
    ((tag, _),) = tags.list_tags(store)
    tags.update_tag(store, tag_id=tag.tag_id, name="new", color="#fff")
    assert counts(tags.list_tags(store)) == {"new": 1}
    with pytest.raises(NameTakenError, match="new"):
        tags.create_tag(store, name="new", now_us=NOW)


def test_deleted_tag_is_taken_off_its_runs(store: Store) -> None:
    make_run(store, "a", tags=["t", "u"])
    ids = {tag.name: tag.tag_id for tag, _ in tags.list_tags(store)}
    tags.delete_tag(store, tag_id=ids["t"], now_us=NOW)
    run = store.engine.read(lambda tr: store.runs.get(tr, "a"))
    assert run.tag_ids == (ids["u"],)
    with pytest.raises(TagNotFoundError, match="tag_id"):
        tags.delete_tag(store, tag_id=ids["t"], now_us=NOW)


# --- notes ---------------------------------------------------------------------------


def test_notes_need_their_owner(store: Store) -> None:
    # B21: the original kept notes of runs that do not exist.
    with pytest.raises(RunNotFoundError, match="x"):
        notes.create_note(
            store, owner_kind="run", owner_id="x", content="c", now_us=NOW
        )
    with pytest.raises(ExperimentNotFoundError, match="x"):
        notes.list_notes(store, owner_kind="experiment", owner_id="x")


def test_note_is_changed_and_removed_only_by_its_owner(store: Store) -> None:
    make_run(store, "a")
    make_run(store, "b", at_us=START_US + 1)
    made = notes.create_note(
        store, owner_kind="run", owner_id="a", content=" text ", now_us=NOW
    )
    assert made.content == "text"
    other = {"owner_kind": "run", "owner_id": "b", "note_id": made.note_id}
    with pytest.raises(NoteNotFoundError):
        notes.update_note(store, content="x", now_us=NOW, **other)
    with pytest.raises(NoteNotFoundError):
        notes.delete_note(store, **other)
    own = {**other, "owner_id": "a"}
    changed = notes.update_note(store, content="new", now_us=NOW + 1, **own)
    assert (changed.created_us, changed.updated_us) == (NOW, NOW + 1)
    assert notes.list_notes(store, owner_kind="run", owner_id="a") == [changed]
    notes.delete_note(store, **own)
    assert notes.list_notes(store, owner_kind="run", owner_id="a") == []


# --- documents -----------------------------------------------------------------------


def test_pinned_sequences_are_replaced(store: Store) -> None:
    assert documents.get_pinned_sequences(store) == []
    pinned = [{"name": "loss", "context": {"subset": "train"}}]
    documents.set_pinned_sequences(store, sequences=pinned)
    documents.set_pinned_sequences(store, sequences=pinned)
    assert documents.get_pinned_sequences(store) == pinned


def make_document(store: Store, collection: str, **fields: Any) -> documents.Document:
    return documents.create_document(
        store, collection=collection, fields=fields, now_us=NOW
    )


def test_deleting_an_app_takes_its_dashboards(store: Store) -> None:
    # B28: a dashboard without its app breaks the whole bookmarks page.
    app = make_document(store, documents.APPS, type="metrics", state={"select": {}})
    dashboard = make_document(
        store, documents.DASHBOARDS, name="d", app_id=app.document_id
    )
    make_document(store, documents.DASHBOARDS, name="no app")
    listed = documents.list_documents(store, collection=documents.DASHBOARDS)
    assert listed == [dashboard]
    documents.delete_document(
        store, collection=documents.APPS, document_id=app.document_id
    )
    assert documents.list_documents(store, collection=documents.DASHBOARDS) == []
    with pytest.raises(EntityNotFoundError, match="dashboards"):
        documents.get_document(
            store, collection=documents.DASHBOARDS, document_id=dashboard.document_id
        )


def test_documents_change_what_is_given(store: Store) -> None:
    made = make_document(store, documents.REPORTS, name="r", code="# x")
    changed = documents.update_document(
        store,
        collection=documents.REPORTS,
        document_id=made.document_id,
        fields={"name": "s"},
        now_us=NOW + 1,
    )
    assert changed.fields == {"name": "s", "code": "# x"}
    assert (changed.created_us, changed.updated_us) == (NOW, NOW + 1)
    with pytest.raises(InvalidInputError, match="nope"):
        make_document(store, documents.REPORTS, nope=1)
    with pytest.raises(EntityNotFoundError, match="apps"):
        make_document(store, documents.DASHBOARDS, name="d", app_id="missing")
    with pytest.raises(EntityNotFoundError, match="reports"):
        documents.delete_document(
            store, collection=documents.REPORTS, document_id="missing"
        )

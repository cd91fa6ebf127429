"""Repositories of runs and what is around them, on a real store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.domain.entities import Artifact, Experiment, Note, Tag
from backend.domain.runs import Run
from backend.errors import (
    ArtifactNotFoundError,
    EntityNotFoundError,
    ExperimentNotFoundError,
    LimitExceededError,
    NameTakenError,
    NoteNotFoundError,
    RunNotFoundError,
    TagNotFoundError,
)
from backend.storage import indexes
from backend.storage.factory import Store
from backend.storage.keyspace import pack_run

T0 = 1_700_000_000_000_000


def create(store: Store, run_id: str, *, at_us: int = T0) -> Run:
    return store.engine.transact(
        lambda tr: store.runs.create(tr, run_id=run_id, name=run_id, created_us=at_us)
    )


def save(store: Store, old: Run, **changes: Any) -> Run:
    new = replace(old, **changes)
    store.engine.transact(lambda tr: store.runs.save(tr, old, new))
    return new


def numbers(store: Store, term: indexes.Term) -> list[int]:
    return store.engine.read(lambda tr: store.runs.numbers_with(tr, term))


# --- runs ----------------------------------------------------------------------------


def test_number_is_the_creation_time_moved_to_the_next_free(store: Store) -> None:
    found = [create(store, run_id).number for run_id in ("a", "b", "c")]
    assert found == [T0, T0 + 1, T0 + 2]


def test_number_of_a_deleted_run_is_not_given_again_before_its_data_is_gone(
    store: Store,
) -> None:
    run = create(store, "a")
    store.engine.transact(lambda tr: store.runs.hide(tr, run, deleted_us=1))
    assert create(store, "b").number == T0 + 1
    assert store.engine.transact(lambda tr: store.runs.purge(tr, run.number, limit=10))
    assert create(store, "c").number == T0


def test_runs_are_found_by_id_and_number(store: Store) -> None:
    a, b = create(store, "a"), create(store, "b")
    read = store.engine.read
    assert read(lambda tr: store.runs.find(tr, "a")) == a
    assert read(lambda tr: store.runs.find(tr, "nope")) is None
    assert read(lambda tr: store.runs.find_many(tr, ["b", "x", "a", "b"])) == {
        "a": a,
        "b": b,
    }
    assert read(lambda tr: store.runs.get_by_numbers(tr, [b.number, 5, a.number])) == [
        b,
        a,
    ]
    with pytest.raises(RunNotFoundError, match="nope"):
        read(lambda tr: store.runs.get(tr, "nope"))


def test_pages_are_newest_first_and_exclusive(store: Store) -> None:
    a, b, c = (create(store, run_id) for run_id in "abc")

    def page(**bounds: Any) -> list[Run]:
        return store.engine.read(lambda tr: store.runs.page(tr, limit=2, **bounds))

    assert page() == [c, b]
    assert page(before=b.number) == [a]
    assert page(after=a.number, newest_first=False) == [b, c]
    assert page(after=c.number) == []


def test_index_follows_the_run(store: Store) -> None:
    run = create(store, "a")
    assert numbers(store, indexes.active_term(active=True)) == [run.number]
    run = save(
        store, run, active=False, experiment_id="e", tag_ids=("t", "u"), archived=True
    )
    run = save(store, run, experiment_id="f", tag_ids=("u",))
    assert numbers(store, indexes.active_term(active=True)) == []
    assert numbers(store, indexes.active_term(active=False)) == [run.number]
    assert numbers(store, indexes.archived_term(archived=True)) == [run.number]
    assert numbers(store, indexes.experiment_term("e")) == []
    assert numbers(store, indexes.experiment_term("f")) == [run.number]
    assert numbers(store, indexes.tag_term("t")) == []
    assert numbers(store, indexes.tag_term("u")) == [run.number]


def test_hidden_run_is_in_no_read_and_leaves_a_tombstone(store: Store) -> None:
    run = save(store, create(store, "a"), tag_ids=("t",), experiment_id="e")
    store.engine.transact(lambda tr: store.runs.hide(tr, run, deleted_us=77))
    read = store.engine.read
    assert read(lambda tr: store.runs.find(tr, "a")) is None
    assert read(lambda tr: store.runs.page(tr, limit=5)) == []
    assert read(store.runs.count) == 0
    assert numbers(store, indexes.tag_term("t")) == []
    assert read(lambda tr: store.runs.find_tombstone(tr, "a")) == 77
    assert read(lambda tr: store.runs.find_deleted(tr, "a")) == run
    assert read(lambda tr: store.runs.list_purges(tr, limit=5)) == [run.number]


def test_purge_clears_everything_in_bounded_steps(store: Store) -> None:
    run = create(store, "a")
    kept = create(store, "b")

    def fill(tr: Any) -> None:
        for i in range(25):
            indexes.index_series_name(tr, run.number, "metric", f"m{i}")
            artifact = Artifact(f"f{i}", "k", "t", 1)
            store.artifacts.put(tr, run.number, artifact)
        indexes.index_series_name(tr, kept.number, "metric", "m0")
        store.attributes.assign(tr, run.number, [(["a"], 1)])
        store.runs.hide(tr, run, deleted_us=1)

    store.engine.transact(fill)
    steps = 0
    while not store.engine.transact(
        lambda tr: store.runs.purge(tr, run.number, limit=10)
    ):
        steps += 1
    assert steps >= 4
    term = indexes.series_name_term("metric", "m0")
    assert numbers(store, term) == [kept.number]
    assert numbers(store, indexes.series_name_term("metric", "m7")) == []
    leftovers = store.engine.read(
        lambda tr: [
            key
            for key, _ in tr.get_range(b"", b"\xff")
            if pack_run(run.number)[3:] in key
        ]
    )
    assert leftovers == []


def test_too_many_tags_are_refused(store: Store) -> None:
    run = create(store, "a")
    with pytest.raises(LimitExceededError, match="tags"):
        save(store, run, tag_ids=tuple(str(i) for i in range(501)))


# --- attributes ----------------------------------------------------------------------


def attributes(store: Store, number: int) -> dict[str, Any]:
    return store.engine.read(lambda tr: store.attributes.get(tr, number))


def assign(store: Store, number: int, *assignments: tuple[list[str], Any]) -> None:
    store.engine.transact(
        lambda tr: store.attributes.assign(tr, number, list(assignments))
    )


def test_assignment_replaces_at_its_path_and_nothing_above(store: Store) -> None:
    assign(store, 1, (["hparams"], {"lr": 1, "bs": 2}), (["other"], 5))
    assign(store, 1, (["hparams", "lr"], 3))
    assert attributes(store, 1) == {"hparams": {"lr": 3, "bs": 2}, "other": 5}
    assign(store, 1, (["hparams"], {"a": 1, "b": 2}))
    assert attributes(store, 1) == {"hparams": {"a": 1, "b": 2}, "other": 5}


def test_leaf_and_dict_replace_each_other(store: Store) -> None:
    # A11: the original kept both, and every read of the run failed.
    assign(store, 1, (["a"], 1))
    assign(store, 1, (["a", "b"], 2))
    assert attributes(store, 1) == {"a": {"b": 2}}
    assign(store, 1, (["a"], "leaf"), (["", ""], {"": 0}))
    assert attributes(store, 1) == {"a": "leaf", "": {"": {"": 0}}}


def test_paths_are_deleted(store: Store) -> None:
    assign(store, 1, (["a"], {"b": 1, "c": 2}), (["d"], 3))
    store.engine.transact(
        lambda tr: store.attributes.delete_paths(
            tr, 1, [["a", "b"], ["d"], ["x", "y"], ["a", "c", "z"]]
        )
    )
    assert attributes(store, 1) == {"a": {"c": 2}}


def test_large_trees_are_split_and_read_in_one_range(store: Store) -> None:
    big = {str(i): hex(hash((i, "salt"))) * 3 for i in range(8_000)}
    for number in (1, 2, 3):
        assign(store, number, (["big"], {**big, "n": number}))
    assign(store, 2, (["big"], 0))
    found = store.engine.read(lambda tr: store.attributes.get_span(tr, 1, 2))
    assert found == {1: {"big": {**big, "n": 1}}, 2: {"big": 0}}
    many = store.engine.read(lambda tr: store.attributes.get_many(tr, [3, 9, 1]))
    assert many == {3: {"big": {**big, "n": 3}}, 9: {}, 1: {"big": {**big, "n": 1}}}


paths = st.lists(st.sampled_from(["a", "b", "", "ключ"]), min_size=1, max_size=3)


@settings(max_examples=25)
@given(st.lists(st.tuples(paths, st.integers(0, 3)), min_size=1, max_size=8))
def test_repeating_assignments_changes_nothing(
    store: Store, assignments: list[tuple[list[str], int]]
) -> None:
    store.engine.transact(lambda tr: store.attributes.replace(tr, 1, {}))
    assign(store, 1, *assignments)
    once = attributes(store, 1)
    assign(store, 1, *assignments)
    last_path, last_value = assignments[-1]
    node: Any = once
    for component in last_path:
        node = node[component]
    assert node == last_value
    assert attributes(store, 1) == once


# --- entities ------------------------------------------------------------------------


def test_experiment_names_are_unique_and_move_when_renamed(store: Store) -> None:
    one, two = Experiment("1", "one", "", 1), Experiment("2", "two", "", 2)
    transact, read = store.engine.transact, store.engine.read
    for experiment in (one, two):
        transact(lambda tr, e=experiment: store.experiments.create(tr, e))
    with pytest.raises(NameTakenError, match="two"):
        transact(lambda tr: store.experiments.save(tr, one, replace(one, name="two")))
    with pytest.raises(NameTakenError, match="one"):
        transact(lambda tr: store.experiments.create(tr, replace(two, name="one")))
    renamed = replace(one, name="uno")
    transact(lambda tr: store.experiments.save(tr, one, renamed))
    assert read(lambda tr: store.experiments.find_by_name(tr, "one")) is None
    assert read(lambda tr: store.experiments.find_by_name(tr, "uno")) == renamed
    assert read(store.experiments.list_all) == [two, renamed]
    transact(lambda tr: store.experiments.delete(tr, renamed))
    with pytest.raises(ExperimentNotFoundError, match="1"):
        read(lambda tr: store.experiments.get(tr, "1"))


def test_tags_are_ordered_by_name(store: Store) -> None:
    tags = [Tag("3", "beta"), Tag("1", "Alpha"), Tag("2", "gamma")]
    for tag in tags:
        store.engine.transact(lambda tr, t=tag: store.tags.create(tr, t))
    listed = store.engine.read(store.tags.list_all)
    assert [tag.name for tag in listed] == ["Alpha", "beta", "gamma"]
    some = store.engine.read(lambda tr: store.tags.get_many(tr, ["2", "x", "3"]))
    assert [tag.name for tag in some] == ["beta", "gamma"]
    with pytest.raises(NameTakenError, match="beta"):
        store.engine.transact(lambda tr: store.tags.create(tr, Tag("9", "beta")))
    with pytest.raises(TagNotFoundError, match="9"):
        store.engine.read(lambda tr: store.tags.get(tr, "9"))


def test_ids_that_cannot_be_keys_are_just_not_found(store: Store) -> None:
    for odd in ("", "x" * 200, "\ud800"):
        with pytest.raises(TagNotFoundError):
            store.engine.read(lambda tr, odd=odd: store.tags.get(tr, odd))
        with pytest.raises(ExperimentNotFoundError):
            store.engine.read(lambda tr, odd=odd: store.experiments.get(tr, odd))


def test_notes_belong_to_their_owner(store: Store) -> None:
    note = Note("n", "run", "r", "text", 1, 2)
    store.engine.transact(lambda tr: store.notes.put(tr, note))

    def get(owner_id: str) -> Note:
        return store.engine.read(
            lambda tr: store.notes.get(
                tr, owner_kind="run", owner_id=owner_id, note_id="n"
            )
        )

    assert get("r") == note
    with pytest.raises(NoteNotFoundError, match="n"):
        get("other")
    long = replace(note, content="x" * 90_001)
    with pytest.raises(LimitExceededError, match="note"):
        store.engine.transact(lambda tr: store.notes.put(tr, long))


def test_artifacts_are_by_path_and_hide_sequences(store: Store) -> None:
    for path in ("b.txt", "a/ü.bin", "seq/img/0.png", "b.txt"):
        artifact = Artifact(path, f"r/{path}", "t", 1)
        store.engine.transact(lambda tr, a=artifact: store.artifacts.put(tr, 1, a))
    listed = store.engine.read(lambda tr: store.artifacts.list_all(tr, 1))
    assert [artifact.path for artifact in listed] == ["a/ü.bin", "b.txt"]
    everything = store.engine.read(
        lambda tr: store.artifacts.list_all(tr, 1, with_sequences=True)
    )
    assert len(everything) == 3
    with pytest.raises(ArtifactNotFoundError, match="nope"):
        store.engine.read(lambda tr: store.artifacts.get(tr, 1, "nope"))


def test_documents_may_be_large(store: Store) -> None:
    state = {"select": [hex(hash((i, "salt"))) for i in range(20_000)], "": None}
    put = store.documents.put
    store.engine.transact(lambda tr: put(tr, "apps", "1", state))
    store.engine.transact(lambda tr: put(tr, "apps", "2", {"a": 1}))
    listed = store.engine.read(lambda tr: store.documents.list_all(tr, "apps"))
    assert listed == {"1": state, "2": {"a": 1}}
    store.engine.transact(lambda tr: store.documents.delete(tr, "apps", "1"))
    with pytest.raises(EntityNotFoundError, match="apps"):
        store.engine.read(lambda tr: store.documents.get(tr, "apps", "1"))

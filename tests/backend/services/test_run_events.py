"""What messages do to a run, and that doing it again changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from backend.domain.runs import Run
from backend.errors import InvalidInputError, LimitExceededError
from backend.services.run_events import (
    Moment,
    change_attributes,
    change_run,
    clock_offset_us,
    ensure_run,
)
from backend.services.runs import clear_tombstone, delete_run
from backend.services.tags import list_tags
from backend.storage.engine.base import Transaction
from backend.storage.factory import Store
from backend.storage.repositories.runs import MAX_TAGS
from matyan_wire.batch import (
    UNKNOWN_TIME,
    AddTag,
    BlobRef,
    CreateRun,
    DeleteAttributes,
    Event,
    FinishRun,
    RemoveTag,
    SetAttributes,
    SetProperties,
    encode_payload,
)

T0 = 1_700_000_000_000_000
SECOND = 1_000_000


def ensure(
    store: Store, *, at_us: int = T0, client_us: int = UNKNOWN_TIME
) -> Run | None:
    return store.engine.transact(
        lambda tr: ensure_run(
            tr, store, "abc", Moment(at_us), opened_client_us=client_us
        )
    )


def apply_event(
    tr: Transaction, store: Store, run: Run, event: Event, moment: Moment
) -> None:
    if isinstance(event, (SetAttributes, DeleteAttributes)):
        edit = store.attributes.edit(tr, run.number)
        change_attributes(edit, event)
        edit.store(tr)
    else:
        store.runs.save(tr, run, change_run(tr, store, run, event, moment))


def apply(
    store: Store,
    *events: Event,
    at_us: int = T0 + SECOND,
    sent_us: int = UNKNOWN_TIME,
) -> Run:
    """Apply each event twice, as a repeated delivery would."""
    for event in events:
        for _ in range(2):

            def step(tr: Any, event: Event = event) -> None:
                run = store.runs.get(tr, "abc")
                apply_event(tr, store, run, event, Moment(at_us, sent_us))

            store.engine.transact(step)
    return store.engine.read(lambda tr: store.runs.get(tr, "abc"))


def assignment(path: str, value: Any) -> SetAttributes:
    return SetAttributes([(path.split("."), encode_payload(value))])


def attributes(store: Store) -> dict[str, Any]:
    run = store.engine.read(lambda tr: store.runs.get(tr, "abc"))
    return store.engine.read(lambda tr: store.attributes.get(tr, run.number))


@pytest.mark.parametrize(
    ("client_us", "offset"),
    [
        (UNKNOWN_TIME, 0),
        (T0 - SECOND, 0),
        (T0 + SECOND, 0),
        (T0 - 3600 * SECOND, 3600 * SECOND),
        (T0 + 2 * SECOND, -2 * SECOND),
        (-(2**63) + 5, 0),
        (2**64 - 1, 0),
    ],
)
def test_clock_offset_is_kept_when_it_cannot_be_latency(
    client_us: int, offset: int
) -> None:
    assert clock_offset_us(received_us=T0, client_time_us=client_us) == offset


def test_run_is_made_once_with_the_servers_time(store: Store) -> None:
    first = ensure(store, client_us=T0 - 60 * SECOND)
    assert first is not None
    assert (first.name, first.created_us, first.active) == ("Run: abc", T0, True)
    assert first.clock_offset_us == 60 * SECOND
    assert ensure(store, at_us=T0 + 5) == first


def test_deleted_run_is_not_made_again_until_its_tombstone_is_cleared(
    store: Store,
) -> None:
    ensure(store)
    delete_run(store, run_id="abc", now_us=T0 + 1)
    assert ensure(store) is None
    clear_tombstone(store, run_id="abc")
    again = ensure(store, at_us=T0 + 9)
    assert again is not None
    assert again.created_us == T0 + 9


def test_creating_event_leaves_a_new_run_alone(store: Store) -> None:
    run = ensure(store)
    assert apply(store, CreateRun(T0), at_us=T0) == run


def test_opening_again_keeps_everything(store: Store) -> None:
    # A6: the original reset name, description, creation time and experiment.
    ensure(store)
    before = apply(
        store,
        SetProperties(name="mine", description="about", experiment="e"),
        AddTag("t"),
        assignment("hparams", {"lr": 1}),
        FinishRun(),
    )
    assert not before.active
    store.engine.transact(
        lambda tr: apply_event(
            tr, store, before, CreateRun(T0 + 5), Moment(T0 + 9 * SECOND)
        )
    )
    after = store.engine.read(lambda tr: store.runs.get(tr, "abc"))
    assert (after.active, after.finished_us, after.resumed_count) == (True, None, 1)
    kept = ("number", "name", "description", "created_us", "experiment_id", "tag_ids")
    assert [getattr(after, k) for k in kept] == [getattr(before, k) for k in kept]
    assert attributes(store) == {"hparams": {"lr": 1}}


@pytest.mark.parametrize(
    ("client_us", "finished_us"),
    [
        (UNKNOWN_TIME, T0 + SECOND),
        (T0 - 3600 * SECOND + 500_000, T0 + 500_000),
        (T0 - 3600 * SECOND - 9, T0),
        (T0 + 99 * SECOND, T0 + SECOND),
    ],
)
def test_finish_time_is_the_writers_corrected(
    store: Store, client_us: int, finished_us: int
) -> None:
    ensure(store, client_us=T0 - 3600 * SECOND)
    run = apply(store, FinishRun(client_us))
    assert (run.active, run.finished_us) == (False, finished_us)


def test_finish_time_of_a_late_frame_is_the_writers(store: Store) -> None:
    # The clock of this frame counts: another machine may have made the run.
    ensure(store, client_us=T0 - 3600 * SECOND)
    late = T0 + 500 * SECOND
    run = apply(store, FinishRun(T0 + 30 * SECOND), at_us=late, sent_us=late)
    assert run.finished_us == T0 + 30 * SECOND


def test_events_after_the_end_are_applied_and_leave_it_finished(store: Store) -> None:
    ensure(store)
    run = apply(store, FinishRun(), SetProperties(name="late"), AddTag("t"))
    assert (run.active, run.name, len(run.tag_ids)) == (False, "late", 1)


def test_attributes_are_assignments(store: Store) -> None:
    # A10: the original wiped what stood beside a dict of several keys.
    ensure(store)
    apply(
        store,
        assignment("hparams", {"lr": 1, "bs": 2}),
        assignment("hparams.lr", 3),
        SetAttributes([(["a"], encode_payload(1)), (["b"], encode_payload({"c": 2}))]),
        assignment("a.deeper", {"x": float("inf")}),
    )
    assert attributes(store) == {
        "hparams": {"lr": 3, "bs": 2},
        "a": {"deeper": {"x": float("inf")}},
        "b": {"c": 2},
    }
    apply(store, DeleteAttributes([["hparams", "lr"], ["b"], ["nope"]]))
    assert attributes(store) == {
        "hparams": {"bs": 2},
        "a": {"deeper": {"x": float("inf")}},
    }


def test_attribute_keys_become_text(store: Store) -> None:
    ensure(store)
    apply(store, assignment("a", {1: {2: "x"}, None: [{3: 4}]}))
    assert attributes(store) == {"a": {"1": {"2": "x"}, "None": [{"3": 4}]}}


def test_properties_change_one_by_one(store: Store) -> None:
    ensure(store)
    run = apply(
        store,
        SetProperties(name="n"),
        SetProperties(description="d"),
        SetProperties(archived=True),
        SetProperties(experiment=" e "),
        SetProperties(experiment=""),
    )
    assert (run.name, run.description, run.archived) == ("n", "d", True)
    experiment = store.engine.read(lambda tr: store.experiments.find_by_name(tr, "e"))
    assert experiment is not None
    assert run.experiment_id == experiment.experiment_id


def test_tags_are_a_set(store: Store) -> None:
    # B15: the original counted a repeated tag twice.
    ensure(store)
    apply(store, AddTag("a"), AddTag(" a "), AddTag("b"), AddTag(" "))
    run = apply(store, RemoveTag("b"), RemoveTag("unknown"))
    counts = {tag.name: count for tag, count in list_tags(store)}
    assert counts == {"a": 1, "b": 0}
    assert len(run.tag_ids) == 1


def test_a_tag_beyond_the_last_that_fits_is_refused_and_not_made(store: Store) -> None:
    ensure(store)
    names = [f"t{i}" for i in range(MAX_TAGS)]
    run = apply(store, *[AddTag(name) for name in names])
    with pytest.raises(LimitExceededError, match="tags of a run"):
        store.engine.transact(lambda tr: change_run(tr, store, run, AddTag("x"), T0))
    assert {tag.name for tag, _ in list_tags(store)} == set(names)
    assert apply(store, AddTag("t0")) == run


def test_artifacts_are_kept_apart_from_attributes(store: Store) -> None:
    # A12: the original kept them inside the user's attributes.
    ensure(store)
    run = apply(
        store,
        BlobRef("model.pt", "abc/old"),
        BlobRef("model.pt", "abc/model.pt", "application/x"),
    )
    listed = store.engine.read(lambda tr: store.artifacts.list_all(tr, run.number))
    assert [(a.path, a.key, a.content_type) for a in listed] == [
        ("model.pt", "abc/model.pt", "application/x")
    ]
    assert attributes(store) == {}


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (SetProperties(description="x" * 70_000), LimitExceededError),
        (SetProperties(name="x" * 2_000), LimitExceededError),
        (AddTag("x" * 300), LimitExceededError),
        (SetProperties(experiment="\ud800"), InvalidInputError),
        (SetAttributes([(["a"], b"\xc1")]), InvalidInputError),
        (assignment("a", "x" * 5_000_000), LimitExceededError),
    ],
)
def test_what_can_never_be_applied_is_the_inputs_fault(
    store: Store, event: Event, error: type[Exception]
) -> None:
    before = ensure(store)
    with pytest.raises(error):
        apply(store, event)
    assert ensure(store) == before

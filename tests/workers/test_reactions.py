"""Acting on control events: blobs go, failures are retried, then set aside."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from backend.blobs.base import BlobStore
from backend.bus.topics import CONTROL, DEAD_LETTERS, TOPICS
from backend.domain.blobs import BlobHistory, Grant, blob_key, new_blob_id
from backend.domain.reactions import Reaction
from backend.errors import BlobStoreUnavailableError, MultipartNotFoundError
from backend.services import outbox, runs
from backend.services.reactions import (
    MAX_ATTEMPTS,
    count_reactions,
    find_reaction,
    note_reactions,
)
from backend.storage.factory import Store
from tests.backend.writing import START_US, write
from workers.tasks.reactions import react_to_events

PATH = "model.pt"
Note = Callable[..., str]


@pytest.fixture
def store(blob_runtime: Any) -> Store:
    return blob_runtime.get_store()


@pytest.fixture
def blobs(blob_runtime: Any) -> BlobStore:
    return blob_runtime.get_blobs()


@pytest.fixture
def note(store: Store) -> Note:
    """Note an event as the control worker does; returns its id."""

    def note_event(kind: str, *, time_us: int = START_US, **payload: Any) -> str:
        event = {"id": f"{kind}/{time_us}", "type": kind, "time_us": time_us}
        reaction = Reaction(
            event_id=f"{kind}/{time_us}",
            event=json.dumps({**event, "payload": payload}).encode(),
            key=b"key",
            log_id="log",
            topic=CONTROL,
            partition=0,
            offset=5,
            noted_us=START_US,
            due_us=START_US,
        )
        (event_id,) = note_reactions(store, [reaction], now_us=START_US)
        return event_id

    return note_event


def upload(
    store: Store, blobs: BlobStore, run_id: str, *, path: str = PATH, at_us: int
) -> str:
    """Grant and upload a blob as gateway and ingestion do; returns its key."""
    blob_id = new_blob_id(now_us=at_us)

    def grant(tr: Any) -> None:
        run = store.runs.get(tr, run_id)
        history = store.blobs.find(tr, run.number, path) or BlobHistory(path)
        store.blobs.put(tr, run.number, history.with_grant(blob_id, session=1))

    store.engine.transact(grant)
    key = blob_key(run_id, path, blob_id)
    blobs.put(key, [b"bytes"])
    return key


def test_every_blob_of_a_deleted_run_goes(store: Store, blobs: BlobStore, note: Note):
    write(store, "gone")
    write(store, "kept")
    for n in range(3):
        upload(store, blobs, "gone", path=f"{n}.bin", at_us=START_US + n)
    kept = upload(store, blobs, "kept", at_us=START_US)
    blobs.put("gone/of/another.form", [b"x"])
    runs.delete_run(store, run_id="gone", now_us=START_US + 10)
    event_id = note(outbox.RUN_DELETED, time_us=START_US + 10, run_id="gone")
    react_to_events(event_ids=[event_id])
    assert list(blobs.iter_keys()) == [kept]
    assert find_reaction(store, event_id) is None
    react_to_events(event_ids=[event_id])


def test_uploads_in_parts_of_a_deleted_run_go(
    store: Store, blobs: BlobStore, note: Note
):
    def begin(run_id: str, at_us: int) -> tuple[str, str]:
        key = blob_key(run_id, PATH, new_blob_id(now_us=at_us))
        return key, blobs.start_multipart(key, content_type="a/b")

    doomed = begin("gone", START_US)
    kept = [begin("gone", START_US + 20), begin("kept", START_US)]
    write(store, "gone", at_us=START_US + 15)  # the id is in use again
    event_id = note(outbox.RUN_DELETED, time_us=START_US + 10, run_id="gone")
    react_to_events(event_ids=[event_id])
    with pytest.raises(MultipartNotFoundError, match="No such upload"):
        blobs.list_parts(*doomed)
    assert [blobs.list_parts(*upload) for upload in kept] == [[], []]


def test_blobs_of_a_new_run_of_the_same_id_stay(
    store: Store, blobs: BlobStore, note: Note
):
    write(store, "again")
    upload(store, blobs, "again", at_us=START_US)
    runs.delete_run(store, run_id="again", now_us=START_US + 10)
    runs.clear_tombstone(store, run_id="again")
    write(store, "again", at_us=START_US + 20)
    new = upload(store, blobs, "again", at_us=START_US + 20)
    event_id = note(outbox.RUN_DELETED, time_us=START_US + 10, run_id="again")
    react_to_events(event_ids=[event_id])
    assert list(blobs.iter_keys()) == [new]


def test_uploads_that_were_replaced_go(store: Store, blobs: BlobStore, note: Note):
    write(store, "run")
    keys = [upload(store, blobs, "run", at_us=START_US + n) for n in range(3)]
    number = store.engine.read(lambda tr: store.runs.get(tr, "run")).number
    event_id = note(
        outbox.ARTIFACT_REPLACED, run_id="run", run_number=number, path=PATH
    )
    react_to_events(event_ids=[event_id])
    assert list(blobs.iter_keys()) == keys[-1:]
    history = store.engine.read(lambda tr: store.blobs.find(tr, number, PATH))
    assert history is not None
    assert [grant.ordinal for grant in history.grants] == [2]


def test_a_newer_upload_that_never_came_replaces_nothing(
    store: Store, blobs: BlobStore, note: Note
):
    write(store, "run")
    there = upload(store, blobs, "run", at_us=START_US)
    missing = upload(store, blobs, "run", at_us=START_US + 1)
    blobs.delete(missing)
    number = store.engine.read(lambda tr: store.runs.get(tr, "run")).number
    react_to_events(
        event_ids=[
            note(outbox.ARTIFACT_REPLACED, run_id="run", run_number=number, path=PATH)
        ]
    )
    assert list(blobs.iter_keys()) == [there]


def test_uploads_that_objects_refer_to_are_never_replaced(
    store: Store, blobs: BlobStore, note: Note
):
    write(store, "run")
    number = store.engine.read(lambda tr: store.runs.get(tr, "run")).number
    ids = [new_blob_id(now_us=START_US + n) for n in range(2)]
    history = BlobHistory(
        PATH, tuple(Grant(1, n, blob_id) for n, blob_id in enumerate(ids))
    ).with_claim(0, 0, session=1)
    store.engine.transact(lambda tr: store.blobs.put(tr, number, history))
    for blob_id in ids:
        blobs.put(blob_key("run", PATH, blob_id), [b"x"])
    react_to_events(
        event_ids=[
            note(outbox.ARTIFACT_REPLACED, run_id="run", run_number=number, path=PATH)
        ]
    )
    assert len(list(blobs.iter_keys())) == 2


def test_a_failure_is_noted_and_tried_again_later(
    store: Store, blobs: BlobStore, note: Note, monkeypatch: pytest.MonkeyPatch
):
    event_id = note(outbox.RUN_DELETED, run_id="run")
    monkeypatch.setattr(blobs, "delete_prefix", _fail)
    react_to_events(event_ids=[event_id])
    failed = find_reaction(store, event_id)
    assert failed is not None
    assert failed.attempts == 1
    assert "away" in failed.reason
    assert count_reactions(store).failing == 1
    react_to_events(event_ids=[event_id])
    again = find_reaction(store, event_id)
    assert again is not None
    assert again.due_us - failed.due_us > 0
    monkeypatch.undo()
    react_to_events(event_ids=[event_id])
    assert find_reaction(store, event_id) is None


def _fail(*_args: Any, **_kwargs: Any) -> int:
    raise BlobStoreUnavailableError(reason="away")


def test_what_keeps_failing_becomes_a_dead_letter(
    blob_runtime: Any,
    store: Store,
    blobs: BlobStore,
    note: Note,
    monkeypatch: pytest.MonkeyPatch,
):
    log = blob_runtime.get_event_log()
    log.ensure_topics(TOPICS)
    event_id = note(outbox.RUN_DELETED, run_id="run")
    monkeypatch.setattr(blobs, "delete_prefix", _fail)
    for _ in range(MAX_ATTEMPTS):
        react_to_events(event_ids=[event_id])
    assert find_reaction(store, event_id) is None
    (letter,) = log.read(DEAD_LETTERS, partition=0, offset=0, max_records=10)
    headers = dict(letter.headers)
    assert headers["code"] == b"blob_store_unavailable"
    assert (headers["topic"], headers["offset"]) == (CONTROL.encode(), b"5")
    assert json.loads(letter.value)["payload"] == {"run_id": "run"}


def test_an_event_that_means_nothing_is_a_dead_letter_at_once(
    blob_runtime: Any, store: Store, note: Note
):
    log = blob_runtime.get_event_log()
    log.ensure_topics(TOPICS)
    event_id = note(outbox.RUN_DELETED, run=7)
    react_to_events(event_ids=[event_id])
    assert find_reaction(store, event_id) is None
    (letter,) = log.read(DEAD_LETTERS, partition=0, offset=0, max_records=10)
    assert dict(letter.headers)["code"] == b"validation_error"


@pytest.mark.usefixtures("stopped")
def test_a_worker_that_stops_leaves_the_rest_for_later(store: Store, note: Note):
    event_id = note(outbox.RUN_DELETED, run_id="run")
    react_to_events(event_ids=[event_id])
    left = find_reaction(store, event_id)
    assert left is not None
    assert left.attempts == 0


told: list[dict[str, Any]] = []


def remember(event: dict[str, Any]) -> None:
    told.append(event)


@pytest.mark.usefixtures("blob_runtime")
def test_notifiers_are_told(note: Note, settings: Any):
    told.clear()
    settings.MATYAN_NOTIFIERS = ["tests.workers.test_reactions.remember"]
    from workers.reactions import types_with_reaction

    assert outbox.TAG_DELETED in types_with_reaction()
    event_id = note(outbox.TAG_DELETED, tag_id="t")
    react_to_events(event_ids=[event_id])
    assert [event["payload"] for event in told] == [{"tag_id": "t"}]


def test_without_notifiers_only_what_needs_work_is_a_task(settings: Any):
    from workers.reactions import types_with_reaction

    settings.MATYAN_NOTIFIERS = []
    assert types_with_reaction() == {outbox.RUN_DELETED, outbox.ARTIFACT_REPLACED}

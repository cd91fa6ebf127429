"""Notes on runs and experiments.

Design note: docs/subsystems/metadata.md#notes
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

from backend.domain.entities import Note
from backend.services.texts import check_text
from backend.storage.engine.base import ReadTransaction, Transaction
from backend.storage.repositories.notes import MAX_NOTE_BYTES, RUN

if TYPE_CHECKING:
    from backend.storage.factory import Store


def list_notes(store: Store, *, owner_kind: str, owner_id: str) -> list[Note]:
    """Return the notes of a run or experiment, oldest first.

    Raises:
        RunNotFoundError, ExperimentNotFoundError: If there is no such owner.
    """

    def read(tr: ReadTransaction) -> list[Note]:
        _check_owner(tr, store, owner_kind, owner_id)
        return store.notes.list_all(tr, owner_kind=owner_kind, owner_id=owner_id)

    return store.engine.read(read)


def get_note(store: Store, *, owner_kind: str, owner_id: str, note_id: str) -> Note:
    """Return a note of this run or experiment.

    Raises:
        RunNotFoundError, ExperimentNotFoundError: If there is no such owner.
        NoteNotFoundError: If the note is not theirs.
    """

    def read(tr: ReadTransaction) -> Note:
        _check_owner(tr, store, owner_kind, owner_id)
        return store.notes.get(
            tr, owner_kind=owner_kind, owner_id=owner_id, note_id=note_id
        )

    return store.engine.read(read)


def create_note(
    store: Store, *, owner_kind: str, owner_id: str, content: str, now_us: int
) -> Note:
    """Attach a note, its text trimmed.

    Raises:
        RunNotFoundError, ExperimentNotFoundError: If there is no such owner.
        LimitExceededError: If the text is too long.
    """
    note = Note(
        note_id=str(uuid4()),
        owner_kind=owner_kind,
        owner_id=owner_id,
        content=_checked(content),
        created_us=now_us,
        updated_us=now_us,
    )

    def write(tr: Transaction) -> Note:
        _check_owner(tr, store, owner_kind, owner_id)
        store.notes.put(tr, note)
        return note

    return store.engine.transact(write)


def update_note(  # noqa: PLR0913 - a note is named by its owner and its id
    store: Store,
    *,
    owner_kind: str,
    owner_id: str,
    note_id: str,
    content: str,
    now_us: int,
) -> Note:
    """Replace a note's text.

    Raises:
        NoteNotFoundError: If the owner has no such note.
        LimitExceededError: If the text is too long.
    """
    text = _checked(content)

    def write(tr: Transaction) -> Note:
        old = store.notes.get(
            tr, owner_kind=owner_kind, owner_id=owner_id, note_id=note_id
        )
        new = replace(old, content=text, updated_us=now_us)
        store.notes.put(tr, new)
        return new

    return store.engine.transact(write)


def delete_note(store: Store, *, owner_kind: str, owner_id: str, note_id: str) -> None:
    """Remove a note.

    Raises:
        NoteNotFoundError: If the owner has no such note.
    """
    note = get_note(store, owner_kind=owner_kind, owner_id=owner_id, note_id=note_id)
    store.engine.transact(lambda tr: store.notes.delete(tr, note))


def _checked(content: str) -> str:
    return check_text(content.strip(), field="content", max_bytes=MAX_NOTE_BYTES)


def _check_owner(
    tr: ReadTransaction, store: Store, owner_kind: str, owner_id: str
) -> None:
    if owner_kind == RUN:
        store.runs.get(tr, owner_id)
    else:
        store.experiments.get(tr, owner_id)

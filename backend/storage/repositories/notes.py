"""Note repository: texts on a run or an experiment.

Keys:   NOTE (owner kind, owner id, note id) -> record
Limits: a note has at most `MAX_NOTE_BYTES` of text.

Design note: docs/subsystems/metadata.md#notes
"""

from __future__ import annotations

from typing import Final

from backend.domain.entities import Note
from backend.errors import LimitExceededError, NoteNotFoundError
from backend.storage import indexes
from backend.storage.codecs.records import decode_note, encode_note
from backend.storage.engine.base import ReadTransaction, Transaction
from backend.storage.keyspace import note_range, pack_note, unpack_note

RUN: Final = "run"
EXPERIMENT: Final = "experiment"
MAX_NOTE_BYTES: Final = 90_000


class NoteRepository:
    """Notes, always reached through their owner."""

    def list_all(
        self, tr: ReadTransaction, *, owner_kind: str, owner_id: str
    ) -> list[Note]:
        """Return the owner's notes, oldest first, in one range read."""
        rows = tr.get_range(*note_range(owner_kind, owner_id), snapshot=True)
        found = [
            decode_note(value, owner=unpack_note(key), key=key) for key, value in rows
        ]
        found.sort(key=lambda note: (note.created_us, note.note_id))
        return found

    def count(self, tr: ReadTransaction, *, owner_kind: str, owner_id: str) -> int:
        """Return how many notes the owner has."""
        return len(tr.get_range(*note_range(owner_kind, owner_id), snapshot=True))

    def get(
        self, tr: ReadTransaction, *, owner_kind: str, owner_id: str, note_id: str
    ) -> Note:
        """Return a note of this owner.

        Raises:
            NoteNotFoundError: If the owner has no such note.
        """
        if indexes.is_entity_id(note_id):
            key = pack_note(owner_kind, owner_id, note_id)
            value = tr.get(key)
            if value is not None:
                return decode_note(
                    value, owner=(owner_kind, owner_id, note_id), key=key
                )
        raise NoteNotFoundError(note_id=note_id)

    def put(self, tr: Transaction, note: Note) -> None:
        """Store a note, new or changed.

        Raises:
            LimitExceededError: If its text is too long.
        """
        size = len(note.content.encode())
        if size > MAX_NOTE_BYTES:
            raise LimitExceededError(what="note", size=size, limit=MAX_NOTE_BYTES)
        key = pack_note(note.owner_kind, note.owner_id, note.note_id)
        tr.set(key, encode_note(note))

    def delete(self, tr: Transaction, note: Note) -> None:
        """Remove a note."""
        tr.clear(pack_note(note.owner_kind, note.owner_id, note.note_id))

    def delete_all(self, tr: Transaction, *, owner_kind: str, owner_id: str) -> None:
        """Remove every note of an owner that is being deleted."""
        tr.clear_range(*note_range(owner_kind, owner_id))

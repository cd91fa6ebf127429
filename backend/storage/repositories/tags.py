"""Tag repository: records by id, and their unique names.

Keys:   TAG (id) -> record; TAG_NAME (hash of the name) -> id
Links:  a run names its tags by id, so renaming moves one key only.

Every method works in the caller's transaction. The name key is read and written with
the record, so two tags never get one name, whoever races.

Design note: docs/subsystems/metadata.md#tags
"""

from __future__ import annotations

from collections.abc import Iterable

from backend.domain.entities import Tag
from backend.errors import NameTakenError, TagNotFoundError
from backend.storage import indexes
from backend.storage.codecs.records import decode_tag, encode_tag
from backend.storage.engine.base import ReadTransaction, Transaction
from backend.storage.keyspace import (
    Subspace,
    pack_tag,
    pack_tag_name,
    subspace_range,
    unpack_tag,
)


class TagRepository:
    """Tags."""

    def list_all(self, tr: ReadTransaction) -> list[Tag]:
        """Return every tag, ordered by name."""
        rows = tr.get_range(*subspace_range(Subspace.TAG), snapshot=True)
        found = [
            decode_tag(value, tag_id=unpack_tag(key), key=key) for key, value in rows
        ]
        found.sort(key=lambda tag: (tag.name.casefold(), tag.name))
        return found

    def find(self, tr: ReadTransaction, tag_id: str) -> Tag | None:
        """Return the tag, or None."""
        if not indexes.is_entity_id(tag_id):
            return None
        key = pack_tag(tag_id)
        value = tr.get(key)
        return None if value is None else decode_tag(value, tag_id=tag_id, key=key)

    def get(self, tr: ReadTransaction, tag_id: str) -> Tag:
        """Return the tag.

        Raises:
            TagNotFoundError: If there is none.
        """
        found = self.find(tr, tag_id)
        if found is None:
            raise TagNotFoundError(tag_id=tag_id)
        return found

    def get_many(self, tr: ReadTransaction, tag_ids: Iterable[str]) -> list[Tag]:
        """Return the tags there are among `tag_ids`, ordered by name, in one read."""
        wanted = list(tag_ids)
        keys = [pack_tag(tag_id) for tag_id in wanted]
        found = [
            decode_tag(value, tag_id=tag_id, key=key)
            for tag_id, key, value in zip(
                wanted, keys, tr.get_many(keys, snapshot=True), strict=True
            )
            if value is not None
        ]
        found.sort(key=lambda tag: (tag.name.casefold(), tag.name))
        return found

    def find_by_name(self, tr: ReadTransaction, name: str) -> Tag | None:
        """Return the tag of this exact name, or None."""
        tag_id = tr.get(pack_tag_name(name))
        return None if tag_id is None else self.find(tr, tag_id.decode())

    def create(self, tr: Transaction, tag: Tag) -> None:
        """Store a new tag.

        Raises:
            NameTakenError: If another has its name.
        """
        self._claim_name(tr, tag)
        tr.set(pack_tag(tag.tag_id), encode_tag(tag))

    def save(self, tr: Transaction, old: Tag, new: Tag) -> None:
        """Store a changed tag; a new name frees the old one.

        Raises:
            NameTakenError: If another has the new name.
        """
        if new.name != old.name:
            self._claim_name(tr, new)
            tr.clear(pack_tag_name(old.name))
        tr.set(pack_tag(new.tag_id), encode_tag(new))

    def delete(self, tr: Transaction, tag: Tag) -> None:
        """Remove the tag; taking it off its runs is the service's work."""
        tr.clear(pack_tag(tag.tag_id))
        tr.clear(pack_tag_name(tag.name))

    def run_counts(self, tr: ReadTransaction, tag_ids: Iterable[str]) -> dict[str, int]:
        """Return how many runs each has, counted from the index in one round trip."""
        wanted = list(tag_ids)
        counts = indexes.count_runs(tr, [indexes.tag_term(tag_id) for tag_id in wanted])
        return dict(zip(wanted, counts, strict=True))

    def _claim_name(self, tr: Transaction, tag: Tag) -> None:
        key = pack_tag_name(tag.name)
        owner = tr.get(key)
        if owner is not None and owner.decode() != tag.tag_id:
            raise NameTakenError(kind="tag", name=tag.name)
        tr.set(key, tag.tag_id.encode())

"""Tags: create, change, delete, attach to runs and detach.

Names are unique. Deleting a tag takes it off its runs.

Design note: docs/subsystems/metadata.md#tags
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from backend.domain.entities import Tag
from backend.domain.runs import Run
from backend.services.links import unlink_runs
from backend.services.outbox import TAG_DELETED, append_event
from backend.services.texts import check_name, check_text
from backend.storage import indexes
from backend.storage.engine.base import ReadTransaction, Transaction
from matyan_wire.limits import MAX_DESCRIPTION_BYTES, MAX_TAG_NAME_BYTES

if TYPE_CHECKING:
    from backend.storage.factory import Store

MAX_COLOR_BYTES: Final = 64


def ensure_tag(tr: Transaction, store: Store, *, name: str, now_us: int) -> Tag:
    """Return the tag of this name, created in the transaction if missing.

    Raises:
        InvalidInputError: If the name cannot be one.
    """
    checked = checked_tag_name(name)
    found = store.tags.find_by_name(tr, checked)
    if found is not None:
        return found
    tag = Tag(str(uuid4()), checked, created_us=now_us)
    store.tags.create(tr, tag)
    return tag


def checked_tag_name(name: str) -> str:
    """Return the name as a tag would have it.

    Raises:
        InvalidInputError: If it cannot be one.
    """
    return check_name(name, field="tag_name", max_bytes=MAX_TAG_NAME_BYTES)


def create_tag(
    store: Store, *, name: str, color: str = "", description: str = "", now_us: int
) -> Tag:
    """Create a tag.

    Raises:
        NameTakenError: If there is one of this name.
        InvalidInputError: If the name is empty.
        LimitExceededError: If a text is too long.
    """
    tag = Tag(
        tag_id=str(uuid4()),
        name=check_name(name, field="name", max_bytes=MAX_TAG_NAME_BYTES),
        color=check_text(color, field="color", max_bytes=MAX_COLOR_BYTES),
        description=_checked_description(description),
        created_us=now_us,
    )
    store.engine.transact(lambda tr: store.tags.create(tr, tag))
    return tag


def update_tag(  # noqa: PLR0913 - every property can be given
    store: Store,
    *,
    tag_id: str,
    name: str | None = None,
    color: str | None = None,
    description: str | None = None,
    archived: bool | None = None,
) -> Tag:
    """Change what is not None; an empty name counts as None, runs stay tagged.

    Raises:
        TagNotFoundError: If there is none.
        NameTakenError: If another has the new name.
    """
    if name is not None and name.strip():
        name = check_name(name, field="name", max_bytes=MAX_TAG_NAME_BYTES)
    if color is not None:
        check_text(color, field="color", max_bytes=MAX_COLOR_BYTES)
    if description is not None:
        _checked_description(description)

    def change(tr: Transaction) -> Tag:
        old = store.tags.get(tr, tag_id)
        new = replace(
            old,
            name=(name or "").strip() or old.name,
            color=old.color if color is None else color,
            description=old.description if description is None else description,
            archived=old.archived if archived is None else archived,
        )
        store.tags.save(tr, old, new)
        return new

    return store.engine.transact(change)


def delete_tag(store: Store, *, tag_id: str, now_us: int) -> None:
    """Take the tag off its runs, then remove it.

    Raises:
        TagNotFoundError: If there is none.
    """
    store.engine.read(lambda tr: store.tags.get(tr, tag_id))

    def remove(tr: Transaction) -> None:
        tag = store.tags.find(tr, tag_id)
        if tag is None:
            return
        store.tags.delete(tr, tag)
        append_event(
            tr,
            kind=TAG_DELETED,
            entity_id=tag_id,
            payload={"tag_id": tag_id},
            now_us=now_us,
        )

    unlink_runs(
        store,
        indexes.tag_term(tag_id),
        unlink=lambda run: without_tag(run, tag_id),
        remove=remove,
    )


def add_tag(store: Store, *, run_id: str, tag_name: str, now_us: int) -> Tag:
    """Attach a tag by name, created if missing, and return it.

    Raises:
        RunNotFoundError: If there is no such run.
        InvalidInputError: If the name is empty.
        LimitExceededError: If the name is too long, or the run has too many tags.
    """

    def change(tr: Transaction) -> Tag:
        run = store.runs.get(tr, run_id)
        tag = ensure_tag(tr, store, name=tag_name, now_us=now_us)
        store.runs.save(tr, run, with_tag(run, tag.tag_id))
        return tag

    return store.engine.transact(change)


def remove_tag(store: Store, *, run_id: str, tag_id: str) -> None:
    """Detach a tag; one that is not attached changes nothing.

    Raises:
        RunNotFoundError: If there is no such run.
    """

    def change(tr: Transaction) -> None:
        run = store.runs.get(tr, run_id)
        store.runs.save(tr, run, without_tag(run, tag_id))

    store.engine.transact(change)


def with_tag(run: Run, tag_id: str) -> Run:
    """Return the run with the tag attached."""
    return replace(run, tag_ids=tuple(sorted({*run.tag_ids, tag_id})))


def without_tag(run: Run, tag_id: str) -> Run:
    """Return the run without the tag."""
    return replace(run, tag_ids=tuple(t for t in run.tag_ids if t != tag_id))


def list_tags(store: Store) -> list[tuple[Tag, int]]:
    """Return every tag with its number of runs, ordered by name."""

    def read(tr: ReadTransaction) -> list[tuple[Tag, int]]:
        found = store.tags.list_all(tr)
        counts = store.tags.run_counts(tr, [tag.tag_id for tag in found])
        return [(tag, counts[tag.tag_id]) for tag in found]

    return store.engine.read(read)


def get_tag(store: Store, *, tag_id: str) -> tuple[Tag, int]:
    """Return a tag with its number of runs.

    Raises:
        TagNotFoundError: If there is none.
    """

    def read(tr: ReadTransaction) -> tuple[Tag, int]:
        found = store.tags.get(tr, tag_id)
        return found, store.tags.run_counts(tr, [tag_id])[tag_id]

    return store.engine.read(read)


def _checked_description(description: str) -> str:
    return check_text(description, field="description", max_bytes=MAX_DESCRIPTION_BYTES)

"""What the web interface keeps: pinned sequences, dashboards, apps, reports.

A dashboard shows an app. The bookmarks page fails as a whole on a dashboard whose app
is missing, so deleting an app deletes its dashboards, and dashboards without an app are
not listed.

Design note: docs/subsystems/metadata.md#documents
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from backend.errors import InvalidInputError
from backend.storage.engine.base import ReadTransaction, Transaction
from backend.storage.repositories.documents import (
    APPS,
    DASHBOARDS,
    PINNED_SEQUENCES,
    REPORTS,
)

if TYPE_CHECKING:
    from backend.storage.factory import Store

PINNED_ID: Final = "pinned"

FIELDS: Final[Mapping[str, frozenset[str]]] = {
    DASHBOARDS: frozenset({"name", "description", "app_id"}),
    APPS: frozenset({"type", "state"}),
    REPORTS: frozenset({"name", "code", "description"}),
}
"""What a document of each collection may say; ids and times are ours."""


@dataclass(frozen=True, slots=True)
class Document:
    """A dashboard, an app or a report.

    Attributes:
        document_id: UUID text.
        created_us: Server's clock.
        updated_us: Server's clock, at the last change.
        fields: What the user set, keys from `FIELDS`.
    """

    document_id: str
    created_us: int
    updated_us: int
    fields: dict[str, Any]


def list_documents(store: Store, *, collection: str) -> list[Document]:
    """Return a collection's documents, newest first; dashboards only with their app."""

    def read(tr: ReadTransaction) -> list[Document]:
        found = [
            _decode(document_id, raw)
            for document_id, raw in store.documents.list_all(tr, collection).items()
        ]
        if collection != DASHBOARDS:
            return found
        apps = store.documents.list_all(tr, APPS)
        return [d for d in found if _is_shown(d, apps)]

    return sorted(store.engine.read(read), key=lambda d: (-d.created_us, d.document_id))


def get_document(store: Store, *, collection: str, document_id: str) -> Document:
    """Return a document.

    Raises:
        EntityNotFoundError: If there is none.
    """
    return _decode(
        document_id,
        store.engine.read(lambda tr: store.documents.get(tr, collection, document_id)),
    )


def create_document(
    store: Store, *, collection: str, fields: Mapping[str, Any], now_us: int
) -> Document:
    """Create a document.

    Raises:
        InvalidInputError: If it has a field it may not have.
        EntityNotFoundError: If a dashboard names an app that is not there.
        LimitExceededError: If it is too large.
    """
    _check_fields(collection, fields)
    document = Document(str(uuid4()), now_us, now_us, dict(fields))

    def write(tr: Transaction) -> Document:
        app_id = fields.get("app_id")
        if collection == DASHBOARDS and app_id:
            store.documents.get(tr, APPS, app_id)
        _put(tr, store, collection, document)
        return document

    return store.engine.transact(write)


def update_document(
    store: Store,
    *,
    collection: str,
    document_id: str,
    fields: Mapping[str, Any],
    now_us: int,
) -> Document:
    """Change the given fields, keeping the others.

    Raises:
        EntityNotFoundError: If there is none.
        InvalidInputError: If it gets a field it may not have.
        LimitExceededError: If it becomes too large.
    """
    _check_fields(collection, fields)

    def write(tr: Transaction) -> Document:
        old = _decode(document_id, store.documents.get(tr, collection, document_id))
        new = Document(
            document_id, old.created_us, now_us, {**old.fields, **dict(fields)}
        )
        _put(tr, store, collection, new)
        return new

    return store.engine.transact(write)


def delete_document(store: Store, *, collection: str, document_id: str) -> None:
    """Remove a document; an app takes its dashboards with it.

    Raises:
        EntityNotFoundError: If there is none.
    """
    get_document(store, collection=collection, document_id=document_id)

    def write(tr: Transaction) -> None:
        store.documents.delete(tr, collection, document_id)
        if collection != APPS:
            return
        for dashboard_id, raw in store.documents.list_all(tr, DASHBOARDS).items():
            if _decode(dashboard_id, raw).fields.get("app_id") == document_id:
                store.documents.delete(tr, DASHBOARDS, dashboard_id)

    store.engine.transact(write)


def get_pinned_sequences(store: Store) -> list[Any]:
    """Return the pinned sequences as they were stored, an empty list at first."""
    found = store.engine.read(
        lambda tr: store.documents.find(tr, PINNED_SEQUENCES, PINNED_ID)
    )
    return [] if found is None else list(found["sequences"])


def set_pinned_sequences(store: Store, *, sequences: list[Any]) -> list[Any]:
    """Replace the pinned sequences.

    Raises:
        LimitExceededError: If they are too large.
    """
    document = {"sequences": sequences}
    store.engine.transact(
        lambda tr: store.documents.put(tr, PINNED_SEQUENCES, PINNED_ID, document)
    )
    return sequences


def _check_fields(collection: str, fields: Mapping[str, Any]) -> None:
    unknown = fields.keys() - FIELDS[collection]
    if unknown:
        raise InvalidInputError(field=min(unknown), reason="unknown field")


def _is_shown(dashboard: Document, apps: Mapping[str, Any]) -> bool:
    return dashboard.fields.get("app_id") in apps


def _put(tr: Transaction, store: Store, collection: str, document: Document) -> None:
    raw = {
        "created_us": document.created_us,
        "updated_us": document.updated_us,
        "fields": document.fields,
    }
    store.documents.put(tr, collection, document.document_id, raw)


def _decode(document_id: str, raw: Mapping[str, Any]) -> Document:
    return Document(document_id, raw["created_us"], raw["updated_us"], raw["fields"])

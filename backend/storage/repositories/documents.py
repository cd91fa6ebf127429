"""Document repository: what the web interface keeps, as JSON-like dicts.

Keys:   DOCUMENT (collection, id, part) -> parts of the encoded document
Limits: `MAX_DOCUMENT_BYTES`; parts of at most 90 kB.

Collections are constants here: pinned sequences, dashboards, apps, reports.

Design note: docs/subsystems/metadata.md#documents
"""

from __future__ import annotations

from itertools import groupby
from typing import Any, Final

from backend.errors import EntityNotFoundError, LimitExceededError
from backend.storage import indexes
from backend.storage.codecs.frames import join_parts, split_parts
from backend.storage.codecs.trees import decode_tree, encode_tree
from backend.storage.engine.base import ReadTransaction, Transaction
from backend.storage.keyspace import (
    document_range,
    pack_document,
    unpack_document,
)

PINNED_SEQUENCES: Final = "pinned_sequences"
DASHBOARDS: Final = "dashboards"
APPS: Final = "apps"
REPORTS: Final = "reports"

MAX_DOCUMENT_BYTES: Final = 4 * 1024 * 1024


class DocumentRepository:
    """Documents in named collections."""

    def list_all(
        self, tr: ReadTransaction, collection: str
    ) -> dict[str, dict[str, Any]]:
        """Return the collection's documents by id, in one range read."""
        rows = tr.get_range(*document_range(collection), snapshot=True)
        found = {}
        for document_id, group in groupby(rows, key=lambda r: unpack_document(r[0])[1]):
            parts = list(group)
            value = join_parts([part for _, part in parts])
            found[document_id] = decode_tree(value, key=parts[0][0])
        return found

    def find(
        self, tr: ReadTransaction, collection: str, document_id: str
    ) -> dict[str, Any] | None:
        """Return a document, or None."""
        if not indexes.is_entity_id(document_id):
            return None
        rows = tr.get_range(*document_range(collection, document_id))
        if not rows:
            return None
        return decode_tree(join_parts([value for _, value in rows]), key=rows[0][0])

    def get(
        self, tr: ReadTransaction, collection: str, document_id: str
    ) -> dict[str, Any]:
        """Return a document.

        Raises:
            EntityNotFoundError: If there is none.
        """
        found = self.find(tr, collection, document_id)
        if found is None:
            raise EntityNotFoundError(kind=collection, id=document_id)
        return found

    def put(
        self,
        tr: Transaction,
        collection: str,
        document_id: str,
        document: dict[str, Any],
    ) -> None:
        """Store a document, new or changed.

        Raises:
            LimitExceededError: If it is too large or too deep.
        """
        value = encode_tree(document)
        if len(value) > MAX_DOCUMENT_BYTES:
            raise LimitExceededError(
                what=collection, size=len(value), limit=MAX_DOCUMENT_BYTES
            )
        tr.clear_range(*document_range(collection, document_id))
        for part, piece in enumerate(split_parts(value)):
            tr.set(pack_document(collection, document_id, part), piece)

    def delete(self, tr: Transaction, collection: str, document_id: str) -> None:
        """Remove a document if it exists."""
        tr.clear_range(*document_range(collection, document_id))

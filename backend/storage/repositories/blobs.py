"""Blob repository: which uploads a path of a run has had, and who refers to it.

Keys:   BLOB (run number, digest of the path) -> record

Limits: a record keeps `MAX_ENTRIES` grants and as many claims, under 90 kB.

Design note: docs/subsystems/blobs.md#versions
"""

from __future__ import annotations

from collections.abc import Iterable

from backend.domain.blobs import BlobHistory, path_digest
from backend.storage.codecs.records import decode_blob_history, encode_blob_history
from backend.storage.engine.base import ReadTransaction, Transaction
from backend.storage.keyspace import Subspace, pack_blob, run_range


class BlobRepository:
    """Uploads of runs' paths."""

    def find(
        self, tr: ReadTransaction, run_number: int, path: str
    ) -> BlobHistory | None:
        """Return the uploads of a path, or None if there never was one."""
        return self.find_by_digest(tr, run_number, path_digest(path))

    def find_by_digest(
        self, tr: ReadTransaction, run_number: int, digest: bytes
    ) -> BlobHistory | None:
        """Return the uploads of the path of this digest, or None."""
        key = pack_blob(run_number, digest)
        value = tr.get(key)
        return None if value is None else decode_blob_history(value, key=key)

    def find_many(
        self, tr: ReadTransaction, run_number: int, paths: Iterable[str]
    ) -> dict[str, BlobHistory]:
        """Return the uploads of those of the paths that have any; one round trip."""
        distinct = list(dict.fromkeys(paths))
        keys = [pack_blob(run_number, path_digest(path)) for path in distinct]
        return {
            path: decode_blob_history(value, key=key)
            for path, key, value in zip(distinct, keys, tr.get_many(keys), strict=True)
            if value is not None
        }

    def list_all(self, tr: ReadTransaction, run_number: int) -> list[BlobHistory]:
        """Return the uploads of every path of the run, in one range read."""
        rows = tr.get_range(*run_range(Subspace.BLOB, run_number), snapshot=True)
        return [decode_blob_history(value, key=key) for key, value in rows]

    def put(self, tr: Transaction, run_number: int, history: BlobHistory) -> None:
        """Store the uploads of a path in place of what was stored of it."""
        key = pack_blob(run_number, path_digest(history.path))
        tr.set(key, encode_blob_history(history))

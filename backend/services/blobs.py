"""Blobs of runs: which upload is meant, and reading it.

The store knows which uploads a path has had, the blob store which of them took place;
only here the two meet. No store transaction is open while the blob store is asked.

Design note: docs/subsystems/blobs.md
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from backend.blobs.base import BlobStat, BlobStore, OpenBlob
from backend.blobs.uris import BlobAddress
from backend.domain.blobs import (
    BlobHistory,
    Grant,
    blob_key,
)
from backend.domain.entities import Artifact
from backend.errors import ArtifactNotFoundError, BlobNotFoundError
from backend.storage.engine.base import ReadTransaction
from matyan_wire.blob_paths import normal_blob_path

if TYPE_CHECKING:
    from backend.storage.factory import Store

MAX_TRIED: Final = 16
"""Uploads of a path looked for, newest first, before it counts as missing."""


@dataclass(frozen=True, slots=True)
class StoredArtifact:
    """An artifact, and where its bytes may be.

    Attributes:
        artifact: As it was logged.
        keys: Keys in the blob store; the first that exists is meant.
    """

    artifact: Artifact
    keys: Sequence[str]


def get_artifact(store: Store, *, run_id: str, path: str) -> StoredArtifact:
    """Return an artifact of a run.

    Raises:
        RunNotFoundError: If there is no such run.
        ArtifactNotFoundError: If it has no artifact of this path.
    """

    def find(tr: ReadTransaction) -> StoredArtifact:
        run = store.runs.get(tr, run_id)
        try:
            artifact = store.artifacts.get(tr, run.number, normal_blob_path(path))
        except ValueError:
            raise ArtifactNotFoundError(run_id=run_id, path=path) from None
        history = store.blobs.find(tr, run.number, artifact.path)
        return _stored(run_id, artifact, history)

    return store.engine.read(find)


def list_artifacts(store: Store, *, run_id: str) -> list[StoredArtifact]:
    """Return a run's artifacts by path, without pictures and sounds of series.

    Raises:
        RunNotFoundError: If there is no such run.
    """

    def find(tr: ReadTransaction) -> list[StoredArtifact]:
        run = store.runs.get(tr, run_id)
        artifacts = store.artifacts.list_all(tr, run.number)
        histories = store.blobs.find_many(
            tr, run.number, (artifact.path for artifact in artifacts)
        )
        return [
            _stored(run_id, artifact, histories.get(artifact.path))
            for artifact in artifacts
        ]

    return store.engine.read(find)


def open_artifact(blobs: BlobStore, stored: StoredArtifact) -> OpenBlob:
    """Open an artifact.

    Raises:
        ArtifactNotFoundError: If no upload of it has arrived.
        BlobStoreError: If the blob store fails.
    """
    opened = open_first(blobs, stored.keys)
    if opened is None:
        raise ArtifactNotFoundError(path=stored.artifact.path, reason="not uploaded")
    return opened


def stat_artifact(blobs: BlobStore, stored: StoredArtifact) -> tuple[str, BlobStat]:
    """Return the key and what is known of the upload that is meant.

    Raises:
        ArtifactNotFoundError: If no upload of it has arrived.
        BlobStoreError: If the blob store fails.
    """
    for key in stored.keys:
        stat = blobs.stat(key)
        if stat is not None:
            return key, stat
    raise ArtifactNotFoundError(path=stored.artifact.path, reason="not uploaded")


def find_object_keys(
    store: Store, addresses: Iterable[BlobAddress]
) -> dict[BlobAddress, list[str]]:
    """Return where objects' bytes may be: keys, the first that exists is meant.

    Addresses of deleted runs, and of uploads nobody has asked for, have no keys. A
    fixed number of reads for each run.
    """
    by_run: dict[str, list[BlobAddress]] = {}
    for address in addresses:
        by_run.setdefault(address.run_id, []).append(address)
    found: dict[BlobAddress, list[str]] = {}
    for run_id, wanted in by_run.items():
        histories = store.engine.read(_histories_reader(store, run_id, wanted))
        for address in wanted:
            history = histories.get(address.path)
            grants = (
                history.uploads_of(address.series_number, address.step)
                if history is not None
                else []
            )
            found[address] = _keys(run_id, address.path, grants)
    return found


def open_first(blobs: BlobStore, keys: Iterable[str]) -> OpenBlob | None:
    """Open the first of the keys that exists, None if none does.

    Raises:
        BlobStoreError: If the blob store fails.
    """
    for key in keys:
        try:
            return blobs.open(key)
        except BlobNotFoundError:
            continue
    return None


def _histories_reader(
    store: Store, run_id: str, wanted: list[BlobAddress]
) -> Callable[[ReadTransaction], dict[str, BlobHistory]]:
    def read(tr: ReadTransaction) -> dict[str, BlobHistory]:
        run = store.runs.find(tr, run_id)
        if run is None:
            return {}
        return store.blobs.find_many(tr, run.number, (one.path for one in wanted))

    return read


def _stored(
    run_id: str, artifact: Artifact, history: BlobHistory | None
) -> StoredArtifact:
    grants = history.uploads() if history is not None else []
    return StoredArtifact(artifact, _keys(run_id, artifact.path, grants))


def _keys(run_id: str, path: str, grants: Sequence[Grant]) -> list[str]:
    return [blob_key(run_id, path, grant.blob_id) for grant in grants[:MAX_TRIED]]

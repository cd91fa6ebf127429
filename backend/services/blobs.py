"""Blobs of runs: which upload is meant, reading it, clearing away what nobody needs.

The store knows which uploads a path has had, the blob store which of them took place;
only here the two meet. No store transaction is open while the blob store is asked.

Design note: docs/subsystems/blobs.md
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from backend.blobs.base import DELETE_BATCH, BlobEntry, BlobStat, BlobStore, OpenBlob
from backend.blobs.uris import BlobAddress
from backend.domain.blobs import (
    BlobHistory,
    Grant,
    blob_key,
    blob_time_us,
    split_blob_key,
)
from backend.domain.entities import Artifact
from backend.errors import ArtifactNotFoundError, BlobNotFoundError
from backend.storage.engine.base import ReadTransaction, Transaction
from matyan_wire.blob_paths import normal_blob_path

if TYPE_CHECKING:
    from backend.storage.factory import Store

MAX_TRIED: Final = 16
"""Uploads of a path looked for, newest first, before it counts as missing."""

GRACE_US: Final = 48 * 3_600_000_000
"""Uploads younger than this may still be under way, whatever is known of them."""

_SWEEP_BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class StoredArtifact:
    """An artifact, and where its bytes may be.

    Attributes:
        artifact: As it was logged.
        keys: Keys in the blob store; the first that exists is meant.
    """

    artifact: Artifact
    keys: Sequence[str]


# --- reading -------------------------------------------------------------------------


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


def open_artifact(
    blobs: BlobStore, stored: StoredArtifact, *, start: int = 0, stop: int | None = None
) -> OpenBlob:
    """Open an artifact, or the bytes start <= i < stop of it.

    Raises:
        ArtifactNotFoundError: If no upload of it has arrived.
        BlobStoreError: If the blob store fails.
    """
    opened = open_first(blobs, stored.keys, start=start, stop=stop)
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


def open_first(
    blobs: BlobStore, keys: Iterable[str], *, start: int = 0, stop: int | None = None
) -> OpenBlob | None:
    """Open the first of the keys that exists, None if none does.

    Raises:
        BlobStoreError: If the blob store fails.
    """
    for key in keys:
        try:
            return blobs.open(key, start=start, stop=stop)
        except BlobNotFoundError:
            continue
    return None


# --- clearing away -------------------------------------------------------------------


def delete_run_blobs(
    blobs: BlobStore, *, run_id: str, deleted_us: int, max_blobs: int = DELETE_BATCH
) -> int:
    """Remove uploads of a deleted run; return how many. Call again until 0.

    Uploads allowed after the deletion are those of a run that has its id now.

    Raises:
        BlobStoreError: If the blob store fails; call again.
    """
    return blobs.delete_prefix(
        f"{run_id}/",
        max_blobs=max_blobs,
        condemned=lambda key: _granted_us(key) <= deleted_us,
    )


def prune_uploads(
    store: Store, blobs: BlobStore, *, run_id: str, run_number: int, path: str
) -> int:
    """Remove the uploads of a path that a newer one has replaced; return how many.

    The newest that exists stays, and those granted after it. Nothing is removed where
    series share the path. May be repeated.

    Raises:
        BlobStoreError: If the blob store fails; call again.
    """
    history = store.engine.read(lambda tr: store.blobs.find(tr, run_number, path))
    if history is None or any(history.is_shared(c.step) for c in history.claims):
        return 0
    uploads = history.uploads()
    kept = next(
        (i for i, g in enumerate(uploads) if _exists(blobs, run_id, path, g)),
        len(uploads),
    )
    doomed = uploads[kept + 1 :]
    blobs.delete_many(_keys(run_id, path, doomed, limit=len(doomed)))
    gone = frozenset(grant.blob_id for grant in doomed)
    if gone:
        store.engine.transact(lambda tr: _forget(tr, store, run_number, path, gone))
    return len(gone)


def iter_orphans(
    store: Store, blobs: BlobStore, *, now_us: int, grace_us: int = GRACE_US
) -> Iterator[BlobEntry]:
    """Yield the blobs that no run's path means, older than a grace period.

    What has no key of ours is not yielded: it is not this product's.

    Raises:
        BlobStoreError: If the blob store fails.
    """
    entries = blobs.iter_entries()
    while batch := list(islice(entries, _SWEEP_BATCH)):
        known = store.engine.read(_known_reader(store, [entry.key for entry in batch]))
        for entry in batch:
            split = split_blob_key(entry.key)
            if split is None or entry.key in known:
                continue
            if _granted_us(entry.key) < now_us - grace_us:
                yield entry


def _known_reader(
    store: Store, keys: list[str]
) -> Callable[[ReadTransaction], set[str]]:
    def read(tr: ReadTransaction) -> set[str]:
        splits = {key: split for key in keys if (split := split_blob_key(key))}
        runs = store.runs.find_many(tr, {split[0] for split in splits.values()})
        known = set()
        for key, (run_id, digest, blob_id) in splits.items():
            run = runs.get(run_id)
            history = run and store.blobs.find_by_digest(tr, run.number, digest)
            if history and any(g.blob_id == blob_id for g in history.grants):
                known.add(key)
        return known

    return read


def _histories_reader(
    store: Store, run_id: str, wanted: list[BlobAddress]
) -> Callable[[ReadTransaction], dict[str, BlobHistory]]:
    def read(tr: ReadTransaction) -> dict[str, BlobHistory]:
        run = store.runs.find(tr, run_id)
        if run is None:
            return {}
        return store.blobs.find_many(tr, run.number, (one.path for one in wanted))

    return read


def _forget(
    tr: Transaction, store: Store, run_number: int, path: str, gone: frozenset[str]
) -> None:
    history = store.blobs.find(tr, run_number, path)
    if history is not None:
        store.blobs.put(tr, run_number, history.without(gone))


def _exists(blobs: BlobStore, run_id: str, path: str, grant: Grant) -> bool:
    return blobs.stat(blob_key(run_id, path, grant.blob_id)) is not None


def _stored(
    run_id: str, artifact: Artifact, history: BlobHistory | None
) -> StoredArtifact:
    grants = history.uploads() if history is not None else []
    return StoredArtifact(artifact, _keys(run_id, artifact.path, grants))


def _keys(
    run_id: str, path: str, grants: Sequence[Grant], *, limit: int = MAX_TRIED
) -> list[str]:
    return [blob_key(run_id, path, grant.blob_id) for grant in grants[:limit]]


def _granted_us(key: str) -> int:
    split = split_blob_key(key)
    return 0 if split is None else blob_time_us(split[2])

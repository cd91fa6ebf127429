"""Sweeping the blob store for blobs that no run knows.

They come from uploads that outlived their run, from links used after it was deleted,
and from what was granted and forgotten. A blob is removed when its key is one of ours,
no run of its id has the upload, and it is old enough that the record of its grant has
been applied long ago. Keys of another form are counted and left.

Design note: docs/subsystems/maintenance.md#sweep_blobs
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

from backend.blobs.base import BlobEntry, BlobStore
from backend.domain.blobs import split_blob_key
from backend.services.long_work import Observer, Step, nobody
from backend.storage.engine.base import ReadTransaction

if TYPE_CHECKING:
    from backend.storage.factory import Store

T = TypeVar("T")

BATCH: Final = 500
STALE_UPLOAD_S: Final = 7 * 86_400.0


@dataclass(slots=True)
class SweepReport:
    """What was found.

    Attributes:
        blobs: Blobs looked at.
        orphans: Of these, removed.
        orphan_bytes: Their bytes.
        young: Without a run, and not old enough to be sure.
        foreign: Whose keys are not of our making; left.
        uploads: Uploads in parts given up long ago, removed.
    """

    blobs: int = 0
    orphans: int = 0
    orphan_bytes: int = 0
    young: int = 0
    foreign: int = 0
    uploads: int = 0


def sweep_blobs(
    store: Store,
    blobs: BlobStore,
    *,
    modified_before_us: int,
    dry_run: bool = False,
    on_step: Observer = nobody,
) -> dict[str, Any]:
    """Remove the blobs that no run knows; return a report.

    Stopped, it has removed what it found so far; begun again, it looks at everything
    left. Blobs come in any order, so there is nothing to go on from.

    Args:
        store: Asked who knows a blob.
        blobs: Where they are.
        modified_before_us: Younger blobs are left; what the event log holds that has
            not been applied must be younger.
        dry_run: Only count.
        on_step: Told after each batch.

    Raises:
        BlobStoreError: If the blob store fails.
        StoreError: If the store fails.
    """
    report = SweepReport()
    for batch in _batches(blobs.iter_entries(), BATCH):
        orphans = []
        for entry in _unknown(store, batch, report):
            if entry.modified_us < modified_before_us:
                orphans.append(entry)
            else:
                report.young += 1
        if not dry_run:
            blobs.delete_many(entry.key for entry in orphans)
        report.blobs += len(batch)
        report.orphans += len(orphans)
        report.orphan_bytes += sum(entry.size for entry in orphans)
        on_step(Step(report.blobs, note=f"{report.orphans:,} without a run"))
    if not dry_run:
        report.uploads = blobs.abort_stale(older_than_s=STALE_UPLOAD_S)
    return asdict(report)


def _unknown(
    store: Store, batch: list[BlobEntry], report: SweepReport
) -> list[BlobEntry]:
    """Return the blobs of our making that no run has."""
    named = [(entry, split_blob_key(entry.key)) for entry in batch]
    ours = [(entry, parts) for entry, parts in named if parts is not None]
    report.foreign += len(batch) - len(ours)

    def read(tr: ReadTransaction) -> list[BlobEntry]:
        runs = store.runs.find_many(tr, (run_id for _, (run_id, _, _) in ours))
        known: dict[tuple[int, bytes], frozenset[str]] = {}
        unknown = []
        for entry, (run_id, digest, blob_id) in ours:
            run = runs.get(run_id)
            if run is None:
                unknown.append(entry)
                continue
            place = run.number, digest
            if place not in known:
                history = store.blobs.find_by_digest(tr, *place)
                grants = history.grants if history else ()
                known[place] = frozenset(grant.blob_id for grant in grants)
            if blob_id not in known[place]:
                unknown.append(entry)
        return unknown

    return store.engine.read(read)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch

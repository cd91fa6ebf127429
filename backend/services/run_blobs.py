"""What the ingestion notes of blobs: uploads granted, objects that refer to them.

Everything here may be applied again without changing the result.

Design note: docs/subsystems/blobs.md#versions
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from backend.domain.blobs import BLOB_ID_PATTERN, BlobHistory, blob_key
from backend.domain.entities import Artifact
from backend.domain.runs import Run
from backend.errors import InvalidInputError
from backend.services import outbox
from backend.storage.engine.base import Transaction
from matyan_wire.batch import BlobGrant, BlobRef, decode_payload
from matyan_wire.blob_paths import normal_blob_path, path_of_key

if TYPE_CHECKING:
    from backend.storage.factory import Store

BLOB_KINDS: Final = frozenset({"images", "audios"})
"""Kinds of series whose objects have their bytes in the blob store."""


@dataclass(frozen=True, slots=True)
class ObjectPoint:
    """An object as it is stored."""

    series_number: int
    step: int
    payload: bytes


def note_grant(
    tr: Transaction, store: Store, run: Run, grant: BlobGrant, *, session: int
) -> None:
    """Note that an upload was allowed.

    Raises:
        InvalidInputError: If the grant is not the gateway's making.
    """
    if not BLOB_ID_PATTERN.match(grant.blob_id):
        raise InvalidInputError(field="blob_grant.blob_id", reason="not a blob id")
    path = _checked_path(grant.path)
    history = store.blobs.find(tr, run.number, path) or BlobHistory(path)
    noted = history.with_grant(grant.blob_id, session=session)
    store.blobs.put(tr, run.number, noted)


def note_objects(  # noqa: PLR0913 - what an event's application is told, and two more
    tr: Transaction,
    store: Store,
    run: Run,
    objects: Iterable[ObjectPoint],
    *,
    session: int,
    is_repeated: bool,
) -> None:
    """Note which paths some objects refer to, in the order they were tracked."""
    claims = [
        (path, point) for point in objects for path in iter_paths(run.run_id, point)
    ]
    known = store.blobs.find_many(tr, run.number, (path for path, _ in claims))
    changed: dict[str, BlobHistory] = {}
    for path, point in claims:
        history = changed.get(path) or known.get(path) or BlobHistory(path)
        changed[path] = history.with_claim(
            point.series_number, point.step, session=session, is_repeated=is_repeated
        )
    for history in changed.values():
        store.blobs.put(tr, run.number, history)


def iter_paths(run_id: str, point: ObjectPoint) -> Iterator[str]:
    """Yield the paths of the run that an object, or a list of them, refers to."""
    value = decode_payload(point.payload)
    for item in value if isinstance(value, list) else [value]:
        path = object_path(run_id, item)
        if path is not None:
            yield path


def object_path(run_id: str, value: Any) -> str | None:
    """Return the path of the run that an object's value refers to, None if it none."""
    key = value.get("s3_key") if isinstance(value, dict) else None
    return path_of_key(key, run_id=run_id) if isinstance(key, str) else None


def refer_blob(
    tr: Transaction, store: Store, run: Run, event: BlobRef, received_us: int
) -> Run:
    """List an upload that has arrived as an artifact of the run.

    Which of several uploads it is nobody says, so the newest that exists is meant, and
    a control event has the older ones looked after.
    """
    path = _checked_path(event.path)
    history = store.blobs.find(tr, run.number, path)
    key = event.key
    if history is not None and history.grants:
        key = blob_key(run.run_id, path, history.grants[-1].blob_id)
    artifact = Artifact(path, key, event.content_type, received_us)
    store.artifacts.put(tr, run.number, artifact)
    if history is not None and len(history.grants) > 1:
        outbox.append_event(
            tr,
            kind=outbox.ARTIFACT_REPLACED,
            entity_id=key,
            payload={"run_id": run.run_id, "run_number": run.number, "path": path},
            now_us=received_us,
        )
    return run


def _checked_path(path: str) -> str:
    try:
        return normal_blob_path(path)
    except ValueError as error:
        raise InvalidInputError(field="path", reason=str(error)) from error

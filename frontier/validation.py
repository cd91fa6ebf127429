"""Whether the batch in a binary frame may be stored, checked column by column.

What is checked once here is not checked again behind the gateway: a batch that passes
can be applied. A batch is refused whole, naming the path of what is wrong, because its
writer would only send the same again.

Design note: docs/subsystems/wire.md#binary-frames
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from matyan_wire import batch as wire
from matyan_wire import limits
from matyan_wire.blob_paths import blob_path_problem
from matyan_wire.contexts import is_canonical_context
from matyan_wire.payloads import check_depth

LISTED: Final = frozenset({"images", "audios", "texts"})
"""Kinds of which a step may have a list of objects."""

_KNOWN_SERIES_LIMIT: Final = 100_000
_known_series: set[wire.SeriesRef] = set()
"""Series found valid before: a frame names the same ones again and again."""


class BatchError(ValueError):
    """A batch cannot be stored; the text names the path and what is wrong."""

    def __init__(self, *, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


def validate_batch(batch: wire.Batch, *, run_id: str) -> None:
    """Check `batch`, sent to the connection of `run_id`.

    Raises:
        BatchError: If it cannot be stored.
    """
    if batch.version != wire.BATCH_VERSION:
        reason = f"unknown version {batch.version}; known is {wire.BATCH_VERSION}"
        raise BatchError(path="version", reason=reason)
    if batch.run_id != run_id:
        raise BatchError(path="run_id", reason="is not the run of this connection")
    _check_sent(batch.sent_us)
    _check_position(batch.position)
    for index, ref in enumerate(batch.series):
        _check_series(f"series[{index}]", ref)
    if batch.points is not None:
        _check_points(batch.points, batch.series)
    if batch.objects is not None:
        _check_objects(batch.objects, batch.series)
    for index, event in enumerate(batch.events):
        _check_event(f"events[{index}]", event)


def _check_sent(sent_us: int) -> None:
    if sent_us != wire.UNKNOWN_TIME and abs(sent_us) > limits.MAX_SENT_US:
        reason = f"must be microseconds since the epoch, is {sent_us}"
        raise BatchError(path="sent_us", reason=reason)


def _check_position(position: wire.Position | None) -> None:
    if position is None:
        return
    if not 1 <= len(position.writer) <= limits.MAX_WRITER_CHARS:
        reason = f"must be 1 to {limits.MAX_WRITER_CHARS} characters"
        raise BatchError(path="position.writer", reason=reason)
    lowest = {"epoch": 0, "seq": 1, "part": 0}
    for name, least in lowest.items():
        if not least <= getattr(position, name) < 2**63:
            raise BatchError(path=f"position.{name}", reason=f"must be {least} or more")


def _check_series(path: str, ref: wire.SeriesRef) -> None:
    if ref in _known_series:
        return
    if ref.kind not in wire.KINDS:
        raise BatchError(path=f"{path}.kind", reason=f"unknown kind {ref.kind[:40]!r}")
    _check_text(f"{path}.name", ref.name, limits.MAX_SERIES_NAME_BYTES, least=1)
    _check_text(f"{path}.context", ref.context, limits.MAX_CONTEXT_BYTES)
    if not is_canonical_context(ref.context):
        reason = "is not an object in canonical JSON (sorted keys, no spaces)"
        raise BatchError(path=f"{path}.context", reason=reason)
    if len(_known_series) >= _KNOWN_SERIES_LIMIT:
        _known_series.clear()
    _known_series.add(ref)


def _check_points(points: wire.PointColumns, series: list[wire.SeriesRef]) -> None:
    _check_count("points", points.count)
    _check_columns("points", points, ("steps", "values", "times_us"))
    is_metric = np.array([ref.kind == wire.METRIC for ref in series], dtype=np.bool_)
    _check_kinds("points", points.series, is_metric)


def _check_objects(objects: wire.ObjectColumns, series: list[wire.SeriesRef]) -> None:
    _check_count("objects", objects.count)
    _check_columns("objects", objects, ("steps", "times_us"))
    is_object = np.array([ref.kind != wire.METRIC for ref in series], dtype=np.bool_)
    indexes = _check_kinds("objects", objects.series, is_object)
    if len(objects.payloads) != objects.count:
        reason = f"{len(objects.payloads)} payloads for {objects.count} objects"
        raise BatchError(path="objects.payloads", reason=reason)
    for number, (index, payload) in enumerate(
        zip(indexes.tolist(), objects.payloads, strict=True)
    ):
        kind = series[index].kind
        form = str if kind == "logs" else dict
        _check_payload(
            f"objects.payloads[{number}]", payload, form=form, listed=kind in LISTED
        )


def _check_count(path: str, count: int) -> None:
    if not 0 < count <= limits.MAX_POINTS_PER_BATCH:
        reason = f"must be 1 to {limits.MAX_POINTS_PER_BATCH}, is {count}"
        raise BatchError(path=f"{path}.count", reason=reason)


def _check_columns(path: str, columns: Any, names: tuple[str, ...]) -> None:
    sizes = {"series": 4 * columns.count, **dict.fromkeys(names, 8 * columns.count)}
    if columns.epochs:
        sizes["epochs"] = 8 * columns.count
    for name, size in sizes.items():
        found = len(getattr(columns, name))
        if found != size:
            reason = f"{found} bytes for {columns.count} rows; expected {size}"
            raise BatchError(path=f"{path}.{name}", reason=reason)


def _check_kinds(
    path: str, column: bytes, allowed: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint32]:
    """Check that every index names a series of an allowed kind; return the indexes."""
    indexes = np.frombuffer(column, dtype="<u4")
    top = int(indexes.max())
    if top >= len(allowed):
        reason = f"index {top}; the batch names {len(allowed)} series"
        raise BatchError(path=f"{path}.series", reason=reason)
    fits = allowed[indexes]
    if not fits.all():
        row = int(np.argmin(fits))
        reason = f"row {row} names a series of another kind"
        raise BatchError(path=f"{path}.series", reason=reason)
    return indexes


def _check_payload(  # noqa: PLR0913 - each bound of a payload
    path: str,
    payload: bytes,
    *,
    form: type | None = None,
    listed: bool = False,
    levels: int = limits.MAX_ATTRIBUTE_DEPTH,
    max_bytes: int = limits.MAX_OBJECT_BYTES,
) -> None:
    if len(payload) > max_bytes:
        reason = f"{len(payload)} bytes; the limit is {max_bytes}"
        raise BatchError(path=path, reason=reason)
    try:
        value = wire.decode_payload(payload)
        check_depth(value, levels)
    except (ValueError, RecursionError) as error:
        raise BatchError(path=path, reason=f"not usable: {error}") from error
    items = value if listed and isinstance(value, list) and value else [value]
    if form is not None and not all(isinstance(item, form) for item in items):
        reason = f"expected {form.__name__}, got {type(value).__name__}"
        raise BatchError(path=path, reason=reason)


def _check_event(path: str, event: wire.Event) -> None:
    match event:
        case wire.SetAttributes():
            for number, (keys, payload) in enumerate(event.assignments):
                where = f"{path}.assignments[{number}]"
                _check_path(where, keys)
                _check_payload(
                    where,
                    payload,
                    levels=limits.MAX_ATTRIBUTE_DEPTH - len(keys),
                    max_bytes=limits.MAX_ATTRIBUTES_BYTES,
                )
        case wire.DeleteAttributes():
            for number, keys in enumerate(event.paths):
                _check_path(f"{path}.paths[{number}]", keys)
        case wire.SetProperties():
            _check_properties(path, event)
        case wire.AddTag() | wire.RemoveTag():
            limit = limits.MAX_TAG_NAME_BYTES
            _check_text(f"{path}.name", event.name, limit, least=1)
        case wire.BlobRef():
            _check_blob_ref(path, event)
        case wire.BlobGrant():
            raise BatchError(path=path, reason="is not for writers to send")
        case wire.CreateRun() | wire.FinishRun():
            pass


def _check_path(path: str, keys: list[str]) -> None:
    if not 1 <= len(keys) <= limits.MAX_ATTRIBUTE_DEPTH:
        reason = f"a path has 1 to {limits.MAX_ATTRIBUTE_DEPTH} components"
        raise BatchError(path=path, reason=reason)


def _check_properties(path: str, event: wire.SetProperties) -> None:
    sizes = {
        "name": limits.MAX_ENTITY_NAME_BYTES,
        "description": limits.MAX_DESCRIPTION_BYTES,
        "experiment": limits.MAX_ENTITY_NAME_BYTES,
    }
    for name, limit in sizes.items():
        _check_text(f"{path}.{name}", getattr(event, name) or "", limit)


def _check_blob_ref(path: str, event: wire.BlobRef) -> None:
    problem = blob_path_problem(event.path)
    if problem:
        raise BatchError(path=f"{path}.path", reason=problem)
    _check_text(f"{path}.key", event.key, 2 * limits.MAX_BLOB_PATH_BYTES, least=1)
    _check_text(f"{path}.content_type", event.content_type, 255)


def _check_text(path: str, text: str, limit: int, *, least: int = 0) -> None:
    size = len(text.encode())
    if not least <= size <= limit:
        reason = f"{size} bytes; must be {least} to {limit}"
        raise BatchError(path=path, reason=reason)

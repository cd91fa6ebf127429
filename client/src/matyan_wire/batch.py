"""The columnar batch: what travels from the SDK to the store.

One `Batch` is one WebSocket frame of subprotocol `matyan.v2` and, wrapped in an
`Envelope`, one record of the event log. The JSON protocol is turned into the same
batch at the gateway, so everything behind the gateway knows one format.

Layout: MessagePack arrays (`array_like` structs). Fields are only ever appended, each
with a default; a field's position is never reused. Columns are raw little-endian bytes
(`<u4`, `<i8`, `<f8`), all of the same count, points in the order they were tracked
across all series of the batch. NaN and infinities are ordinary values.

Limits: see `matyan_wire.limits`. Design note: docs/subsystems/wire.md
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

BATCH_VERSION: Final = 1
ENVELOPE_VERSION: Final = 1

AUTO_STEP: Final = -(2**63)
"""In a step column: the store assigns the series' greatest step + 1 (0 first)."""

UNKNOWN_TIME: Final = -(2**63)
"""In a time column: the client sent no time; the gateway's receive time is used."""

METRIC: Final = "metric"
OBJECT_KINDS: Final = (
    "images",
    "texts",
    "distributions",
    "audios",
    "figures",
    "logs",
    "log_records",
)
"""Kinds of series whose values are objects; named as the REST endpoints name them."""

KINDS: Final = (METRIC, *OBJECT_KINDS)


class SeriesRef(msgspec.Struct, array_like=True, frozen=True):
    """A series as the writer names it.

    Attributes:
        kind: One of `KINDS`.
        name: 1 to `limits.MAX_SERIES_NAME_BYTES` UTF-8 bytes.
        context: Canonical JSON object text (sorted keys, no spaces); "{}" for none.
    """

    kind: str
    name: str
    context: str = "{}"


class PointColumns(msgspec.Struct, array_like=True):
    """Metric points as columns, in tracking order.

    Attributes:
        count: Number of points, n.
        series: n × `<u4`, index into `Batch.series`.
        steps: n × `<i8`, or `AUTO_STEP`.
        values: n × `<f8`.
        times_us: n × `<i8`, microseconds since the epoch on the writer's clock, or
            `UNKNOWN_TIME`.
        epochs: n × `<f8`, NaN where the point has none; empty when none has one.
    """

    count: int
    series: bytes
    steps: bytes
    values: bytes
    times_us: bytes
    epochs: bytes = b""


class ObjectColumns(msgspec.Struct, array_like=True):
    """Object points (texts, images, log lines, …): columns plus one payload each.

    The columns are those of `PointColumns` without values; `payloads[i]` is a
    MessagePack value: the object's dict, the log line, or the log record's dict.
    """

    count: int
    series: bytes
    steps: bytes
    times_us: bytes
    payloads: list[bytes]
    epochs: bytes = b""


class CreateRun(msgspec.Struct, array_like=True, tag="create_run"):
    """Create the run, or resume it: never wipes anything.

    `client_time_us` is the writer's clock when the run was opened, or `UNKNOWN_TIME`;
    it also identifies the opening, so that a repeated frame is not a second resume.
    """

    client_time_us: int
    force_resume: bool = False


class FinishRun(msgspec.Struct, array_like=True, tag="finish_run"):
    """Mark the run finished at the writer's clock, or at receipt if unknown."""

    client_time_us: int = UNKNOWN_TIME


class SetAttributes(msgspec.Struct, array_like=True, tag="set_attributes"):
    """Assign attribute subtrees; each replaces what stood at its path, nothing above.

    `assignments` are (path, MessagePack value) pairs, applied in order. A path has at
    least one component.
    """

    assignments: list[tuple[list[str], bytes]]


class DeleteAttributes(msgspec.Struct, array_like=True, tag="delete_attributes"):
    """Remove the attribute subtrees at `paths`; missing ones are ignored."""

    paths: list[list[str]]


class SetProperties(msgspec.Struct, array_like=True, tag="set_properties"):
    """Change run properties; None leaves a property as it is.

    `experiment` is a name; the experiment is created when missing, "" is ignored.
    """

    name: str | None = None
    description: str | None = None
    experiment: str | None = None
    archived: bool | None = None


class AddTag(msgspec.Struct, array_like=True, tag="add_tag"):
    """Attach a tag by name, created when missing."""

    name: str


class RemoveTag(msgspec.Struct, array_like=True, tag="remove_tag"):
    """Detach a tag by name; unknown names are ignored."""

    name: str


class BlobRef(msgspec.Struct, array_like=True, tag="blob_ref"):
    """A blob has been uploaded under `key` for `path` of the run."""

    path: str
    key: str
    content_type: str = "application/octet-stream"


class BlobGrant(msgspec.Struct, array_like=True, tag="blob_grant"):
    """An upload of `path` has been allowed, under an id of its own.

    Published by the gateway alone: writers may not send it.
    """

    path: str
    blob_id: str


Event = (
    CreateRun
    | FinishRun
    | SetAttributes
    | DeleteAttributes
    | SetProperties
    | AddTag
    | RemoveTag
    | BlobRef
    | BlobGrant
)
"""Everything that is not a point. Applied in order, before the batch's points, except
`FinishRun`, which is applied after them."""


class Position(msgspec.Struct, array_like=True, frozen=True, order=True):
    """Where a batch stands in its writer's stream; ordered by (epoch, seq, part).

    Attributes:
        writer: Opaque id of one process writing to one run, 1 to 64 characters.
        epoch: Raised by a writer that takes over or rewinds; older epochs are refused.
        seq: 1, 2, 3, … without gaps within an epoch.
        part: A batch too large for one record is split; parts count from 0.
        last_part: True on the only or last part.
    """

    epoch: int
    seq: int
    part: int = 0
    last_part: bool = True
    writer: str = ""


class Batch(msgspec.Struct, array_like=True):
    """All that one frame says about one run.

    Attributes:
        version: `BATCH_VERSION`.
        run_id: The run; the gateway refuses a batch for another run than the URL's.
        sent_us: Writer's clock when the frame was sent, `UNKNOWN_TIME` if not known.
        position: The writer's position, None for clients that keep none.
        series: The series the columns refer to by index.
        points: Metric points, or None.
        objects: Object points, or None.
        events: Everything else.
    """

    version: int
    run_id: str
    sent_us: int = UNKNOWN_TIME
    position: Position | None = None
    series: list[SeriesRef] = []
    points: PointColumns | None = None
    objects: ObjectColumns | None = None
    events: list[Event] = []


class Envelope(msgspec.Struct, array_like=True):
    """What the gateway publishes: a batch and what only the gateway knows.

    Attributes:
        version: `ENVELOPE_VERSION`.
        received_us: Gateway's clock when the frame arrived, microseconds.
        digest: 16-byte BLAKE2b of the frame for clients without positions (duplicate
            detection), empty otherwise.
        batch: The encoded `Batch`, carried as it came.
    """

    version: int
    received_us: int
    digest: bytes
    batch: msgspec.Raw


_encoder = msgspec.msgpack.Encoder()
_batch_decoder = msgspec.msgpack.Decoder(Batch)
_envelope_decoder = msgspec.msgpack.Decoder(Envelope)


def encode_batch(batch: Batch) -> bytes:
    """Return the wire bytes of `batch`."""
    return _encoder.encode(batch)


def decode_batch(frame: bytes | memoryview) -> Batch:
    """Return the batch in `frame`, its columns still undecoded bytes.

    Raises:
        msgspec.DecodeError: If the bytes are not a batch; the text names the path.
    """
    return _batch_decoder.decode(frame)


def encode_envelope(
    *, received_us: int, digest: bytes, batch: bytes | memoryview
) -> bytes:
    """Return the event-log record value around an encoded batch."""
    return _encoder.encode(
        Envelope(ENVELOPE_VERSION, received_us, digest, msgspec.Raw(batch))
    )


def decode_envelope(value: bytes) -> Envelope:
    """Return the envelope in an event-log record.

    Raises:
        msgspec.DecodeError: If the bytes are not an envelope.
    """
    return _envelope_decoder.decode(value)


def encode_payload(value: Any) -> bytes:
    """Return the MessagePack bytes of an attribute value or an object payload."""
    return _encoder.encode(value)


def decode_payload(payload: bytes) -> Any:
    """Return the value in an attribute or object payload.

    Raises:
        msgspec.DecodeError: If the bytes are not MessagePack.
    """
    return msgspec.msgpack.decode(payload)

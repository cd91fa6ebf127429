"""The two protocols a connection can speak: what a frame says, what it is answered.

`JsonProtocol` is the text protocol of plain clients, `BinaryProtocol` is subprotocol
`matyan.v2`. Both turn a frame into event-log records. Neither raises for anything a
client can send: what is wrong becomes the answer.

`decode` touches nothing but its arguments, so that large frames can be decoded on
another thread.

Design note: docs/subsystems/wire.md
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Final

from typing_extensions import override

from frontier.validation import validate_batch
from matyan_wire import batch as wire
from matyan_wire import frames
from matyan_wire.json_batch import decode_json_frame
from matyan_wire.json_frame import FrameSyntaxError
from matyan_wire.split import Split

DIGEST_BYTES: Final = 16
MAX_ERROR_CHARS: Final = 8_000
"""Of an answer's error text; clients may limit what they receive."""


@dataclass(slots=True)
class Decoded:
    """What to do about a frame.

    Attributes:
        records: Event-log values to publish, in order; may be empty.
        refused: What could not be used, None when everything could.
        seq: The writer's sequence number, where the protocol has one.
        epoch: The writer's epoch.
        counts: Accepted messages by type, for the metrics.
        digest: Of the frame, where the protocol recognises repetitions by it.
    """

    records: list[bytes] = field(default_factory=list)
    refused: str | None = None
    seq: int | None = None
    epoch: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    digest: bytes = b""

    @property
    def size(self) -> int:
        """Bytes of the records."""
        return sum(map(len, self.records))


class FrameProtocol(ABC):
    """How frames and acknowledgements look.

    Attributes:
        name: Label in metrics and logs.
        keeps_frames: Whether clients send a frame again that was not acknowledged
            when the connection ended.
        is_columnar: Whether decoding takes about as long as copying.
    """

    name: ClassVar[str]
    keeps_frames: ClassVar[bool]
    is_columnar: ClassVar[bool]

    def __init__(self, *, run_id: str) -> None:
        self.run_id = run_id

    @abstractmethod
    def size_of(self, frame: bytes) -> int:
        """Return how much memory the frame will take, before it is decoded."""

    @abstractmethod
    def decode(self, frame: bytes, *, received_us: int) -> Decoded:
        """Return what the frame says."""

    @abstractmethod
    def acknowledge(self, decoded: Decoded) -> str:
        """Return the answer to a frame whose records are durable."""

    @abstractmethod
    def give_up(self, decoded: Decoded, reason: str) -> str | None:
        """Return the answer when the records could not be made durable in time.

        None where any answer would be taken as an acknowledgement.
        """

    def wrong_type(self) -> Decoded:
        """Return the refusal of a text frame for a binary one, or vice versa."""
        return Decoded(refused=f"{self.name} frames expected")


class JsonProtocol(FrameProtocol):
    """Text frames; an error answer counts as delivered to the client."""

    name = "json"
    keeps_frames = False
    is_columnar = False
    _OK: Final = '{"status":"ok","error":null}'

    @override
    def size_of(self, frame: bytes) -> int:
        return len(frame)

    @override
    def decode(self, frame: bytes, *, received_us: int) -> Decoded:
        try:
            decoded = decode_json_frame(frame, run_id=self.run_id)
        except FrameSyntaxError as error:
            return Decoded(refused=f"not JSON: {error}")
        refused = decoded.error()
        if decoded.batch is None:
            return Decoded(refused=refused)
        split = Split(decoded.batch)
        digest = frame_digest(frame)
        records = _envelopes(split, digest, received_us=received_us)
        return Decoded(
            digest=digest,
            records=records,
            refused=_joined(refused, split.refused),
            counts=decoded.counts,
        )

    @override
    def acknowledge(self, decoded: Decoded) -> str:
        if decoded.refused is None:
            return self._OK
        error = decoded.refused[:MAX_ERROR_CHARS]
        return json.dumps({"status": "error", "error": error})

    @override
    def give_up(self, decoded: Decoded, reason: str) -> str | None:
        return None


class BinaryProtocol(FrameProtocol):
    """Binary frames with positions; clients keep them until they are acknowledged."""

    name = "binary"
    keeps_frames = True
    is_columnar = True

    @override
    def size_of(self, frame: bytes) -> int:
        try:
            return max(len(frame), frames.content_bytes(frame))
        except frames.FrameError:
            return len(frame)

    @override
    def decode(self, frame: bytes, *, received_us: int) -> Decoded:
        try:
            encoded = frames.decode_frame(frame)
            batch = wire.decode_batch(encoded)
        except (ValueError, RecursionError) as error:
            return Decoded(refused=str(error))
        position = batch.position
        decoded = Decoded(
            seq=position.seq if position else None,
            epoch=position.epoch if position else None,
        )
        try:
            validate_batch(batch, run_id=self.run_id)
            split = Split(batch, encoded=encoded)
        except ValueError as error:
            return replace(decoded, refused=str(error))
        # The position tells repetitions apart; without one the digest has to.
        digest = b"" if position is not None else frame_digest(encoded)
        records = _envelopes(split, digest, received_us=received_us)
        return replace(
            decoded,
            records=records,
            refused=_joined(None, split.refused),
            counts=_counts(batch),
        )

    @override
    def acknowledge(self, decoded: Decoded) -> str:
        if decoded.refused is None:
            answer = {"status": "ok", "seq": decoded.seq, "epoch": decoded.epoch}
            return json.dumps(answer)
        return self._error(decoded, decoded.refused, retry=False)

    @override
    def give_up(self, decoded: Decoded, reason: str) -> str | None:
        return self._error(decoded, reason, retry=True)

    def _error(self, decoded: Decoded, reason: str, *, retry: bool) -> str:
        return json.dumps(
            {
                "status": "error",
                "seq": decoded.seq,
                "epoch": decoded.epoch,
                "error": reason[:MAX_ERROR_CHARS],
                "retry": retry,
            }
        )


def frame_digest(frame: bytes | memoryview) -> bytes:
    """Return what tells a frame from any other."""
    return hashlib.blake2b(frame, digest_size=DIGEST_BYTES).digest()


def part_digest(digest: bytes, part: int) -> bytes:
    """Return the digest of a record of the frame whose digest is `digest`.

    A repeated frame has the same ones; two records of one frame never do, or the
    second would be taken for a repetition of the first.
    """
    return frame_digest(digest + part.to_bytes(4)) if digest and part else digest


def _envelopes(split: Split, digest: bytes, *, received_us: int) -> list[bytes]:
    return [
        wire.encode_envelope(
            received_us=received_us, digest=part_digest(digest, part), batch=record
        )
        for part, record in enumerate(split)
    ]


def _joined(refused: str | None, unsplittable: list[str]) -> str | None:
    named = [f"{name}; too large for one record" for name in unsplittable[:20]]
    return "; ".join([*([refused] if refused else []), *named]) or None


def _counts(batch: wire.Batch) -> dict[str, int]:
    counts: dict[str, int] = {}
    if batch.points is not None:
        counts["log_metric"] = batch.points.count
    if batch.objects is not None:
        counts["log_object"] = batch.objects.count
    for event in batch.events:
        tag = str(event.__struct_config__.tag)
        counts[tag] = counts.get(tag, 0) + 1
    return counts

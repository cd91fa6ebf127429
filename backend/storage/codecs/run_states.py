"""The hot record of a run, and a writer's position, <-> bytes (MessagePack arrays).

Both are read and rewritten by the transaction that stores a batch: they are what makes
a delivery repeated by the event log, by the network or by a retried commit change
nothing. Fields are only ever appended, each with a default.

Design note: docs/subsystems/storage.md#exactly-once
"""

from __future__ import annotations

import secrets
from typing import Final

import msgspec

from backend.storage.codecs.frames import corrupt
from matyan_wire.batch import Position

MAX_DIGESTS: Final = 32
MAX_OPENINGS: Final = 64
MAX_LOGS: Final = 16


class Progress(msgspec.Struct, array_like=True):
    """How much of a batch too large for one transaction is stored.

    Attributes:
        log: The record's log, as in `RunState.offsets`.
        offset: The record's offset.
        points: Metric points stored, from the first.
        objects: Object points stored, from the first.
    """

    log: str
    offset: int
    points: int = 0
    objects: int = 0


class EventProgress(msgspec.Struct, array_like=True):
    """How many events of such a batch are applied, before any of its points.

    Not part of `Progress`, which says of itself that all are: a reader that does not
    know this one begins with the first event again, which does no harm.

    Attributes:
        log: The record's log, as in `RunState.offsets`.
        offset: The record's offset.
        events: Events applied, from the first.
    """

    log: str
    offset: int
    events: int = 0


class RunState(msgspec.Struct, array_like=True):
    """What changes with every batch of a run.

    Attributes:
        next_tail: Number of the next tail block.
        first_tail: Blocks below it are sealed and gone.
        tail_points: Points in the blocks first_tail..next_tail, repeated ones included.
        tail_bytes: Their stored bytes.
        next_series: Number of the next new series.
        offsets: "log_id/topic/partition" -> last applied offset; the newest `MAX_LOGS`.
        digests: Digests of the last frames without a position, newest last.
        line_offset: Added to the steps of terminal lines of writers without a position.
        openings: `CreateRun.client_time_us` of the openings seen, newest last.
        progress: The batch being stored over several transactions, its events applied.
        incarnation: Random, made with the state, so that what a process remembers of a
            run is not taken for a later run of the same number.
        received_us: When the last batch stored was received, server's clock; 0 in
            states written before this was kept.
        events: The batch whose events are being applied over several transactions.
    """

    next_tail: int = 0
    first_tail: int = 0
    tail_points: int = 0
    tail_bytes: int = 0
    next_series: int = 0
    offsets: dict[str, int] = msgspec.field(default_factory=dict)
    digests: list[bytes] = msgspec.field(default_factory=list)
    line_offset: int = 0
    openings: list[int] = msgspec.field(default_factory=list)
    progress: Progress | None = None
    incarnation: int = 0
    received_us: int = 0
    events: EventProgress | None = None

    def note_offset(self, log: str, offset: int) -> None:
        """Record that everything up to `offset` of `log` is applied."""
        self.offsets.pop(log, None)
        self.offsets[log] = offset
        while len(self.offsets) > MAX_LOGS:
            del self.offsets[next(iter(self.offsets))]

    def note_digest(self, digest: bytes) -> None:
        """Remember a frame's digest, forgetting the oldest."""
        if digest:
            self.digests = [*self.digests, digest][-MAX_DIGESTS:]

    def note_opening(self, client_time_us: int) -> None:
        """Remember an opening of the run, forgetting the oldest."""
        self.openings = [*self.openings, client_time_us][-MAX_OPENINGS:]

    @property
    def session(self) -> int:
        """Which opening of the run this is; 0 before the first."""
        return self.openings[-1] if self.openings else 0


class WriterState(msgspec.Struct, array_like=True):
    """Where a writer stands in a run.

    Attributes:
        epoch: Newest epoch seen.
        seq: Last seq applied in it.
        part: Last part of it applied.
        last_part: Whether that was its last.
        durable_epoch: Epoch of the last batch applied whole, 0 before any.
        durable_seq: Its seq.
        durable_part: Its last part.
        line_offset: Added to the steps of the writer's terminal lines.
        next_line: Step after the greatest of the writer's own lines.
    """

    epoch: int
    seq: int
    part: int
    last_part: bool
    durable_epoch: int = 0
    durable_seq: int = 0
    durable_part: int = 0
    line_offset: int = 0
    next_line: int = 0

    def has(self, position: Position) -> bool:
        """Return whether a batch at `position` is applied already, or is stale."""
        return (position.epoch, position.seq, position.part) <= (
            self.epoch,
            self.seq,
            self.part,
        )

    def advance(self, position: Position) -> None:
        """Record that the batch at `position` is applied."""
        self.epoch, self.seq, self.part = position.epoch, position.seq, position.part
        self.last_part = position.last_part
        if position.last_part:
            self.durable_epoch, self.durable_seq = position.epoch, position.seq
            self.durable_part = position.part

    def durable(self, writer: str) -> Position | None:
        """Return the position of the last batch stored whole, None before any."""
        if not self.durable_seq:
            return None
        return Position(
            self.durable_epoch,
            self.durable_seq,
            self.durable_part,
            last_part=True,
            writer=writer,
        )


_encoder: Final = msgspec.msgpack.Encoder()
_run_state_decoder: Final = msgspec.msgpack.Decoder(RunState)
_writer_decoder: Final = msgspec.msgpack.Decoder(WriterState)


def encode_run_state(state: RunState) -> bytes:
    """Return the bytes of a run's state."""
    return _encoder.encode(state)


def decode_run_state(value: bytes | None, *, key: bytes) -> RunState:
    """Return the state in `value`, a fresh one of a new incarnation for None.

    Raises:
        FormatError: If the bytes are not a run's state.
    """
    if value is None:
        return RunState(incarnation=secrets.randbits(62) + 1)
    try:
        return _run_state_decoder.decode(value)
    except msgspec.DecodeError as error:
        raise corrupt(key, str(error)) from error


def encode_writer_state(state: WriterState) -> bytes:
    """Return the bytes of a writer's state."""
    return _encoder.encode(state)


def decode_writer_state(value: bytes | None, *, key: bytes) -> WriterState | None:
    """Return the state in `value`, None for None.

    Raises:
        FormatError: If the bytes are not a writer's state.
    """
    if value is None:
        return None
    try:
        return _writer_decoder.decode(value)
    except msgspec.DecodeError as error:
        raise corrupt(key, str(error)) from error

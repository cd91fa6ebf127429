"""Records of control events still to be acted on <-> bytes (MessagePack arrays).

Fields are only ever appended, each with a default.

Design note: docs/subsystems/control.md
"""

from __future__ import annotations

from typing import Final

import msgspec

from backend.domain.reactions import Reaction
from backend.storage.codecs.frames import corrupt

MAX_REASON_CHARS: Final = 500
VERSION: Final = 1


class _Record(msgspec.Struct, array_like=True):
    version: int
    event_id: str
    event: bytes
    key: bytes
    log_id: str
    topic: str
    partition: int
    offset: int
    noted_us: int
    due_us: int
    sent: int
    attempts: int
    reason: str


_FIELDS: Final = _Record.__struct_fields__[1:]
_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Record)


def encode_reaction(reaction: Reaction) -> bytes:
    """Return the record; a long reason is cut."""
    fields = {name: getattr(reaction, name) for name in _FIELDS}
    fields["reason"] = reaction.reason[:MAX_REASON_CHARS]
    return _encoder.encode(_Record(VERSION, **fields))


def decode_reaction(value: bytes, *, key: bytes) -> Reaction:
    """Return the reaction.

    Raises:
        FormatError: If the bytes are not one.
    """
    try:
        record = _decoder.decode(value)
    except msgspec.DecodeError as error:
        raise corrupt(key, str(error)) from error
    if record.version != VERSION:
        raise corrupt(key, f"version {record.version}")
    return Reaction(**{name: getattr(record, name) for name in _FIELDS})

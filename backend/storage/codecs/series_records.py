"""The record of a series <-> bytes.

Layout: version (1 byte), kind (1 byte), `sealed_upto` (8 bytes), the sealed summary
(104 bytes, count 0 while nothing is sealed), length of the name (2 bytes), name,
context text. Fixed fields first: a list of runs decodes tens of thousands of these.

Design note: docs/subsystems/storage.md#dictionary
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from backend.domain.series import Series, Summary
from backend.errors import FormatError
from backend.storage.codecs.frames import corrupt
from backend.storage.codecs.summaries import (
    SUMMARY,
    SUMMARY_BYTES,
    Rows,
    empty_rows,
    unpack_summary,
)
from matyan_wire.batch import KINDS, METRIC

VERSION: Final = 1

_HEAD: Final = struct.Struct("<BBq")
_NAME: Final = struct.Struct("<H")
_SUMMARY_AT: Final = _HEAD.size
_NAME_AT: Final = _SUMMARY_AT + SUMMARY_BYTES
_TEXT_AT: Final = _NAME_AT + _NAME.size

KIND_CODES: Final = {kind: code for code, kind in enumerate(KINDS)}
"""Permanent: kinds are only ever appended to `matyan_wire.batch.KINDS`."""

_NO_POINTS: Final = empty_rows(1).tobytes()


@dataclass(slots=True)
class SeriesRecord:
    """What the store keeps of a series beside its points.

    Attributes:
        kind: One of `KINDS`.
        name: As tracked.
        context_text: Canonical JSON text.
        sealed_upto: Tail blocks below this number are in the chunks.
        summary: 104 bytes: the summary of the chunks.
    """

    kind: str
    name: str
    context_text: str
    sealed_upto: int = 0
    summary: bytes = _NO_POINTS

    @property
    def is_object(self) -> bool:
        """Whether the points are objects."""
        return self.kind != METRIC

    def sealed(self) -> Summary | None:
        """Return the summary of the chunks, None without any."""
        return unpack_summary(self.summary, is_object=self.is_object)

    def row(self) -> Rows:
        """Return the summary of the chunks as one row."""
        return np.frombuffer(self.summary, SUMMARY)

    def to_series(
        self, run_number: int, number: int, summary: Summary | None
    ) -> Series:
        """Return the domain's view with `summary`."""
        return Series(
            run_number,
            number,
            self.kind,
            self.name,
            dict(_context(self.context_text)),
            self.context_text,
            summary,
        )


def encode_series_record(record: SeriesRecord) -> bytes:
    """Return the bytes of a record."""
    name = record.name.encode()
    return b"".join(
        (
            _HEAD.pack(VERSION, KIND_CODES[record.kind], record.sealed_upto),
            record.summary,
            _NAME.pack(len(name)),
            name,
            record.context_text.encode(),
        )
    )


def decode_series_record(value: bytes, *, key: bytes) -> SeriesRecord:
    """Return the record in `value`.

    Raises:
        FormatError: If it is of another version or cut short.
    """
    if len(value) < _TEXT_AT:
        raise corrupt(key, "series record is cut short")
    version, code, sealed_upto = _HEAD.unpack_from(value)
    if version != VERSION or code >= len(KINDS):
        raise FormatError(key=key.hex(), found=[version, code], supported=VERSION)
    (size,) = _NAME.unpack_from(value, _NAME_AT)
    return SeriesRecord(
        KINDS[code],
        value[_TEXT_AT : _TEXT_AT + size].decode(),
        value[_TEXT_AT + size :].decode(),
        sealed_upto,
        value[_SUMMARY_AT:_NAME_AT],
    )


@lru_cache(maxsize=4096)
def _context(text: str) -> dict[str, object]:
    parsed = json.loads(text)
    return parsed if isinstance(parsed, dict) else {}

"""Bounds on what may travel on the wire; the SDK, the gateway and the store agree.

Every bound is inclusive. Text is measured in UTF-8 bytes.
"""

from __future__ import annotations

import re
from typing import Final

RUN_ID_PATTERN: Final = re.compile(r"[A-Za-z0-9_.\-]{1,128}\Z")
"""A run id; "." and ".." are refused too (they would be path components)."""

MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
MAX_RECORD_BYTES: Final = 8 * 1024 * 1024
"""One event-log record; larger batches are split, a larger single item is refused."""

MAX_SERIES_NAME_BYTES: Final = 1024
MAX_CONTEXT_BYTES: Final = 4096
MAX_TAG_NAME_BYTES: Final = 256
MAX_ENTITY_NAME_BYTES: Final = 1024
"""Names of runs and experiments."""

MAX_DESCRIPTION_BYTES: Final = 64 * 1024
MAX_ATTRIBUTES_BYTES: Final = 4 * 1024 * 1024
"""All attributes of one run, encoded."""

MAX_ATTRIBUTE_DEPTH: Final = 64
MAX_OBJECT_BYTES: Final = 7 * 1024 * 1024
"""One object payload: leaves room for its record's other columns."""

MAX_SERIES_PER_RUN: Final = 2_000_000
MAX_POINTS_PER_BATCH: Final = 1_000_000
MAX_BLOB_PATH_BYTES: Final = 1024
MAX_WRITER_CHARS: Final = 64
MAX_SENT_US: Final = 10**16
"""A writer's clock, microseconds since the epoch, in both directions: to the year 2286.
What lies beyond is no clock."""


def is_run_id(text: str) -> bool:
    """Return whether `text` may name a run."""
    return bool(RUN_ID_PATTERN.match(text)) and text not in {".", ".."}

"""Where the terminal lines of several processes of one run go.

Every process numbers its lines from 0. None may replace another's.

Design note: docs/subsystems/storage.md#ingestion
"""

from __future__ import annotations

from typing import Final

import numpy as np

from backend.domain.series import Int64s
from backend.storage.codecs.run_states import WriterState

MAX_STEP: Final = 2**63 - 1
MIN_STEP: Final = 1 - 2**63


def place_lines(lines: Int64s, writer: WriterState, *, last: int) -> Int64s:
    """Return where a writer's terminal lines go, and move the writer on.

    Its lines keep their distances until another process has logged in between: the
    first line that would meet another's goes after the `last` there is, -1 for none,
    and the rest follows.
    """
    placed = shift_lines(lines, writer.line_offset)
    is_new = placed >= writer.next_line
    if bool(is_new.any()):
        first = int(lines[is_new].min())
        if last >= writer.next_line and last >= first + writer.line_offset:
            writer.line_offset = last + 1 - first
            placed = np.where(is_new, shift_lines(lines, writer.line_offset), placed)
        writer.next_line = min(int(placed.max()), MAX_STEP - 1) + 1
    return placed


def shift_lines(steps: Int64s, offset: int) -> Int64s:
    """Return the steps moved by `offset`, kept within what a step may be."""
    if offset <= 0:
        return np.maximum(steps, MIN_STEP - offset) + offset
    return np.minimum(steps, MAX_STEP - offset) + offset

"""What long work tells whoever watches, and how it is stopped and taken up again.

A long piece of work calls its observer between transactions. What the observer raises
ends the work there; nothing is half done. Given the last step's checkpoint, the same
work goes on after it.

Design note: docs/subsystems/maintenance.md
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Checkpoint = Mapping[str, Any]
"""Where to go on, JSON values; empty: at the beginning."""


@dataclass(frozen=True, slots=True)
class Step:
    """How far work has come.

    Attributes:
        done: Units done.
        total: Units in all, 0 while unknown.
        note: What is being done, for people.
        checkpoint: Where to go on, with what is counted so far.
    """

    done: int
    total: int = 0
    note: str = ""
    checkpoint: Checkpoint = field(default_factory=dict)


Observer = Callable[[Step], None]


def nobody(_step: Step) -> None:
    """Watch nothing."""

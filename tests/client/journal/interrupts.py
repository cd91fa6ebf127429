"""Runs code in the middle of other code, as a signal handler or a finalizer does.

Python runs those between two bytecodes of whatever is executing. Here a trace does, at
a bytecode of choice, so that every one of them can be tried.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FrameType, ModuleType
from typing import Any


def interrupted(
    call: Callable[[], object],
    handler: Callable[[], object],
    *,
    at: int,
    modules: tuple[ModuleType, ...],
) -> bool:
    """Run `call`, and `handler` before its bytecode number `at` within `modules`.

    Returns whether there were so many.
    """
    files = {module.__file__ for module in modules}
    seen = 0
    fired = False

    def trace(frame: FrameType, event: str, _arg: Any) -> Any:
        nonlocal seen, fired
        if frame.f_code.co_filename not in files or fired:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            seen += 1
            if seen == at:
                fired = True
                handler()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return fired


def places(attempt: Callable[[int], bool]) -> Iterator[int]:
    """Yield the bytecodes that `attempt`, given each in turn, says there were."""
    at = 1
    while attempt(at):
        yield at
        at += 1

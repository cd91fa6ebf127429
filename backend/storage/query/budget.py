"""How much one evaluation of a query may cost, and what makes it stop.

Straight-line code is bounded by the node limit. Only what repeats or grows is charged:
each turn of a comprehension, each call, and the size of every text or collection that
is built. An evaluation that passes its bound counts as "no match".

Limits: 100,000 steps and 0.25 s an evaluation, checked at every charge; integers of
4,096 bits; 20 evaluations cut off, or 50 M steps in all, end the whole query: from
then on nothing matches.

Design note: docs/subsystems/query.md#limits
"""

from __future__ import annotations

from time import monotonic
from typing import Any, Final

MAX_STEPS: Final = 100_000
MAX_SECONDS: Final = 0.25
MAX_INT_BITS: Final = 4_096
MAX_CALL_DEPTH: Final = 16
MAX_CUT_OFF_EVALUATIONS: Final = 20
MAX_QUERY_STEPS: Final = 50_000_000

TEXT_CHARS_PER_STEP_SHIFT: Final = 6
"""64 characters of text built or searched cost one step."""

SHORT_TEXT: Final = 64
CONTAINERS: Final = (list, tuple, dict, set, frozenset)
TEXTS: Final = (str, bytes)


class BudgetExceededError(Exception):
    """The evaluation costs too much."""


class Budget:
    """What is left of one evaluation. Belongs to one thread."""

    __slots__ = ("call_depth", "deadline", "left")

    def __init__(self) -> None:
        self.left = MAX_STEPS
        self.deadline = 0.0
        self.call_depth = 0

    def charge(self, steps: int) -> None:
        """Spend `steps`.

        Raises:
            BudgetExceededError: If the steps or the time are used up.
        """
        self.left -= steps
        if self.left < 0:
            raise BudgetExceededError
        now = monotonic()
        if not self.deadline:
            # Starts with the first charge: what charges nothing needs no clock.
            self.deadline = now + MAX_SECONDS
        elif now > self.deadline:
            raise BudgetExceededError

    def charge_text(self, chars: int) -> None:
        """Spend what building or searching `chars` characters costs."""
        self.charge(1 + (chars >> TEXT_CHARS_PER_STEP_SHIFT))

    def enter_call(self) -> None:
        """Count one more nested call of a query's own function."""
        self.call_depth += 1
        if self.call_depth > MAX_CALL_DEPTH:
            raise BudgetExceededError

    def leave_call(self) -> None:
        """Undo `enter_call`."""
        self.call_depth -= 1

    def admit(self, value: Any) -> Any:
        """Return `value` after charging for its size.

        Collections are weighed with everything in them: without that, `[a, a]` nested
        thirty times is small to build and endless to print, compare or hash.

        Raises:
            BudgetExceededError: If the value is too large.
        """
        if type(value) is int:
            check_int(value)
        elif isinstance(value, TEXTS):
            self.charge_text(len(value))
        elif isinstance(value, CONTAINERS):
            self.weigh(value)
        return value

    def admit_element(self, value: Any) -> Any:
        """Return what is about to be put into a collection, charging if it is large."""
        if isinstance(value, TEXTS):
            if len(value) > SHORT_TEXT:
                self.charge_text(len(value))
        elif isinstance(value, CONTAINERS):
            self.weigh(value)
        return value

    def weigh(self, value: Any) -> None:
        """Charge for every element in `value`, nested ones and texts included."""
        stack = [value]
        while stack:
            container = stack.pop()
            self.charge(1 + len(container))
            if isinstance(container, dict):
                stack.extend(k for k in container if isinstance(k, CONTAINERS))
                container = container.values()
            chars = sum(len(item) for item in container if isinstance(item, TEXTS))
            self.charge(chars >> TEXT_CHARS_PER_STEP_SHIFT)
            stack.extend(item for item in container if isinstance(item, CONTAINERS))


def check_int(value: int) -> None:
    """Refuse integers that are slow to compute with.

    Raises:
        BudgetExceededError: If it has more than `MAX_INT_BITS`.
    """
    if value.bit_length() > MAX_INT_BITS:
        raise BudgetExceededError

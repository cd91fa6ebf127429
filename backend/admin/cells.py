"""What operators' pages are made of: cells, tables, and values in words.

Times are told as how long ago they are, with the exact moment (UTC) beside it: the one
is understood at once, the other is what logs are searched for.

Design note: docs/admin.md
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from django.utils.html import format_html

from backend.domain.job_reports import format_bytes

amount: Final = format_bytes

_UNITS: Final = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table, or one line of a page.

    Attributes:
        text: What it says.
        url: Where it leads, "" for nowhere.
        mood: "good"; "warn" for what passes by itself; "bad" for what somebody has to
            act on, and nothing else; or "".
        note: Said beside it, smaller.
        is_unbroken: Whether the note stays on one line: times and the like.
    """

    text: Any
    url: str = ""
    mood: str = ""
    note: str = ""
    is_unbroken: bool = False


@dataclass(frozen=True, slots=True)
class Action:
    """Something that can be done to chosen rows.

    Attributes:
        name: In its address, and of its view.
        label: On its button.
        permission: Needed: "change" or "delete".
        warning: What a person must know before.
        single: On its button on the page of one thing; as `label` if empty.
    """

    name: str
    label: str
    permission: str
    warning: str
    single: str = ""


@dataclass(slots=True)
class Table:
    """One table of a page.

    Attributes:
        columns: Headings.
        rows: (key, cells); the key is what an action is given, "" for none.
        title: Above it.
        empty: Said when there are no rows.
        actions: What can be done to rows.
        next_url: The next page, "" on the last.
        more: Said below it.
        anchor: Its name in addresses, "" for none.
    """

    columns: Sequence[str]
    rows: list[tuple[str, list[Any]]] = field(default_factory=list)
    title: str = ""
    empty: str = "Nothing here."
    actions: Sequence[Any] = ()
    next_url: str = ""
    more: Cell | None = None
    anchor: str = ""


def now_us() -> int:
    """Return the wall clock, microseconds since the epoch."""
    return time.time_ns() // 1000


def moment(time_us: int | None) -> str:
    """Return a time for people, UTC; "" for none."""
    if not time_us:
        return ""
    when = datetime.fromtimestamp(time_us / 1e6, UTC)
    return when.strftime("%Y-%m-%d %H:%M:%S UTC")


def ago(time_us: int | None, *, mood: str = "") -> Cell:
    """Return how long ago a time was, the moment beside it; an empty cell for none."""
    if not time_us:
        return Cell("")
    passed_s = (now_us() - time_us) / 1e6
    # Clocks of several machines differ a little.
    text = f"{duration(passed_s)} ago" if passed_s > -1 else "in the future"
    return Cell(text, mood=mood, note=moment(time_us), is_unbroken=True)


def moment_of(when: datetime | None) -> int | None:
    """Return a row's time as microseconds since the epoch."""
    return None if when is None else round(when.timestamp() * 1e6)


def time_html(when: datetime, *, by: str = "") -> str:
    """Return `ago` as HTML for tables that Django makes, with words in between."""
    found = ago(moment_of(when))
    return format_html(
        '{} {}<small class="store-note store-when">{}</small>',
        found.text,
        by,
        found.note,
    )


def duration(seconds: float) -> str:
    """Return how long something takes or is ago: "2 h 5 min", "3 d", "40 s"."""
    left = max(0, round(seconds))
    counts = []
    for _, size in _UNITS:
        count, left = divmod(left, size)
        counts.append(count)
    first = next((n for n, count in enumerate(counts) if count), len(counts) - 1)
    # Of the unit after the next nobody wants to know.
    shown = [first, *(n for n in (first + 1,) if n < len(counts) and counts[n])]
    return " ".join(f"{counts[n]} {_UNITS[n][0]}" for n in shown)


def count_of(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun: "1 run", "2,000 runs"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"

"""Walking a store in bounded windows and asking of each row what must be there too.

A window is a few rows of one subspace with everything they refer to, read in one
transaction, so that what is compared is of one version: a store may be verified while
it is written to.

Design note: docs/subsystems/engines.md#verifying-a-store
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeVar

from backend.errors import MatyanError
from backend.services.store_words import describe_key
from backend.storage import indexes, keyspace, tuples
from backend.storage.engine.base import Engine, KeyRange, KeyValue, ReadTransaction

T = TypeVar("T")

UNREADABLE: Final = (MatyanError, ValueError, IndexError, TypeError)
"""What reading a damaged key or value may raise."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a store.

    Attributes:
        key: Where.
        reason: What, in words.
    """

    key: bytes
    reason: str

    @property
    def where(self) -> str:
        """What the key is the key of, in words."""
        return describe_key(self.key)


@dataclass(frozen=True, slots=True)
class Window:
    """Rows of a subspace with begin <= key < end, all there are."""

    rows: list[KeyValue]
    begin: bytes
    end: bytes


Check = Callable[[ReadTransaction, Window], Iterable[Problem]]


@dataclass(frozen=True, slots=True)
class Walk:
    """One pass over a subspace.

    Attributes:
        name: For the progress.
        subspace: What is walked.
        check: Says what is wrong with a window; runs inside its transaction.
        rows: Size of a window, at least 2.
        group_of: Returns a prefix of a key; rows of one prefix stay in one window.
    """

    name: str
    subspace: keyspace.Subspace
    check: Check
    rows: int = 256
    group_of: Callable[[bytes], bytes] | None = None


def iter_windows(engine: Engine, walk: Walk) -> Iterator[tuple[int, list[Problem]]]:
    """Yield the number of rows of each window and what is wrong with it.

    Raises:
        StoreError: If the store fails.
    """
    begin, end = keyspace.subspace_range(walk.subspace)
    while begin < end:

        def look(
            tr: ReadTransaction, begin: bytes = begin
        ) -> tuple[Window, list[Problem]]:
            window = _read(tr, walk, begin, end)
            return window, list(walk.check(tr, window))

        window, problems = engine.read(look)
        yield len(window.rows), problems
        begin = window.end


def _read(tr: ReadTransaction, walk: Walk, begin: bytes, end: bytes) -> Window:
    rows = tr.get_range(begin, end, limit=walk.rows, snapshot=True)
    if len(rows) < walk.rows:
        return Window(rows, begin, end)
    last = rows[-1][0]
    if walk.group_of is None:
        return Window(rows, begin, last + b"\x00")
    group = walk.group_of(last)
    whole = [row for row in rows if not row[0].startswith(group)]
    if whole:
        return Window(whole, begin, rows[len(whole)][0])
    stop = min(tuples.next_prefix(group), end)
    return Window(tr.get_range(begin, stop, snapshot=True), begin, stop)


# What checks are made of


def read_rows(
    rows: Iterable[KeyValue], read: Callable[[bytes, bytes], T]
) -> tuple[list[tuple[bytes, T]], list[Problem]]:
    """Return what `read(key, value)` makes of each row, and the rows it cannot read."""
    found: list[tuple[bytes, T]] = []
    problems = []
    for key, value in rows:
        try:
            found.append((key, read(key, value)))
        except UNREADABLE as error:
            problems.append(Problem(key, reason_of(error)))
    return found, problems


def reason_of(error: Exception) -> str:
    """Return why something could not be read, in words."""
    if isinstance(error, MatyanError):
        reason = error.fields.get("reason")
        if reason is None and "found" in error.fields:
            return f"unknown format {error.fields['found']}"
        return str(reason or error.message)
    return f"cannot be read: {error}"


class Must(Enum):
    """What a row may be asked to be, besides having a certain value."""

    EXIST = "exist"
    BE_ABSENT = "be absent"


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the row of `subject` says about another row.

    Attributes:
        subject: Blamed if it does not hold.
        key: The other row.
        value: Its value, or what it must be.
        reason: The problem, in words, if it does not hold.
    """

    subject: bytes
    key: bytes
    value: bytes | Must
    reason: str


def unmet(
    tr: ReadTransaction, expectations: Sequence[Expectation]
) -> Iterator[Problem]:
    """Yield a problem for each expectation that does not hold: one round trip."""
    values = tr.get_many([item.key for item in expectations], snapshot=True)
    for item, found in zip(expectations, values, strict=True):
        if item.value is Must.EXIST:
            holds = found is not None
        elif item.value is Must.BE_ABSENT:
            holds = found is None
        else:
            holds = found == item.value
        if not holds:
            yield Problem(item.subject, item.reason)


class Owners:
    """Whether the runs that rows belong to are there, hidden, or neither."""

    def __init__(self, tr: ReadTransaction, run_numbers: Iterable[int]) -> None:
        wanted = sorted(set(run_numbers))
        runs = tr.get_many([keyspace.pack_run(no) for no in wanted], snapshot=True)
        purges = tr.get_many([indexes.purge_key(no) for no in wanted], snapshot=True)
        self._there = {
            no for no, row in zip(wanted, runs, strict=True) if row is not None
        }
        self._hidden = {
            no for no, row in zip(wanted, purges, strict=True) if row is not None
        }

    def judge(self, key: bytes, run_number: int) -> Problem | None:
        """Return what is wrong if the row of `key` belongs to no run."""
        if run_number in self._there or run_number in self._hidden:
            return None
        return Problem(key, "belongs to a run that does not exist")

    def is_there(self, run_number: int) -> bool:
        """Return whether the run is there, so that its rows must fit each other."""
        return run_number in self._there


def of_living(
    tr: ReadTransaction,
    found: Sequence[tuple[bytes, T]],
    run_of: Callable[[T], int],
) -> tuple[list[tuple[bytes, T]], list[Problem]]:
    """Return the rows whose run is there, and a problem for each that has none.

    Rows of runs that are being purged are in neither.
    """
    owners = Owners(tr, (run_of(item) for _, item in found))
    problems = [
        problem
        for key, item in found
        if (problem := owners.judge(key, run_of(item))) is not None
    ]
    living = [(key, item) for key, item in found if owners.is_there(run_of(item))]
    return living, problems


def first_rows(
    tr: ReadTransaction, ranges: Iterable[keyspace.Range]
) -> list[KeyValue | None]:
    """Return the first row of each range, None for an empty one: one round trip."""
    wanted = [KeyRange(begin, end, limit=1) for begin, end in ranges]
    return [rows[0] if rows else None for rows in tr.get_ranges(wanted, snapshot=True)]

"""Secondary indexes: rows without a value, written in the caller's transaction.

A row is (index, value, run number). Within a value, rows ascend with the run's
creation, so "the newest runs with this tag" is one reverse range read. Text values are
hashed; ids are UUID text.

    EXPERIMENT      (experiment id)          runs of an experiment
    TAG             (tag id)                 runs with a tag
    ACTIVE          (bool)                   every run is in one of the two
    ARCHIVED        (bool)                   every run is in one of the two
    SERIES_NAME     (hash of kind, name)     runs that have such a series
    RUN_SERIES      (run number, hash)       the rows of SERIES_NAME a run has written
    PURGE           ()                       deleted runs whose data is still there
    ANTEDATED       ()                       runs created long before their number

Counts are counted from the rows, never kept: a counter can drift, rows cannot.

Design note: docs/subsystems/metadata.md#indexes
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from backend.domain.runs import Run
from backend.storage.engine.base import KeyRange, ReadTransaction, Transaction
from backend.storage.keyspace import (
    MAX_ID_BYTES,
    IndexValue,
    Range,
    hash16,
    index_range,
    pack_index,
    pack_int,
    unpack_index,
    unpack_ints,
)


class Index(IntEnum):
    """Second element of an index key. Permanent: a number is never reused."""

    EXPERIMENT = 1
    TAG = 2
    ACTIVE = 3
    ARCHIVED = 4
    SERIES_NAME = 5
    RUN_SERIES = 6
    PURGE = 7
    ANTEDATED = 8


Term = tuple[Index, tuple[IndexValue, ...]]
"""An index and the value looked for: what a run is listed under."""


def is_entity_id(text: str) -> bool:
    """Return whether `text` can be an id in a key: 1 to 128 bytes of UTF-8."""
    try:
        return 0 < len(text.encode()) <= MAX_ID_BYTES
    except UnicodeEncodeError:
        return False


def experiment_term(experiment_id: str) -> Term:
    """Return the term of the runs of an experiment."""
    return Index.EXPERIMENT, (experiment_id,)


def tag_term(tag_id: str) -> Term:
    """Return the term of the runs with a tag."""
    return Index.TAG, (tag_id,)


def active_term(*, active: bool) -> Term:
    """Return the term of the active runs, or of the others."""
    return Index.ACTIVE, (int(active),)


def archived_term(*, archived: bool) -> Term:
    """Return the term of the archived runs, or of the others."""
    return Index.ARCHIVED, (int(archived),)


def series_name_term(kind: str, name: str) -> Term:
    """Return the term of the runs that have a series of this kind and name."""
    return Index.SERIES_NAME, (hash16(kind, name),)


def antedated_term() -> Term:
    """Return the term of the runs whose number lies far above their creation time."""
    return Index.ANTEDATED, ()


def run_terms(run: Run) -> frozenset[Term]:
    """Return everything the run itself is listed under; its series' names are apart."""
    terms = {
        active_term(active=run.active),
        archived_term(archived=run.archived),
        *(tag_term(tag_id) for tag_id in run.tag_ids),
    }
    if run.experiment_id is not None:
        terms.add(experiment_term(run.experiment_id))
    if run.antedated:
        terms.add(antedated_term())
    return frozenset(terms)


def index_run(tr: Transaction, old: Run | None, new: Run | None) -> None:
    """Write the rows `new` has and `old` had not, and clear the others.

    None stands for a run that does not exist (any more). Both have the same number.
    """
    before = frozenset() if old is None else run_terms(old)
    after = frozenset() if new is None else run_terms(new)
    for index, values in before - after:
        tr.clear(pack_index(index, values, (old or new).number))  # type: ignore[union-attr]  # before is empty without old
    for index, values in after - before:
        tr.set(pack_index(index, values, new.number), b"")  # type: ignore[union-attr]  # after is empty without new


def index_series_name(tr: Transaction, run_number: int, kind: str, name: str) -> None:
    """List the run under a series' kind and name. May be repeated."""
    index, values = series_name_term(kind, name)
    tr.set(pack_index(index, values, run_number), b"")
    tr.set(pack_index(Index.RUN_SERIES, (run_number, *values), run_number), b"")


def clear_series_names(tr: Transaction, run_number: int, *, limit: int) -> bool:
    """Unlist a run from at most `limit` names; return whether none is left."""
    begin, end = index_range(Index.RUN_SERIES, (run_number,))
    rows = tr.get_range(begin, end, limit=limit)
    for key, _ in rows:
        _, (_, digest), _ = unpack_index(key)
        tr.clear(pack_index(Index.SERIES_NAME, (digest,), run_number))
        tr.clear(key)
    return len(rows) < limit


def set_purge(tr: Transaction, run_number: int) -> None:
    """Note that the run is deleted and its data still there."""
    tr.set(pack_index(Index.PURGE, (), run_number), b"")


def clear_purge(tr: Transaction, run_number: int) -> None:
    """Note that a deleted run's data is gone."""
    tr.clear(pack_index(Index.PURGE, (), run_number))


def purge_key(run_number: int) -> bytes:
    """Return the key of the note that a run's data waits to be cleared."""
    return pack_index(Index.PURGE, (), run_number)


def list_purges(tr: ReadTransaction, *, limit: int) -> list[int]:
    """Return the numbers of at most `limit` deleted runs that still have data."""
    begin, end = index_range(Index.PURGE)
    offset = len(begin) - 1
    rows = tr.get_range(begin, end, limit=limit, snapshot=True)
    return [unpack_ints(key, offset)[0] for key, _ in rows]


def term_range(
    term: Term, *, after: int | None = None, before: int | None = None
) -> Range:
    """Return the range of a term's rows with after < run number < before."""
    index, values = term
    begin, end = index_range(index, values)
    prefix = begin[:-1]
    if after is not None:
        begin = prefix + pack_int(after + 1)
    if before is not None:
        end = prefix + pack_int(before)
    return begin, end


def run_numbers(  # noqa: PLR0913 - the bounds of one range read
    tr: ReadTransaction,
    term: Term,
    *,
    after: int | None = None,
    before: int | None = None,
    limit: int = 0,
    newest_first: bool = True,
    snapshot: bool = True,
) -> list[int]:
    """Return the numbers of the runs under `term` in one range read.

    As a snapshot unless the caller's writes depend on the answer.
    """
    begin, end = term_range(term, after=after, before=before)
    rows = tr.get_range(
        begin, end, limit=limit, reverse=newest_first, snapshot=snapshot
    )
    offset = len(term_range(term)[0]) - 1
    return [unpack_ints(key, offset)[0] for key, _ in rows]


def count_runs(tr: ReadTransaction, terms: Sequence[Term]) -> list[int]:
    """Return how many runs are under each term, in one round trip, as a snapshot."""
    ranges = [KeyRange(*term_range(term)) for term in terms]
    return [len(rows) for rows in tr.get_ranges(ranges, snapshot=True)]

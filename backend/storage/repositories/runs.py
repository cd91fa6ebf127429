"""Run repository: records by number, ids, tombstones, index rows.

Keys:   RUN_ID (run id) -> number; RUN (number) -> record; TOMBSTONE (run id) -> when a
        run was deleted and what it was
Order:  numbers ascend with creation, so "newest first" is a reverse range read.
Limits: a run has at most `MAX_TAGS` tags, so that its record fits one value.

Every method works in the caller's transaction and may be repeated.

Design note: docs/subsystems/metadata.md#runs
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from backend.domain.runs import MAX_NUMBER_DRIFT_US, Run
from backend.errors import LimitExceededError, RunNotFoundError
from backend.storage import indexes
from backend.storage.codecs.frames import corrupt
from backend.storage.codecs.records import (
    decode_run,
    decode_tombstone,
    encode_run,
    encode_tombstone,
)
from backend.storage.engine.base import KeyValue, ReadTransaction, Transaction
from backend.storage.indexes import Term
from backend.storage.keyspace import (
    MAX_ID_BYTES,
    Subspace,
    pack_run,
    pack_run_id,
    pack_tombstone,
    run_data_ranges,
    subspace_range,
    unpack_run,
    unpack_tombstone,
)

MAX_TAGS: Final = 500

_NUMBER_BYTES: Final = 8


class RunRepository:
    """Runs, apart from their attributes and series."""

    def find(self, tr: ReadTransaction, run_id: str) -> Run | None:
        """Return the run, or None if there is none or it was deleted."""
        number = tr.get(pack_run_id(run_id)) if _can_be(run_id) else None
        if number is None:
            return None
        return self.find_by_number(tr, _unpack_number(number))

    def get(self, tr: ReadTransaction, run_id: str) -> Run:
        """Return the run.

        Raises:
            RunNotFoundError: If there is none or it was deleted.
        """
        run = self.find(tr, run_id)
        if run is None:
            raise RunNotFoundError(run_id=run_id)
        return run

    def find_many(self, tr: ReadTransaction, run_ids: Iterable[str]) -> dict[str, Run]:
        """Return the runs there are among `run_ids`, in two round trips."""
        wanted = [run_id for run_id in dict.fromkeys(run_ids) if _can_be(run_id)]
        values = tr.get_many([pack_run_id(run_id) for run_id in wanted])
        numbers = [_unpack_number(value) for value in values if value is not None]
        return {run.run_id: run for run in self.get_by_numbers(tr, numbers)}

    def find_by_number(self, tr: ReadTransaction, number: int) -> Run | None:
        """Return the run with this number, or None."""
        key = pack_run(number)
        value = tr.get(key)
        return None if value is None else decode_run(value, number=number, key=key)

    def get_by_numbers(self, tr: ReadTransaction, numbers: Sequence[int]) -> list[Run]:
        """Return the runs with these numbers, in their order, missing ones skipped."""
        keys = [pack_run(number) for number in numbers]
        values = tr.get_many(keys, snapshot=True)
        return [
            decode_run(value, number=number, key=key)
            for number, key, value in zip(numbers, keys, values, strict=True)
            if value is not None
        ]

    def page(
        self,
        tr: ReadTransaction,
        *,
        limit: int,
        newest_first: bool = True,
        after: int | None = None,
        before: int | None = None,
    ) -> list[Run]:
        """Return at most `limit` runs with after < number < before: one range read."""
        rows = _page_rows(
            tr, limit=limit, newest_first=newest_first, after=after, before=before
        )
        return [
            decode_run(value, number=unpack_run(key), key=key) for key, value in rows
        ]

    def page_numbers(
        self,
        tr: ReadTransaction,
        *,
        limit: int,
        newest_first: bool = True,
        after: int | None = None,
        before: int | None = None,
    ) -> list[int]:
        """Return the numbers of the runs of a page, those of damaged records too."""
        rows = _page_rows(
            tr, limit=limit, newest_first=newest_first, after=after, before=before
        )
        return [unpack_run(key) for key, _ in rows]

    def create(
        self,
        tr: Transaction,
        *,
        run_id: str,
        name: str,
        created_us: int,
        clock_offset_us: int = 0,
    ) -> Run:
        """Store a new, active run and return it.

        The caller has made sure that there is no run of this id and no tombstone.
        """
        number = self._free_number(tr, created_us)
        run = Run(
            number=number,
            run_id=run_id,
            name=name,
            description="",
            created_us=max(created_us, number - MAX_NUMBER_DRIFT_US),
            clock_offset_us=clock_offset_us,
        )
        tr.set(pack_run_id(run_id), _pack_number(number))
        tr.set(pack_run(number), encode_run(run))
        indexes.index_run(tr, None, run)
        return run

    def save(self, tr: Transaction, old: Run, new: Run) -> None:
        """Store what changed between two states of one run, index rows included.

        Raises:
            LimitExceededError: If it has more than `MAX_TAGS` tags.
        """
        if old == new:
            return
        if len(new.tag_ids) > MAX_TAGS:
            raise LimitExceededError(
                what="tags of a run", size=len(new.tag_ids), limit=MAX_TAGS
            )
        tr.set(pack_run(new.number), encode_run(new))
        indexes.index_run(tr, old, new)

    def hide(self, tr: Transaction, run: Run, *, deleted_us: int) -> None:
        """Remove the run from every read and leave a tombstone.

        Its data is still there: `indexes.list_purges` names it until `purge` is done.
        """
        tr.clear(pack_run(run.number))
        tr.clear(pack_run_id(run.run_id))
        indexes.index_run(tr, run, None)
        indexes.set_purge(tr, run.number)
        tombstone = encode_tombstone(run, deleted_us=deleted_us)
        tr.set(pack_tombstone(run.run_id), tombstone)

    def purge(self, tr: Transaction, run_number: int, *, limit: int) -> bool:
        """Clear at most about `limit` keys of a hidden run; return whether all is gone.

        Call it in one transaction after the other until it returns True.
        """
        if not indexes.clear_series_names(tr, run_number, limit=limit):
            return False
        for begin, end in run_data_ranges(run_number):
            rows = tr.get_range(begin, end, limit=limit, snapshot=True)
            if rows:
                tr.clear_range(begin, rows[-1][0] + b"\x00")
            if len(rows) >= limit:
                return False
        indexes.clear_purge(tr, run_number)
        return True

    def list_purges(self, tr: ReadTransaction, *, limit: int) -> list[int]:
        """Return the numbers of hidden runs whose data is still there."""
        return indexes.list_purges(tr, limit=limit)

    def is_purging(self, tr: ReadTransaction, run_number: int) -> bool:
        """Return whether some data of a hidden run is still there."""
        return tr.get(indexes.purge_key(run_number)) is not None

    def numbers_with(
        self,
        tr: ReadTransaction,
        term: Term,
        *,
        before: int | None = None,
        limit: int = 0,
        snapshot: bool = True,
    ) -> list[int]:
        """Return the newest runs under a term of `backend.storage.indexes`, by number.

        At most `limit` (0: all) below the number `before`, in one range read, as a
        snapshot unless the caller's writes depend on the answer.
        """
        return indexes.run_numbers(
            tr, term, before=before, limit=limit, snapshot=snapshot
        )

    def count(self, tr: ReadTransaction, *, archived: bool | None = None) -> int:
        """Return the number of runs, or of those archived or not."""
        states = (False, True) if archived is None else (archived,)
        terms = [indexes.archived_term(archived=state) for state in states]
        return sum(indexes.count_runs(tr, terms))

    def find_tombstone(self, tr: ReadTransaction, run_id: str) -> int | None:
        """Return when the run was deleted, in microseconds, or None if it was not."""
        if not _can_be(run_id):
            return None
        key = pack_tombstone(run_id)
        value = tr.get(key)
        return None if value is None else decode_tombstone(value, key=key)[0]

    def find_deleted(self, tr: ReadTransaction, run_id: str) -> Run | None:
        """Return a deleted run as it was, while its tombstone stands."""
        if not _can_be(run_id):
            return None
        key = pack_tombstone(run_id)
        value = tr.get(key)
        return None if value is None else decode_tombstone(value, key=key)[1]

    def clear_tombstone(self, tr: Transaction, run_id: str) -> None:
        """Let the id be used again."""
        if _can_be(run_id):
            tr.clear(pack_tombstone(run_id))

    def list_tombstones(
        self, tr: ReadTransaction, *, after: str = "", limit: int
    ) -> list[tuple[str, int]]:
        """Return (run id, deletion time) in order of the id, after `after`."""
        begin, end = subspace_range(Subspace.TOMBSTONE)
        if after:
            begin = pack_tombstone(after) + b"\x00"
        return [
            (unpack_tombstone(key), decode_tombstone(value, key=key)[0])
            for key, value in tr.get_range(begin, end, limit=limit, snapshot=True)
        ]

    def _free_number(self, tr: Transaction, created_us: int) -> int:
        """Return the least number >= `created_us` with neither a run nor old data."""
        number = created_us
        while tr.get_many([pack_run(number), indexes.purge_key(number)]) != [None] * 2:
            number += 1
        return number


def _page_rows(
    tr: ReadTransaction,
    *,
    limit: int,
    newest_first: bool,
    after: int | None,
    before: int | None,
) -> list[KeyValue]:
    begin, end = _page_range(after, before)
    return tr.get_range(begin, end, limit=limit, reverse=newest_first, snapshot=True)


def _page_range(after: int | None, before: int | None) -> tuple[bytes, bytes]:
    begin, end = subspace_range(Subspace.RUN)
    if after is not None:
        begin = pack_run(after + 1)
    if before is not None:
        end = pack_run(before)
    return begin, end


def _pack_number(number: int) -> bytes:
    return number.to_bytes(_NUMBER_BYTES, "big")


def _unpack_number(value: bytes) -> int:
    if len(value) != _NUMBER_BYTES:
        raise corrupt(value, "a run number has 8 bytes")
    return int.from_bytes(value, "big")


def _can_be(run_id: str) -> bool:
    """Return whether there can be a key of this run id: a longer one has none."""
    return len(run_id.encode(errors="replace")) <= MAX_ID_BYTES

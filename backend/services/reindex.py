"""Building the index rows anew from the records they follow from.

1. Write: every run's id row and terms, every series' names, the names of experiments
   and tags: what a record asks for and is missing.
2. Clear: every row of an index, id or name that no record asks for.

Each transaction leaves the store no worse than it was, so it may be in use, and the
work may be stopped anywhere. Records themselves are not touched.

Design note: docs/subsystems/maintenance.md#reindex
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from backend.domain.runs import Run
from backend.services.long_work import Checkpoint, Observer, Step, nobody
from backend.storage import indexes, keyspace
from backend.storage.codecs.records import (
    decode_experiment,
    decode_run,
    decode_tag,
)
from backend.storage.codecs.series_records import decode_series_record
from backend.storage.engine.base import Engine, KeyValue, ReadTransaction, Transaction
from backend.storage.indexes import Index, series_name_term
from backend.storage.keyspace import Subspace
from matyan_wire.batch import SeriesRef

if TYPE_CHECKING:
    from backend.storage.factory import Store

RUNS: Final = 50
ROWS: Final = 500
_OF_RUN: Final = frozenset(
    {Index.EXPERIMENT, Index.TAG, Index.ACTIVE, Index.ARCHIVED, Index.ANTEDATED}
)


@dataclass(slots=True)
class ReindexReport:
    """What was found.

    Attributes:
        records: Records looked at: runs, series, experiments, tags.
        missing: Rows they ask for that were not there, written.
        rows: Rows looked at afterwards.
        stale: Of these, asked for by no record, cleared.
    """

    records: int = 0
    missing: int = 0
    rows: int = 0
    stale: int = 0


Rows = Sequence[KeyValue]
Wanted = Callable[[ReadTransaction, Rows], list[KeyValue]]
"""Returns the rows that some records ask for."""

Judge = Callable[[ReadTransaction, Rows], list[bytes]]
"""Returns the keys among some rows that no record asks for."""


def reindex(
    store: Store,
    *,
    dry_run: bool = False,
    on_step: Observer = nobody,
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any]:
    """Rebuild every index; return a report.

    Raises:
        StoreError: If the store fails; what is put right stays so.
        FormatError: If a record is damaged; `store verify` tells which are.
    """
    state = dict(checkpoint or {})
    report = ReindexReport(**state.get("report", {}))
    passes = _passes(store.engine, dry_run=dry_run)
    for number in range(state.get("pass", 0), len(passes)):
        one = passes[number]
        begin, end = keyspace.subspace_range(one.subspace)
        after = bytes.fromhex(state.pop("after", "")) or begin
        while True:
            last, looked_at, changed = one.run(after, end)
            one.count(report, looked_at, changed)
            if looked_at < one.limit:
                break
            after = last + b"\x00"
            saved = {"pass": number, "after": after.hex(), "report": asdict(report)}
            on_step(Step(report.records + report.rows, note=one.name, checkpoint=saved))
    return asdict(report)


@dataclass(frozen=True, slots=True)
class _Pass:
    """One walk over a subspace that writes or clears."""

    engine: Engine
    name: str
    subspace: Subspace
    limit: int
    dry_run: bool
    wanted: Wanted | None = None
    judge: Judge | None = None

    def run(self, begin: bytes, end: bytes) -> tuple[bytes, int, int]:
        """Put one window right; return its last key, its size, and what was wrong."""

        def look(tr: ReadTransaction) -> tuple[Rows, list[KeyValue], list[bytes]]:
            # Not a snapshot: a record that changes meanwhile asks for other rows.
            rows = tr.get_range(begin, end, limit=self.limit)
            missing = _missing(tr, self.wanted(tr, rows)) if self.wanted else []
            return rows, missing, self.judge(tr, rows) if self.judge else []

        def change(tr: Transaction) -> tuple[Rows, list[KeyValue], list[bytes]]:
            rows, missing, stale = look(tr)
            for key, value in missing:
                tr.set(key, value)
            for key in stale:
                tr.clear(key)
            return rows, missing, stale

        engine = self.engine
        rows, missing, stale = (
            engine.read(look) if self.dry_run else engine.transact(change)
        )
        last = rows[-1][0] if rows else begin
        return last, len(rows), len(missing) + len(stale)

    def count(self, report: ReindexReport, looked_at: int, changed: int) -> None:
        if self.wanted:
            report.records += looked_at
            report.missing += changed
        else:
            report.rows += looked_at
            report.stale += changed


def _missing(tr: ReadTransaction, wanted: list[KeyValue]) -> list[KeyValue]:
    unique = dict(wanted)
    found = tr.get_many(list(unique))
    pairs = zip(unique.items(), found, strict=True)
    return [pair for pair, stored in pairs if stored != pair[1]]


def _passes(engine: Engine, *, dry_run: bool) -> list[_Pass]:
    def write(name: str, space: Subspace, wanted: Wanted, limit: int = ROWS) -> _Pass:
        return _Pass(engine, name, space, limit, dry_run, wanted=wanted)

    def clear(name: str, space: Subspace, judge: Judge) -> _Pass:
        return _Pass(engine, name, space, ROWS, dry_run, judge=judge)

    return [
        write("runs", Subspace.RUN, _of_runs, RUNS),
        write("series", Subspace.SERIES, _of_series),
        write("experiments", Subspace.EXPERIMENT, _of_experiments),
        write("tags", Subspace.TAG, _of_tags),
        clear("run ids", Subspace.RUN_ID, _stale_run_ids),
        clear("experiment names", Subspace.EXPERIMENT_NAME, _stale_experiment_names),
        clear("tag names", Subspace.TAG_NAME, _stale_tag_names),
        clear("indexes", Subspace.INDEX, _stale_terms),
    ]


# --- what records ask for ------------------------------------------------------------


def _of_runs(_: ReadTransaction, rows: Rows) -> list[KeyValue]:
    wanted = []
    for key, value in rows:
        run = decode_run(value, number=keyspace.unpack_run(key), key=key)
        number = run.number.to_bytes(8, "big")
        wanted.append((keyspace.pack_run_id(run.run_id), number))
        wanted += [
            (keyspace.pack_index(index, values, run.number), b"")
            for index, values in indexes.run_terms(run)
        ]
    return wanted


def _of_series(tr: ReadTransaction, rows: Rows) -> list[KeyValue]:
    places = [keyspace.unpack_series(key) for key, _ in rows]
    living = _living(tr, (run_no for run_no, _ in places))
    wanted = []
    for (run_no, series_no), (key, value) in zip(places, rows, strict=True):
        if run_no not in living:
            continue  # being purged: a row written now would stay
        record = decode_series_record(value, key=key)
        digest = keyspace.series_hash(record.kind, record.name, record.context_text)
        index, values = series_name_term(record.kind, record.name)
        ref = SeriesRef(record.kind, record.name, record.context_text)
        of_run = keyspace.pack_index(Index.RUN_SERIES, (run_no, *values), run_no)
        wanted += [
            (keyspace.pack_series_id(run_no, digest), keyspace.pack_int(series_no)),
            (keyspace.pack_series_name(digest), msgspec.msgpack.encode(ref)),
            (keyspace.pack_index(index, values, run_no), b""),
            (of_run, b""),
        ]
    return wanted


def _of_experiments(_: ReadTransaction, rows: Rows) -> list[KeyValue]:
    return [
        (keyspace.pack_experiment_name(name), experiment_id.encode())
        for experiment_id, name in map(_experiment_name, rows)
    ]


def _of_tags(_: ReadTransaction, rows: Rows) -> list[KeyValue]:
    return [
        (keyspace.pack_tag_name(name), tag_id.encode())
        for tag_id, name in map(_tag_name, rows)
    ]


def _experiment_name(pair: KeyValue) -> tuple[str, str]:
    key, value = pair
    found = decode_experiment(
        value, experiment_id=keyspace.unpack_experiment(key), key=key
    )
    return found.experiment_id, found.name


def _tag_name(pair: KeyValue) -> tuple[str, str]:
    key, value = pair
    found = decode_tag(value, tag_id=keyspace.unpack_tag(key), key=key)
    return found.tag_id, found.name


# --- what no record asks for ---------------------------------------------------------


def _living(tr: ReadTransaction, run_numbers: Iterable[int]) -> frozenset[int]:
    wanted = list(dict.fromkeys(run_numbers))
    found = tr.get_many([keyspace.pack_run(number) for number in wanted])
    return frozenset(
        number for number, value in zip(wanted, found, strict=True) if value is not None
    )


def _runs(tr: ReadTransaction, run_numbers: Iterable[int]) -> dict[int, Run]:
    wanted = list(dict.fromkeys(run_numbers))
    keys = [keyspace.pack_run(number) for number in wanted]
    return {
        number: decode_run(value, number=number, key=key)
        for number, key, value in zip(wanted, keys, tr.get_many(keys), strict=True)
        if value is not None
    }


def _stale_run_ids(tr: ReadTransaction, rows: Rows) -> list[bytes]:
    numbers = [int.from_bytes(value, "big") for _, value in rows]
    runs = _runs(tr, numbers)
    return [
        key
        for (key, _), number in zip(rows, numbers, strict=True)
        if number not in runs or runs[number].run_id != keyspace.unpack_run_id(key)
    ]


def _stale_experiment_names(tr: ReadTransaction, rows: Rows) -> list[bytes]:
    keys = [keyspace.pack_experiment(value.decode()) for _, value in rows]
    named = {
        keyspace.pack_experiment_name(_experiment_name((key, value))[1])
        for key, value in zip(keys, tr.get_many(keys), strict=True)
        if value is not None
    }
    return [key for key, _ in rows if key not in named]


def _stale_tag_names(tr: ReadTransaction, rows: Rows) -> list[bytes]:
    keys = [keyspace.pack_tag(value.decode()) for _, value in rows]
    named = {
        keyspace.pack_tag_name(_tag_name((key, value))[1])
        for key, value in zip(keys, tr.get_many(keys), strict=True)
        if value is not None
    }
    return [key for key, _ in rows if key not in named]


def _stale_terms(tr: ReadTransaction, rows: Rows) -> list[bytes]:
    terms = [(key, *keyspace.unpack_index(key)) for key, _ in rows]
    runs = _runs(tr, (run_no for _, _, _, run_no in terms))
    keys = [indexes.purge_key(run_no) for _, _, _, run_no in terms]
    purges = tr.get_many(keys)
    return [
        key
        for (key, index, values, run_no), purge in zip(terms, purges, strict=True)
        if _is_stale(index, values, runs.get(run_no), is_purging=purge is not None)
    ]


def _is_stale(
    index: int, values: tuple[Any, ...], run: Run | None, *, is_purging: bool
) -> bool:
    if index in _OF_RUN:
        return run is None or (Index(index), values) not in indexes.run_terms(run)
    if index in {Index.SERIES_NAME, Index.RUN_SERIES}:
        return run is None and not is_purging
    # A run that is there must not be purged. Unknown indexes are a newer version's.
    return index == Index.PURGE and run is not None

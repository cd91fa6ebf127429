"""Backing a store up to one file, and restoring an empty store from it.

A backup holds all records: runs with everything of theirs, experiments, tags, notes,
documents, tombstones, control events not published yet. Index rows are left out and
built anew. Files in the blob store are not in it: back that up by its own means.

Consistency: everything of a run is of one moment. A small run is read in one
transaction; a large one is read twice, and again while the two differ. A run that keeps
changing is taken as it was read last and counted as unsettled. Different runs are of
different moments between the beginning and the end.

The file is made of frames, each complete in itself (`backup_file`). It is written under
another name and renamed when it is whole; a backup that was stopped goes on after the
last whole frame.

Design note: docs/subsystems/maintenance.md#back_up
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from backend.errors import InvalidInputError, RestoreTargetNotEmptyError
from backend.services.backup_file import BackupReader, BackupWriter, Frame, Section
from backend.services.long_work import Observer, Step, nobody
from backend.services.reindex import reindex
from backend.storage import keyspace
from backend.storage.engine.base import Engine, KeyValue, ReadTransaction, Transaction
from backend.storage.factory import Store as OpenStore
from backend.storage.format_version import RESTORING
from backend.storage.keyspace import Subspace
from backend.storage.repositories.notes import RUN as RUN_OWNER

if TYPE_CHECKING:
    from backend.storage.factory import Store

WHOLE_BYTES: Final = 8 << 20
"""A run of at most so many bytes is read in one transaction."""

FRAME_BYTES: Final = 1 << 20
READ_PAIRS: Final = 500
TRIES: Final = 4
COPY_VERSION: Final = 1

_SHARED: Final = (
    Subspace.EXPERIMENT,
    Subspace.TAG,
    Subspace.NOTE,
    Subspace.DOCUMENT,
    Subspace.TOMBSTONE,
    Subspace.OUTBOX,
    Subspace.REACTION,
    Subspace.SERIES_NAME,
)
"""Subspaces that belong to no run; names and indexes are built anew."""


@dataclass(slots=True)
class BackupReport:
    """What was written.

    Attributes:
        runs: Runs.
        keys: Keys, those of runs read again included.
        bytes: Size of the file so far.
        unsettled: Runs that changed whenever they were read.
    """

    runs: int = 0
    keys: int = 0
    bytes: int = 0
    unsettled: int = 0


def back_up(
    store: Store,
    path: Path,
    *,
    created_us: int,
    dry_run: bool = False,
    on_step: Observer = nobody,
) -> dict[str, Any]:
    """Write a backup; return a report.

    Goes on with one of this name that was stopped, which is `path` with ".partial".

    Args:
        store: The store; may be in use.
        path: The file to be.
        created_us: The present, noted in the file.
        dry_run: Read everything and write nothing.
        on_step: Told after each run; what it raises ends the work there.

    Raises:
        InvalidInputError: If there is a file of this name.
        OSError: If the file cannot be written.
        StoreError: If the store fails; call again to go on.
    """
    if path.exists():
        raise InvalidInputError(path=str(path), reason="the file exists")
    stamp = store.engine.read(lambda tr: tr.get(keyspace.pack_format())) or b""
    partial = None if dry_run else path.with_name(path.name + ".partial")
    report = BackupReport()
    total = store.engine.read(store.runs.count)
    with BackupWriter(partial, stamp=stamp, created_us=created_us) as writer:
        report.runs, report.keys = writer.resumed_runs, writer.resumed_keys
        _write_runs(store, writer, report, total=total, on_step=on_step)
        for space in _SHARED:
            _write_shared(store.engine, writer, space, report)
        writer.finish(runs=report.runs, keys=report.keys)
        report.bytes = writer.size
    if partial is not None:
        partial.replace(path)
    return asdict(report)


def _write_runs(
    store: Store,
    writer: BackupWriter,
    report: BackupReport,
    *,
    total: int,
    on_step: Observer,
) -> None:
    after = writer.last_run
    while True:

        def read(tr: ReadTransaction, after: int = after) -> list[tuple[int, str]]:
            page = store.runs.page(tr, limit=100, newest_first=False, after=after)
            return [(run.number, run.run_id) for run in page]

        page = store.engine.read(read)
        for number, run_id in page:
            keys, settled = _write_run(store.engine, writer, number, run_id)
            report.runs += 1
            report.keys += keys
            report.unsettled += not settled
            report.bytes = writer.size
            note = f"{writer.size / 1e6:,.0f} MB"
            on_step(Step(report.runs, total, note=note))
        if len(page) < 100:
            return
        after = page[-1][0]


def _write_run(
    engine: Engine, writer: BackupWriter, number: int, run_id: str
) -> tuple[int, bool]:
    """Write a run; return how many keys, and whether it is of one moment."""
    ranges = [
        *keyspace.run_data_ranges(number),
        keyspace.note_range(RUN_OWNER, run_id),
    ]
    whole = engine.read(lambda tr: _read_small(tr, ranges))
    if whole is not None:
        writer.write(Frame(Section.RUN, number, whole, part=0, last=True))
        return len(whole), True
    keys, seen = 0, b""
    for _ in range(TRIES):
        digest = hashlib.blake2b(digest_size=16)
        part = 0
        for pairs in _portions(_iter_ranges(engine, ranges)):
            for key, value in pairs:
                digest.update(len(key).to_bytes(4, "big") + key + value)
            writer.write(Frame(Section.RUN, number, pairs, part=part))
            part += 1
            keys += len(pairs)
        writer.write(Frame(Section.RUN, number, [], part=part, last=True))
        # Read again, not written: the same twice means that nothing changed between.
        again = hashlib.blake2b(digest_size=16)
        for key, value in _iter_ranges(engine, ranges):
            again.update(len(key).to_bytes(4, "big") + key + value)
        seen = digest.digest()
        if again.digest() == seen:
            return keys, True
    return keys, False


def _read_small(
    tr: ReadTransaction, ranges: list[keyspace.Range]
) -> list[KeyValue] | None:
    """Return all pairs, None if they are more than `WHOLE_BYTES`."""
    found: list[KeyValue] = []
    size = 0
    for begin, end in ranges:
        at = begin
        while True:
            pairs = tr.get_range(at, end, limit=READ_PAIRS, snapshot=True)
            found += pairs
            size += sum(len(key) + len(value) for key, value in pairs)
            if size > WHOLE_BYTES:
                return None
            if len(pairs) < READ_PAIRS:
                break
            at = pairs[-1][0] + b"\x00"
    return found


def _iter_ranges(engine: Engine, ranges: list[keyspace.Range]) -> Iterator[KeyValue]:
    for begin, end in ranges:
        at: bytes | None = begin
        while at is not None:

            def read(
                tr: ReadTransaction, at: bytes = at, end: bytes = end
            ) -> list[KeyValue]:
                return tr.get_range(at, end, limit=READ_PAIRS // 8, snapshot=True)

            pairs = engine.read(read)
            yield from pairs
            at = pairs[-1][0] + b"\x00" if len(pairs) == READ_PAIRS // 8 else None


def _portions(pairs: Iterator[KeyValue]) -> Iterator[list[KeyValue]]:
    portion: list[KeyValue] = []
    size = 0
    for pair in pairs:
        portion.append(pair)
        size += len(pair[0]) + len(pair[1])
        if size >= FRAME_BYTES:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def _write_shared(
    engine: Engine, writer: BackupWriter, space: Subspace, report: BackupReport
) -> None:
    pairs = _iter_ranges(engine, [keyspace.subspace_range(space)])
    if space is Subspace.NOTE:
        # Those of runs are with their runs.
        pairs = (p for p in pairs if keyspace.unpack_note(p[0])[0] != RUN_OWNER)
    for part, portion in enumerate(_portions(pairs)):
        writer.write(Frame(Section.SHARED, int(space), portion, part=part))
        report.keys += len(portion)


# --- restoring -----------------------------------------------------------------------


@dataclass(slots=True)
class RestoreReport:
    """What was restored.

    Attributes:
        runs: Runs.
        keys: Keys written.
        index_rows: Index rows built.
    """

    runs: int = 0
    keys: int = 0
    index_rows: int = 0


def restore(
    engine: Engine,
    path: Path,
    *,
    dry_run: bool = False,
    on_step: Observer = nobody,
) -> dict[str, Any]:
    """Fill an empty store from a backup; return a report.

    The file is checked from end to end before anything is written. Stopped, it is begun
    again by calling it again; until it is done the store cannot be opened.

    Args:
        engine: An engine that holds nothing, or a restore that was stopped.
        path: The backup.
        dry_run: Only check the file.
        on_step: Told after each frame; what it raises ends the work there.

    Raises:
        BackupDamagedError: If the file is damaged, or not whole.
        FormatError: If it is of a newer version.
        RestoreTargetNotEmptyError: If the engine holds anything else.
        OSError: If the file cannot be read.
        StoreError: If the store fails.
    """
    report = RestoreReport()
    reader = BackupReader(path)
    head = reader.check(on_step)
    if dry_run:
        report.runs, report.keys = head.runs, head.keys
        return asdict(report)
    engine.transact(_begin)
    for done, frame in enumerate(reader.frames()):
        _apply(engine, frame)
        report.keys += len(frame.pairs)
        report.runs += frame.section == Section.RUN and frame.last
        on_step(Step(done + 1, head.frames, note="restoring"))
    built = reindex(OpenStore(engine), on_step=on_step)
    report.index_rows = built["missing"]
    engine.transact(lambda tr: _finish(tr, head.stamp))
    return asdict(report)


def _begin(tr: Transaction) -> None:
    if tr.get(keyspace.pack_copy()) == RESTORING:
        return
    # A stamp alone is what a server leaves that was started on the empty store.
    found = [key for key, _ in tr.get_range(b"", b"\xff", limit=2)]
    if found not in ([], [keyspace.pack_format()]):
        raise RestoreTargetNotEmptyError(reason="it holds keys")
    tr.clear(keyspace.pack_format())
    tr.set(keyspace.pack_copy(), RESTORING)


def _apply(engine: Engine, frame: Frame) -> None:
    portions = list(_portions(iter(frame.pairs))) or [[]]
    for index, portion in enumerate(portions):

        def write(
            tr: Transaction, index: int = index, portion: list[KeyValue] = portion
        ) -> None:
            if frame.section == Section.RUN and not frame.part and not index:
                # The run may come once more, as it was read again.
                for begin, end in keyspace.run_data_ranges(frame.number):
                    tr.clear_range(begin, end)
            for key, value in portion:
                tr.set(key, value)

        engine.transact(write)


def _finish(tr: Transaction, stamp: bytes) -> None:
    tr.set(keyspace.pack_format(), stamp)
    tr.clear(keyspace.pack_copy())

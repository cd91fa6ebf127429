"""What must be true of runs, indexes and everything that has a name.

Every function looks at one window of a subspace; see `store_walk`.

Design note: docs/subsystems/engines.md#verifying-a-store
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import msgspec

from backend.domain.blobs import path_digest
from backend.domain.runs import Run
from backend.services.store_walk import (
    UNREADABLE,
    Expectation,
    Must,
    Owners,
    Problem,
    Walk,
    Window,
    of_living,
    read_rows,
    reason_of,
    unmet,
)
from backend.storage import indexes, keyspace
from backend.storage.codecs.frames import join_parts
from backend.storage.codecs.reactions import decode_reaction
from backend.storage.codecs.records import (
    decode_artifact,
    decode_blob_history,
    decode_experiment,
    decode_note,
    decode_run,
    decode_tag,
    decode_tombstone,
)
from backend.storage.codecs.run_states import decode_writer_state
from backend.storage.codecs.trees import decode_tree
from backend.storage.engine.base import ReadTransaction
from backend.storage.indexes import Index
from backend.storage.keyspace import Subspace
from backend.storage.repositories.notes import RUN

_NO_RUN: Final = "names a run that does not exist"
_OF_RUN: Final = frozenset(
    {Index.EXPERIMENT, Index.TAG, Index.ACTIVE, Index.ARCHIVED, Index.ANTEDATED}
)


def _read_run(key: bytes, value: bytes) -> Run:
    return decode_run(value, number=keyspace.unpack_run(key), key=key)


def check_runs(tr: ReadTransaction, window: Window) -> Iterator[Problem]:
    """Each run has its id row, its index rows, and names what exists."""
    runs, problems = read_rows(window.rows, _read_run)
    yield from problems
    wanted = []
    for key, run in runs:
        number = run.number.to_bytes(8, "big")
        wanted += [
            Expectation(
                key,
                keyspace.pack_run_id(run.run_id),
                number,
                f"its id {run.run_id} does not lead to it",
            ),
            Expectation(
                key,
                keyspace.pack_tombstone(run.run_id),
                Must.BE_ABSENT,
                f"its id {run.run_id} has a tombstone",
            ),
            Expectation(
                key,
                indexes.purge_key(run.number),
                Must.BE_ABSENT,
                "is marked for purging",
            ),
            *(
                Expectation(
                    key,
                    keyspace.pack_index(index, values, run.number),
                    b"",
                    f"is not in the index {index.name} under {_shown(values)}",
                )
                for index, values in sorted(indexes.run_terms(run))
            ),
            *(
                Expectation(
                    key, keyspace.pack_tag(tag), Must.EXIST, f"tag {tag} is missing"
                )
                for tag in run.tag_ids
            ),
        ]
        if run.experiment_id is not None:
            wanted.append(
                Expectation(
                    key,
                    keyspace.pack_experiment(run.experiment_id),
                    Must.EXIST,
                    f"experiment {run.experiment_id} is missing",
                )
            )
    yield from unmet(tr, wanted)


def check_run_ids(tr: ReadTransaction, window: Window) -> Iterator[Problem]:
    """Each id leads to a run of that id."""
    found, problems = read_rows(window.rows, _read_run_id)
    yield from problems
    targets = [keyspace.pack_run(number) for _, (_, number) in found]
    stored = tr.get_many(targets, snapshot=True)
    for (key, (run_id, _)), target, value in zip(found, targets, stored, strict=True):
        if value is None:
            yield Problem(key, _NO_RUN)
        elif _run_id_of(target, value) not in {run_id, None}:
            yield Problem(key, "leads to a run of another id")


def _read_run_id(key: bytes, value: bytes) -> tuple[str, int]:
    if len(value) != 8:
        msg = "a run number has 8 bytes"
        raise ValueError(msg)
    return keyspace.unpack_run_id(key), int.from_bytes(value, "big")


def _run_id_of(key: bytes, value: bytes) -> str | None:
    try:
        return _read_run(key, value).run_id
    except UNREADABLE:
        return None  # reported where the runs are checked


def check_indexes(tr: ReadTransaction, window: Window) -> Iterator[Problem]:
    """Each index row follows from a record, and each has its counterpart."""
    rows, problems = read_rows(window.rows, lambda key, _: keyspace.unpack_index(key))
    yield from problems
    yield from _terms_not_of_runs(tr, [row for row in rows if row[1][0] in _OF_RUN])
    names = [row for row in rows if row[1][0] in {Index.SERIES_NAME, Index.RUN_SERIES}]
    _, orphans = of_living(tr, names, lambda item: item[2])
    yield from orphans
    wanted = []
    for key, (index, values, run_no) in rows:
        if index == Index.SERIES_NAME:
            twin = keyspace.pack_index(Index.RUN_SERIES, (run_no, *values), run_no)
            wanted.append(Expectation(key, twin, b"", "its row RUN_SERIES is missing"))
        elif index == Index.RUN_SERIES:
            twin = keyspace.pack_index(Index.SERIES_NAME, values[1:], run_no)
            wanted.append(Expectation(key, twin, b"", "its row SERIES_NAME is missing"))
        elif index == Index.PURGE:
            run = keyspace.pack_run(run_no)
            wanted.append(Expectation(key, run, Must.BE_ABSENT, "the run still exists"))
        elif index not in _OF_RUN:
            yield Problem(key, "is of an unknown index")
    yield from unmet(tr, wanted)


def _terms_not_of_runs(
    tr: ReadTransaction, rows: list[tuple[bytes, tuple[int, Any, int]]]
) -> Iterator[Problem]:
    keys = [keyspace.pack_run(run_no) for _, (_, _, run_no) in rows]
    stored = tr.get_many(keys, snapshot=True)
    for (key, (index, values, _)), run_key, value in zip(
        rows, keys, stored, strict=True
    ):
        if value is None:
            yield Problem(key, _NO_RUN)
            continue
        try:
            run = _read_run(run_key, value)
        except UNREADABLE:
            continue  # reported where the runs are checked
        if (Index(index), values) not in indexes.run_terms(run):
            yield Problem(key, "the run is not (any more) what the row says")


def check_tombstones(_: ReadTransaction, window: Window) -> Iterator[Problem]:
    """Each tombstone can be read; that no run has its id is checked with the runs."""
    found, problems = read_rows(
        window.rows,
        lambda key, value: (
            keyspace.unpack_tombstone(key),
            decode_tombstone(value, key=key)[1].run_id,
        ),
    )
    yield from problems
    for key, (expected, run_id) in found:
        if expected != run_id:
            yield Problem(key, f"is that of the run id {run_id}")


@dataclass(frozen=True, slots=True)
class Named:
    """Records with an id and a unique name.

    Attributes:
        pack: Id -> key of the record.
        unpack: The reverse.
        pack_name: Name -> key of the row that leads to the id.
        name_of: Key and value of a record -> its name.
    """

    pack: Callable[[str], bytes]
    unpack: Callable[[bytes], str]
    pack_name: Callable[[str], bytes]
    name_of: Callable[[bytes, bytes], str]

    def check_records(self, tr: ReadTransaction, window: Window) -> Iterator[Problem]:
        """Each record can be read and owns its name."""
        found, problems = read_rows(
            window.rows,
            lambda key, value: (self.unpack(key), self.name_of(key, value)),
        )
        yield from problems
        yield from unmet(
            tr,
            [
                Expectation(
                    key,
                    self.pack_name(name),
                    record_id.encode(),
                    f"its name {name!r} does not lead to it",
                )
                for key, (record_id, name) in found
            ],
        )

    def check_names(self, tr: ReadTransaction, window: Window) -> Iterator[Problem]:
        """Each name leads to a record of that name."""
        found, problems = read_rows(
            window.rows, lambda _, value: self.pack(value.decode())
        )
        yield from problems
        records = tr.get_many([target for _, target in found], snapshot=True)
        for (key, target), value in zip(found, records, strict=True):
            if value is None:
                yield Problem(key, "leads to nothing")
                continue
            try:
                owned = self.pack_name(self.name_of(target, value))
            except UNREADABLE:
                continue  # reported with the record
            if owned != key:
                yield Problem(key, "leads to a record of another name")


EXPERIMENTS: Final = Named(
    keyspace.pack_experiment,
    keyspace.unpack_experiment,
    keyspace.pack_experiment_name,
    lambda key, value: decode_experiment(value, experiment_id="", key=key).name,
)

TAGS: Final = Named(
    keyspace.pack_tag,
    keyspace.unpack_tag,
    keyspace.pack_tag_name,
    lambda key, value: decode_tag(value, tag_id="", key=key).name,
)


def check_notes(tr: ReadTransaction, window: Window) -> Iterator[Problem]:
    """Each note can be read and has an owner."""
    found, problems = read_rows(
        window.rows,
        lambda key, value: decode_note(value, owner=keyspace.unpack_note(key), key=key),
    )
    yield from problems
    yield from unmet(
        tr,
        [
            Expectation(
                key,
                keyspace.pack_run_id(note.owner_id)
                if note.owner_kind == RUN
                else keyspace.pack_experiment(note.owner_id),
                Must.EXIST,
                f"is on a missing {note.owner_kind}",
            )
            for key, note in found
        ],
    )


def check_artifacts(tr: ReadTransaction, window: Window) -> Iterator[Problem]:
    """Each artifact can be read, stands under its path, and belongs to a run."""
    found, problems = read_rows(
        window.rows,
        lambda key, value: (
            *keyspace.unpack_artifact(key),
            decode_artifact(value, key=key).path,
        ),
    )
    yield from problems
    living, orphans = of_living(tr, found, lambda item: item[0])
    yield from orphans
    for key, (_, digest, path) in living:
        if keyspace.hash16(path) != digest:
            yield Problem(key, f"stands under another path than its own, {path!r}")


def check_blobs(tr: ReadTransaction, window: Window) -> Iterator[Problem]:
    """Each path's uploads can be read, stand under it, and belong to a run."""
    found, problems = read_rows(
        window.rows,
        lambda key, value: (
            *keyspace.unpack_blob(key),
            decode_blob_history(value, key=key).path,
        ),
    )
    yield from problems
    living, orphans = of_living(tr, found, lambda item: item[0])
    yield from orphans
    for key, (_, digest, path) in living:
        if path_digest(path) != digest:
            yield Problem(key, f"stand under another path than their own, {path!r}")


def check_writers(tr: ReadTransaction, window: Window) -> Iterator[Problem]:
    """Each writer's position can be read and belongs to a run."""
    found, problems = read_rows(window.rows, _read_writer)
    yield from problems
    yield from of_living(tr, found, lambda run_no: run_no)[1]


def _read_writer(key: bytes, value: bytes) -> int:
    decode_writer_state(value, key=key)
    return keyspace.unpack_writer(key)[0]


def check_attributes(tr: ReadTransaction, window: Window) -> Iterator[Problem]:
    """Each attribute tree is whole, can be read, and belongs to a run."""
    found, problems = read_rows(
        window.rows, lambda key, _: keyspace.unpack_attributes(key)
    )
    yield from problems
    values = dict(window.rows)
    owners = Owners(tr, (run_no for _, (run_no, _) in found))
    for run_no, parts in groupby(found, key=lambda item: item[1][0]):
        rows = list(parts)
        orphan = owners.judge(rows[0][0], run_no)
        if orphan is not None:
            yield orphan
        else:
            yield from _check_tree(rows, values)


def check_documents(_: ReadTransaction, window: Window) -> Iterator[Problem]:
    """Each document is whole and can be read."""
    found, problems = read_rows(
        window.rows, lambda key, _: keyspace.unpack_document(key)
    )
    yield from problems
    values = dict(window.rows)
    for _, parts in groupby(found, key=lambda item: item[1][:2]):
        yield from _check_tree(list(parts), values)


def _check_tree(
    rows: list[tuple[bytes, Any]], values: dict[bytes, bytes]
) -> Iterator[Problem]:
    """Check one value in parts; the last element of each unpacked key is the part."""
    first = rows[0][0]
    if [item[-1] for _, item in rows] != list(range(len(rows))):
        yield Problem(first, "a part of it is missing")
        return
    try:
        decode_tree(join_parts([values[key] for key, _ in rows]), key=first)
    except UNREADABLE as error:
        yield Problem(first, reason_of(error))


def check_outbox(_: ReadTransaction, window: Window) -> Iterator[Problem]:
    """Each control event can be read."""
    yield from read_rows(window.rows, _read_event)[1]


def _read_event(_: bytes, value: bytes) -> None:
    json.loads(msgspec.msgpack.decode(value, type=tuple[int, str, bytes])[2])


def check_reactions(_: ReadTransaction, window: Window) -> Iterator[Problem]:
    """Each event to be acted on can be read."""
    yield from read_rows(
        window.rows, lambda key, value: decode_reaction(value, key=key)
    )[1]


def attributes_of(key: bytes) -> bytes:
    """Return the prefix of one run's attributes."""
    try:
        return keyspace.run_prefix(
            Subspace.ATTRIBUTES, keyspace.unpack_attributes(key)[0]
        )
    except UNREADABLE:
        return key


def document_of(key: bytes) -> bytes:
    """Return the prefix of one document's parts."""
    try:
        collection, document_id, _ = keyspace.unpack_document(key)
        return keyspace.document_range(collection, document_id)[0][:-1]
    except UNREADABLE:
        return key


def _shown(values: tuple[Any, ...]) -> str:
    return " ".join(str(value) for value in values)


WALKS: Final = (
    Walk("runs", Subspace.RUN, check_runs),
    Walk("run ids", Subspace.RUN_ID, check_run_ids),
    Walk("indexes", Subspace.INDEX, check_indexes, rows=512),
    Walk("tombstones", Subspace.TOMBSTONE, check_tombstones),
    Walk("experiments", Subspace.EXPERIMENT, EXPERIMENTS.check_records),
    Walk("experiment names", Subspace.EXPERIMENT_NAME, EXPERIMENTS.check_names),
    Walk("tags", Subspace.TAG, TAGS.check_records),
    Walk("tag names", Subspace.TAG_NAME, TAGS.check_names),
    Walk("notes", Subspace.NOTE, check_notes, rows=64),
    Walk("artifacts", Subspace.ARTIFACT, check_artifacts),
    Walk("uploads", Subspace.BLOB, check_blobs, rows=64),
    Walk("writers", Subspace.WRITER, check_writers),
    Walk("attributes", Subspace.ATTRIBUTES, check_attributes, 64, attributes_of),
    Walk("documents", Subspace.DOCUMENT, check_documents, 64, document_of),
    Walk("control events", Subspace.OUTBOX, check_outbox),
    Walk("events to be acted on", Subspace.REACTION, check_reactions),
)

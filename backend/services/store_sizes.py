"""How many bytes the store holds, by what they are and of which run.

Bytes are those of keys and values; what the engine needs beside them is in
`Engine.size_bytes`. Reading everything takes long in a large store, so at most a number
of runs, evenly spread over time, is measured and the rest estimated from them; a run of
very many keys is measured in part. Nothing is written.

Design note: docs/subsystems/maintenance.md#measure_store
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from backend.domain.runs import Run
from backend.services.damage import read_page
from backend.services.long_work import Observer, Step, nobody
from backend.storage import indexes, keyspace
from backend.storage.engine.base import ReadTransaction
from backend.storage.keyspace import Subspace

if TYPE_CHECKING:
    from backend.storage.factory import Store

ROWS: Final = 500
LARGEST: Final = 50
RUN_ROWS: Final = 200_000
"""Keys of one run that are measured, at most, per subspace."""

SHARED_ROWS: Final = 200_000

KINDS: Final[dict[str, tuple[Subspace, ...]]] = {
    "points": (Subspace.CHUNK, Subspace.CHUNK_SUMMARY),
    "not sealed yet": (Subspace.TAIL, Subspace.TAIL_PAYLOAD),
    "series": (Subspace.SERIES, Subspace.SERIES_ID),
    "attributes": (Subspace.ATTRIBUTES,),
    "artifacts and uploads": (Subspace.ARTIFACT, Subspace.BLOB),
    "run records": (
        Subspace.RUN,
        Subspace.RUN_STATE,
        Subspace.WRITER,
        Subspace.SEALING,
    ),
}
"""What people call the subspaces of a run."""

SHARED: Final[dict[str, tuple[Subspace, ...]]] = {
    "indexes": (Subspace.INDEX, Subspace.RUN_ID, Subspace.SERIES_NAME),
    "experiments and tags": (
        Subspace.EXPERIMENT,
        Subspace.EXPERIMENT_NAME,
        Subspace.TAG,
        Subspace.TAG_NAME,
    ),
    "notes and documents": (Subspace.NOTE, Subspace.DOCUMENT),
    "tombstones": (Subspace.TOMBSTONE,),
    "control events": (Subspace.OUTBOX, Subspace.REACTION),
}
"""The same of what belongs to no run."""


@dataclass(slots=True)
class RunSize:
    """Bytes of one run.

    Attributes:
        bytes: By kind, as in `KINDS`.
        keys: Keys counted.
        complete: Whether that is all of it; otherwise it is at least that.
    """

    bytes: dict[str, int] = field(default_factory=dict)
    keys: int = 0
    complete: bool = True

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.bytes.values())


def measure_run(store: Store, run_number: int, *, max_rows: int = RUN_ROWS) -> RunSize:
    """Return the bytes of a run, of at most `max_rows` keys a subspace.

    Raises:
        StoreError: If the store fails.
    """
    size = RunSize()
    for kind, spaces in KINDS.items():
        for space in spaces:
            prefix = keyspace.run_prefix(space, run_number)
            found, keys, complete = _measure(
                store, (prefix, prefix + b"\xff"), max_rows=max_rows
            )
            size.bytes[kind] = size.bytes.get(kind, 0) + found
            size.keys += keys
            size.complete &= complete
    return size


def measure_store(
    store: Store, *, max_runs: int, on_step: Observer = nobody
) -> dict[str, Any]:
    """Return the bytes of the whole store by kind, and the largest runs.

    Args:
        store: The store; may be in use.
        max_runs: Runs measured at most; with more in the store the rest is estimated.
        on_step: Told after each run; what it raises ends the work there.

    Raises:
        StoreError: If the store fails.
    """
    total = store.engine.read(store.runs.count)
    stride = max(1, -(-total // max(1, max_runs)))
    measured = keys = seen = 0
    partial = False
    kinds: dict[str, int] = dict.fromkeys(KINDS, 0)
    largest: list[tuple[int, int, dict[str, Any]]] = []
    for run in _iter_runs(store):
        seen += 1
        if (seen - 1) % stride:
            continue
        size = measure_run(store, run.number)
        measured += 1
        keys += size.keys
        partial |= not size.complete
        for kind, found in size.bytes.items():
            kinds[kind] += found
        entry = {
            "run_id": run.run_id,
            "name": run.name,
            "bytes": size.total,
            "complete": size.complete,
            "kinds": size.bytes,
        }
        heapq.heappush(largest, (size.total, run.number, entry))
        if len(largest) > LARGEST:
            heapq.heappop(largest)
        on_step(Step(seen, total, note=f"{measured:,} runs measured"))
    scale = seen / measured if measured else 1.0
    shared = {kind: _shared(store, spaces) for kind, spaces in SHARED.items()}
    return {
        "runs": seen,
        "measured_runs": measured,
        "estimated": measured < seen or partial,
        "keys": round(keys * scale),
        "kinds": {kind: round(found * scale) for kind, found in kinds.items()},
        "shared": shared,
        "largest": [entry for _, _, entry in sorted(largest, reverse=True)],
        "disk_bytes": store.engine.size_bytes(),
        "purging": len(
            store.engine.read(lambda tr: indexes.list_purges(tr, limit=1000))
        ),
    }


def _iter_runs(store: Store) -> Iterator[Run]:
    before: int | None = None
    while True:

        def read(tr: ReadTransaction, before: int | None = before) -> list[Run]:
            return read_page(store.runs, tr, limit=ROWS, before=before)

        page = store.engine.read(read)
        yield from page
        if len(page) < ROWS:
            return
        before = page[-1].number


def _shared(store: Store, spaces: tuple[Subspace, ...]) -> int:
    ranges = [keyspace.subspace_range(space) for space in spaces]
    return sum(_measure(store, r, max_rows=SHARED_ROWS)[0] for r in ranges)


def _measure(
    store: Store, where: keyspace.Range, *, max_rows: int
) -> tuple[int, int, bool]:
    """Return bytes and keys of a range, and whether that is all of it."""
    begin, end = where
    size = keys = 0
    while keys < max_rows:
        limit = min(ROWS, max_rows - keys)

        def read(
            tr: ReadTransaction, begin: bytes = begin, limit: int = limit
        ) -> tuple[int, int, bytes]:
            rows = tr.get_range(begin, end, limit=limit, snapshot=True)
            found = sum(len(key) + len(value) for key, value in rows)
            return found, len(rows), rows[-1][0] if rows else begin

        found, count, last = store.engine.read(read)
        size += found
        keys += count
        if count < limit:
            return size, keys, True
        begin = last + b"\x00"
    return size, keys, False

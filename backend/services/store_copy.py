"""Copying a store to another, engine to engine, key by key.

Both engines hold the same bytes, so a copy needs to know nothing of what they mean.

1. Copy: the source is read batch by batch, each in a transaction of its own, and
   written in transactions of about 1 MB, each of which also notes how far it is.
2. Compare: both stores are read side by side; what differs is put right, until a
   pass finds nothing. This is what makes the copy exact although the source was read
   at many moments, and after a resume.
3. Finish: one transaction removes the note and writes the format stamp.

Until step 3 the target is marked as unfinished and cannot be opened as a store. A copy
may be stopped anywhere and resumed. Memory: a few MB, whatever the size.

Design note: docs/subsystems/engines.md#copying-a-store
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import msgspec

from backend.errors import (
    FormatError,
    InvalidInputError,
    SourceChangingError,
    TargetNotEmptyError,
)
from backend.storage import keyspace
from backend.storage.codecs.frames import corrupt
from backend.storage.engine.base import Engine, KeyValue, ReadTransaction, Transaction

WRITE_BYTES: Final = 1_000_000
WRITE_PAIRS: Final = 5_000
READ_PAIRS: Final = 1_000
MAX_PASSES: Final = 5

_ALL: Final = (b"", b"\xff")
_APART: Final = frozenset({keyspace.pack_format(), keyspace.pack_copy()})
"""Keys that are not copied but written by the first and the last step."""


class CopyProgress(msgspec.Struct, array_like=True):
    """How far a copy is; kept in the target until it is finished.

    Attributes:
        version: Of this record.
        source: What the caller calls the source; a resume must name the same.
        after: Everything up to this key is copied.
        pairs: Keys copied.
        copied_bytes: Their keys and values.
        repaired: Keys put right by comparing.
        compared: Keys compared in the present pass.
        copy_id: Random, chosen when the copy began.
    """

    version: int
    source: str
    after: bytes = b""
    pairs: int = 0
    copied_bytes: int = 0
    repaired: int = 0
    compared: int = 0
    copy_id: bytes = b""


Observer = Callable[[CopyProgress], None]
P = TypeVar("P", bound=tuple[bytes, bytes | None])


def copy_store(  # noqa: PLR0913 - what the command lets choose
    source: Engine,
    target: Engine,
    *,
    source_name: str,
    resume: bool = False,
    compare: bool = True,
    on_progress: Observer = lambda _: None,
) -> CopyProgress:
    """Copy everything in `source` to `target`; return what was done.

    Args:
        source: A store; nothing is written to it.
        target: An engine that holds nothing, or an unfinished copy when resuming.
        source_name: What to call the source, noted for a resume.
        resume: Go on with a copy that was stopped; begins one if the target is empty.
        compare: Compare the stores and put differences right.
        on_progress: Called after each transaction, in this thread.

    Raises:
        InvalidInputError: If the source is not a finished store, or the copy to resume
            is of another source.
        TargetNotEmptyError: If the target holds anything else.
        SourceChangingError: If the last of `MAX_PASSES` comparisons still found
            differences.
        StoreError: If either store fails; what was copied stays.
    """
    stamp, unfinished = source.read(
        lambda tr: tr.get_many([keyspace.pack_format(), keyspace.pack_copy()])
    )
    if stamp is None or unfinished is not None:
        raise InvalidInputError(source=source_name, reason="not a finished store")
    begun = CopyProgress(1, source_name, copy_id=secrets.token_bytes(8))
    progress = target.transact(lambda tr: _begin(tr, begun, resume=resume))
    on_progress(progress)
    _copy(source, target, progress, on_progress)
    if compare:
        _converge(source, target, progress, on_progress)
    target.transact(lambda tr: _finish(tr, stamp))
    return progress


def _begin(tr: Transaction, begun: CopyProgress, *, resume: bool) -> CopyProgress:
    noted = tr.get(keyspace.pack_copy())
    if noted is not None:
        progress = _decode(noted)
        # The same id: this very transaction was committed and is run again.
        if not resume and progress.copy_id != begun.copy_id:
            raise TargetNotEmptyError(reason="an unfinished copy")
        if progress.source != begun.source:
            raise InvalidInputError(
                reason="the target is a copy of another source", source=progress.source
            )
        return progress
    # A stamp alone is what a server leaves that was started on the empty store.
    found = [key for key, _ in tr.get_range(*_ALL, limit=2)]
    if found not in ([], [keyspace.pack_format()]):
        raise TargetNotEmptyError(reason="it holds keys")
    tr.clear(keyspace.pack_format())
    _note(tr, begun)
    return begun


def _copy(
    source: Engine, target: Engine, progress: CopyProgress, on_progress: Observer
) -> None:
    begin = progress.after + b"\x00" if progress.after else b""
    for portion in _portions(_iter_pairs(source, begin)):
        progress.after = portion[-1][0]
        progress.pairs += len(portion)
        progress.copied_bytes += _size(portion)

        def write(tr: Transaction, portion: list[KeyValue] = portion) -> None:
            for key, value in portion:
                tr.set(key, value)
            _note(tr, progress)

        target.transact(write)
        on_progress(progress)


def _converge(
    source: Engine, target: Engine, progress: CopyProgress, on_progress: Observer
) -> None:
    found = 0
    for _ in range(MAX_PASSES):
        found = _repair(source, target, progress, on_progress)
        if not found:
            return
        progress.repaired += found
    raise SourceChangingError(differences=found)


def _repair(
    source: Engine, target: Engine, progress: CopyProgress, on_progress: Observer
) -> int:
    """Compare the stores once; return how many keys had to be put right."""
    repaired = 0
    progress.compared = 0

    def counted() -> Iterator[KeyValue]:
        for pair in _iter_pairs(source, b""):
            progress.compared += 1
            if progress.compared % READ_PAIRS == 0:
                on_progress(progress)
            yield pair

    for portion in _portions(_differences(counted(), _iter_pairs(target, b""))):

        def write(
            tr: Transaction, portion: list[tuple[bytes, bytes | None]] = portion
        ) -> None:
            for key, value in portion:
                if value is None:
                    tr.clear(key)
                else:
                    tr.set(key, value)

        target.transact(write)
        repaired += len(portion)
    on_progress(progress)
    return repaired


def _differences(
    wanted: Iterator[KeyValue], found: Iterator[KeyValue]
) -> Iterator[tuple[bytes, bytes | None]]:
    """Yield what must be written to `found` to equal `wanted`; None: to be cleared."""
    have = next(found, None)
    for key, value in wanted:
        while have is not None and have[0] < key:
            yield have[0], None
            have = next(found, None)
        if have is None or have[0] != key:
            yield key, value
            continue
        if have[1] != value:
            yield key, value
        have = next(found, None)
    while have is not None:
        yield have[0], None
        have = next(found, None)


def _iter_pairs(engine: Engine, begin: bytes) -> Iterator[KeyValue]:
    """Yield all pairs to be copied, each batch read in a transaction of its own."""
    limit = READ_PAIRS // 8
    while True:

        def read(
            tr: ReadTransaction, begin: bytes = begin, limit: int = limit
        ) -> list[KeyValue]:
            return tr.get_range(begin, _ALL[1], limit=limit, snapshot=True)

        pairs = engine.read(read)
        yield from (pair for pair in pairs if pair[0] not in _APART)
        if len(pairs) < limit:
            return
        begin = pairs[-1][0] + b"\x00"
        # As many as make up about one write, judged by what the last ones took.
        wanted = WRITE_BYTES * len(pairs) // max(_size(pairs), 1)
        limit = min(max(wanted, 8), 2 * limit, READ_PAIRS)


def _portions(pairs: Iterator[P]) -> Iterator[list[P]]:
    """Yield `pairs` in lists that each fit one transaction well."""
    portion: list[P] = []
    size = 0
    for pair in pairs:
        portion.append(pair)
        size += len(pair[0]) + len(pair[1] or b"")
        if size >= WRITE_BYTES or len(portion) >= WRITE_PAIRS:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def _size(pairs: list[KeyValue]) -> int:
    return sum(len(key) + len(value) for key, value in pairs)


def _finish(tr: Transaction, stamp: bytes) -> None:
    tr.set(keyspace.pack_format(), stamp)
    tr.clear(keyspace.pack_copy())


def _note(tr: Transaction, progress: CopyProgress) -> None:
    tr.set(keyspace.pack_copy(), msgspec.msgpack.encode(progress))


def _decode(value: bytes) -> CopyProgress:
    key = keyspace.pack_copy()
    try:
        progress = msgspec.msgpack.decode(value, type=CopyProgress)
    except msgspec.DecodeError as error:
        raise corrupt(key, str(error)) from error
    if progress.version != 1:
        raise FormatError(key=key.hex(), found=progress.version, supported=1)
    return progress

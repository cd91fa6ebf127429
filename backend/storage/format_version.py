"""The store's on-disk format number, and what each one means.

A store says at `keyspace.pack_format()` which format wrote it. `open_store` calls
`check_format` first: an empty store is stamped with the newest format, a newer one is
refused with `FormatError` before anything else is read or written. A layout change adds
a member to `FormatVersion`, an upgrade path and a test that reads the old bytes.

Design note: backend/storage/README.md#format
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from backend.errors import FormatError
from backend.storage import keyspace
from backend.storage.engine.base import Engine, Transaction


class FormatVersion(IntEnum):
    """Every format there has been. Numbers ascend and are never reused."""

    V1 = 1
    """The first: key space and value codecs as `keyspace.py` and `codecs/` of 1.0.

    An older reader does not exist.
    """


CURRENT: Final = FormatVersion.V1

RESTORING: Final = b"restore"
"""At `keyspace.pack_copy()` while a restore is not finished."""


def check_format(engine: Engine) -> FormatVersion:
    """Return the store's format, stamping an empty store with the newest.

    Raises:
        FormatError: If the store was written in a format this version does not know,
            or is the unfinished target of a copy.
    """
    found = engine.read(lambda tr: tr.get(keyspace.pack_format()))
    if found is None:
        found = engine.transact(_stamp)
    return _parse(found)


def _stamp(tr: Transaction) -> bytes:
    # Two processes may open an empty store at once: whoever is second keeps the
    # first's.
    stored, copying = tr.get_many([keyspace.pack_format(), keyspace.pack_copy()])
    if copying == RESTORING:
        raise FormatError(
            reason="an unfinished restore; begin it again with manage.py restore FILE",
            key="copy",
        )
    if copying is not None:
        raise FormatError(
            reason="an unfinished copy of another store; finish it with "
            "manage.py store copy --resume",
            key="copy",
        )
    if stored is None:
        stored = str(int(CURRENT)).encode()
        tr.set(keyspace.pack_format(), stored)
    return stored


def _parse(found: bytes) -> FormatVersion:
    try:
        return FormatVersion(int(found))
    except ValueError:
        raise FormatError(
            found=found[:32].decode("ascii", "replace"),
            supported=[int(version) for version in FormatVersion],
            key="format",
        ) from None

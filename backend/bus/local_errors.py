"""What errors of LMDB and of the disk mean to users of the local event log.

Design note: docs/subsystems/eventlog.md#full
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import lmdb

from backend.errors import EventLogError, EventLogFullError, EventLogUnavailableError

SCARCE_BYTES: Final = 16 << 20
"""An I/O error with less free disk than this is a full disk: LMDB reports a write that
the disk took only in part as EIO."""


def translate(error: Exception, path: Path) -> EventLogError:
    """Return what an error of LMDB or of the disk means to a caller."""
    if _is_full(error, path):
        return EventLogFullError(path=str(path), reason=str(error))
    return EventLogUnavailableError(path=str(path), reason=str(error))


def _is_full(error: Exception, path: Path) -> bool:
    code = getattr(error, "code", 0) or getattr(error, "errno", 0)
    if isinstance(error, (lmdb.MapFullError, lmdb.DiskError)):
        return True
    if code in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return True
    return code == errno.EIO and _room_bytes(path) < SCARCE_BYTES


def _room_bytes(path: Path) -> int:
    try:
        disk = os.statvfs(path)
        size = (path / "data.mdb").stat().st_size
    except OSError:
        return SCARCE_BYTES
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    room = disk.f_bavail * disk.f_frsize
    return room if limit == resource.RLIM_INFINITY else min(room, limit - size)


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise what errors inside the block mean."""
    try:
        yield
    except (lmdb.Error, OSError) as error:
        raise translate(error, path) from error

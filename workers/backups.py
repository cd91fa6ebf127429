"""Backups as files: named by time, pruned, kept in an object store where one is set.

A backup is always written to a directory first: only a file can be gone on with after
its worker was killed. With `STORAGES["backups"]` (django-storages) it then goes there,
is compared by size, and the file is removed.

Every step can be repeated: a name means one moment, and writing it again changes
nothing.

Design note: docs/subsystems/maintenance.md#back_up
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from django.conf import settings
from django.core.files import File
from django.core.files.storage import Storage, storages

from backend.errors import BlobStoreError, InvalidInputError, MatyanError

ALIAS: Final = "backups"
PREFIX: Final = "matyan-"
SUFFIX: Final = ".matyan-backup"
COPY_BYTES: Final = 1 << 20


def backup_name(begun_us: int) -> str:
    """Return the file name of the backup begun at this moment."""
    begun = datetime.fromtimestamp(begun_us / 1e6, UTC)
    return f"{begun:{PREFIX}%Y%m%d-%H%M%S}{SUFFIX}"


def find_storage() -> Storage | None:
    """Return the storage that backups go to; None if they stay in a directory."""
    return storages[ALIAS] if ALIAS in settings.STORAGES else None


def working_directory(directory: str) -> Path | None:
    """Return where backups are written; None if nobody wants any.

    Args:
        directory: `MATYAN_BACKUP_DIR`.
    """
    if directory:
        return Path(directory)
    return Path(settings.DATA_DIR) / "backups" if find_storage() else None


def move_to_storage(path: Path, storage: Storage) -> str:
    """Upload a whole backup and remove the file; return its name there.

    Raises:
        BlobStoreError: If the storage fails, or has not kept all of it; the file stays.
        OSError: If the file cannot be read.
    """
    size = path.stat().st_size
    with _translated("keep"), path.open("rb") as file:
        name = str(storage.save(path.name, File(file, name=path.name)))
        kept = storage.size(name)
    if kept != size:
        raise BlobStoreError(operation="keep", name=name, kept=kept, size=size)
    path.unlink()
    return name


def list_storage(storage: Storage) -> list[str]:
    """Return the names of the backups in a storage, newest first.

    Raises:
        BlobStoreError: If the storage fails.
    """
    with _translated("list"):
        _, names = storage.listdir("")
    return sorted(filter(_is_backup, names), reverse=True)


def prune_storage(storage: Storage, *, keep: int) -> list[str]:
    """Remove all but the newest backups; return their names.

    Raises:
        BlobStoreError: If the storage fails.
    """
    old = list_storage(storage)[max(1, keep) :]
    for name in old:
        with _translated("delete"):
            storage.delete(name)
    return old


def prune_directory(directory: Path, *, keep: int) -> list[str]:
    """Remove all but the newest backups; return their names."""
    whole = sorted(directory.glob(f"{PREFIX}*{SUFFIX}"), reverse=True)
    old = whole[max(1, keep) :]
    if whole:
        old += _overtaken(directory, whole[0].name)
    for path in old:
        path.unlink(missing_ok=True)
    return [path.name for path in old]


def prune_partial(directory: Path, *, newest: str) -> list[str]:
    """Remove what was stopped before the backup `newest` was begun."""
    old = _overtaken(directory, newest)
    for path in old:
        path.unlink(missing_ok=True)
    return [path.name for path in old]


@contextmanager
def fetched(name: str, storage: Storage) -> Iterator[Path]:
    """Yield a copy of a backup of the storage, gone afterwards.

    Raises:
        InvalidInputError: If there is none of this name.
        BlobStoreError: If the storage fails.
        OSError: If there is no room for the copy.
    """
    with _translated("look for"):
        is_there = _is_backup(name) and storage.exists(name)
    if not is_there:
        raise InvalidInputError(name=name, reason="the storage has no such backup")
    directory = Path(settings.DATA_DIR) / "backups"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / f"{name}.fetched"
    try:
        with (
            _translated("fetch"),
            storage.open(name, "rb") as source,
            path.open("wb") as target,
        ):
            shutil.copyfileobj(source, target, COPY_BYTES)
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def _translated(operation: str) -> Iterator[None]:
    """Raise what a storage's own library raises in our words."""
    try:
        yield
    except (MatyanError, OSError):
        raise
    except Exception as error:  # the vendors' errors have no base in common
        raise BlobStoreError(operation=operation, reason=str(error)[:300]) from error


def _is_backup(name: str) -> bool:
    return name.startswith(PREFIX) and name.endswith(SUFFIX) and "/" not in name


def _overtaken(directory: Path, newest: str) -> list[Path]:
    partial = directory.glob(f"{PREFIX}*{SUFFIX}.partial")
    return [path for path in partial if path.name < newest]

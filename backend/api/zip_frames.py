"""A zip archive as frames: begun at once, never whole in memory.

Members are stored as they are (models and pictures hardly shrink), with 64-bit sizes.
Their names cannot lead out of the directory they are extracted in.

Design note: docs/subsystems/blobs.md#downloads
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from backend.blobs.base import OpenBlob

_EARLIEST: Final = (1980, 1, 1, 0, 0, 0)
_LATEST: Final = (2107, 12, 31, 23, 59, 58)


@dataclass(frozen=True, slots=True)
class ZipMember:
    """One file to be.

    Attributes:
        path: Its path, as a client named it.
        time_us: Shown as its time, microseconds since the epoch.
        open: Opens it; None if it is not there, and then it is left out.
    """

    path: str
    time_us: int
    open: Callable[[], OpenBlob | None]


def zip_frames(members: Iterable[ZipMember]) -> Iterator[bytes]:
    """Yield the archive of `members`, in their order.

    Raises:
        Exception: Whatever opening or reading one raises; the archive is then cut off,
            and no reader takes it for whole.
    """
    sink, names = _Sink(), ZipNames()
    # Without closing it in a `finally`: an archive that was cut off must not get its
    # directory.
    archive = zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED)
    for member in members:
        blob = member.open()
        if blob is None:
            continue
        info = zipfile.ZipInfo(names.place(member.path), _date_time(member.time_us))
        info.external_attr = 0o644 << 16
        with blob, archive.open(info, "w", force_zip64=True) as target:
            yield sink.take()
            for chunk in blob:
                target.write(chunk)
                yield sink.take()
    archive.close()
    yield sink.take()


class ZipNames:
    """Gives each file of an archive a name that is its own and stays inside."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._directories: set[str] = set()

    def place(self, path: str) -> str:
        """Return the member name for `path`."""
        parts = [
            part.replace(":", "_")
            for part in path.replace("\\", "/").split("/")
            if part not in {"", ".", ".."}
        ] or ["file"]
        # A file cannot stand where another member needs a directory.
        for depth in range(1, len(parts)):
            while "/".join(parts[:depth]) in self._files:
                parts[depth - 1] += "_"
        while (name := "/".join(parts)) in self._files | self._directories:
            stem, dot, suffix = parts[-1].rpartition(".")
            parts[-1] = f"{stem}_{dot}{suffix}" if stem else f"{parts[-1]}_"
        self._files.add(name)
        self._directories.update(
            "/".join(parts[:depth]) for depth in range(1, len(parts))
        )
        return name


class _Sink:
    """Where the archive writes: a place without a way back."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    def write(self, chunk: bytes) -> int:
        self._chunks.append(bytes(chunk))
        return len(chunk)

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Nothing is open here."""

    def take(self) -> bytes:
        """Return what has been written since the last call."""
        taken = b"".join(self._chunks)
        self._chunks.clear()
        return taken


def _date_time(time_us: int) -> tuple[int, int, int, int, int, int]:
    shown = datetime.fromtimestamp(time_us / 1e6, UTC).timetuple()[:6]
    return min(max(shown, _EARLIEST), _LATEST)

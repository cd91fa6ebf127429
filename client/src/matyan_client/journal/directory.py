"""Journal directories: where they are, whose they are, and which are left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import psutil

from matyan_client import _env, console

FORMAT: Final = 1
"""Of the whole directory; a newer one is left alone and named."""

LOCK_NAME: Final = "lock"
META_NAME: Final = "meta.json"
CLOSED_NAME: Final = "closed"
"""There when the owner closed the run, rather than being killed."""

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """What a journal says of itself.

    Attributes:
        format: `FORMAT` of the SDK that wrote it.
        run_id: The run.
        writer: The writer, as in `Position.writer`.
        backend_url: Where the run's owner looked for the backend.
        frontier_url: The gateway it was given, "" for "the same host". Neither holds
            credentials: whoever delivers brings them.
        ca_bundle: File with further certificates the owner trusted, "" for none.
        verify_tls: Whether the owner checked certificates.
        boot_id: The machine's boot; another one means the page cache was lost.
        process_id: The owner.
        created_us: When the journal was made, microseconds since the epoch.
    """

    format: int = FORMAT
    run_id: str
    writer: str
    backend_url: str
    frontier_url: str = ""
    ca_bundle: str = ""
    verify_tls: bool = True
    boot_id: str = ""
    process_id: int = 0
    created_us: int = 0


class JournalLock:
    """The exclusive lock of a journal, released when the process ends.

    A forked child shares the lock: it must `abandon` its copy, which leaves the
    parent's in place.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, directory: Path, *, sign: bool = True) -> JournalLock | None:
        """Return the lock, or None if someone holds it or the journal is gone.

        Args:
            directory: The journal.
            sign: Whether to say in it who holds it; not for a look at its state.
        """
        try:
            descriptor = os.open(
                directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever delivered it may have removed it between the open and the lock.
            if os.fstat(descriptor).st_nlink:
                if sign:
                    _sign(descriptor)
                return cls(descriptor)
        except OSError:
            pass
        os.close(descriptor)
        return None

    def abandon(self) -> None:
        """Close this process's copy. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _sign(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # a full disk: only what is said depends on it
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)


def holder(directory: Path, meta: Meta) -> int:
    """Return the process that holds a journal whose lock is taken; 0 if unknown."""
    with contextlib.suppress(OSError, ValueError):
        return int((directory / LOCK_NAME).read_text())
    return meta.process_id


def boot_id() -> str:
    """Return what changes when the machine restarts."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return str(int(psutil.boot_time()))


def journals_dir(state_dir: Path) -> Path:
    """Return the directory holding all journals."""
    return state_dir / "journals"


def make_directory(state_dir: Path, *, run_id: str, writer: str) -> Path:
    """Create a journal directory, in the temporary directory if need be.

    Says so if the directory was chosen by MATYAN_DIR.

    Raises:
        OSError: If it cannot be created in either place.
    """
    name = f"{run_id}.{writer}"
    failure = OSError("no directory")
    fallback = Path(tempfile.gettempdir()) / f"matyan-{os.getuid()}"
    for parent in (journals_dir(state_dir), journals_dir(fallback)):
        directory = parent / name
        try:
            parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.mkdir(mode=0o700)
        except OSError as error:
            failure = error
            continue
        if parent != journals_dir(state_dir) and _env.STATE_DIR.get():
            console.warn(
                f"MATYAN_DIR={state_dir} cannot be written ({failure.strerror}); what "
                f"waits to be delivered is kept under {fallback} instead, which may "
                "not outlive the machine."
            )
        return directory
    raise failure


def new_writer() -> str:
    """Return a fresh writer id."""
    return uuid.uuid4().hex


def write_meta(directory: Path, meta: Meta) -> None:
    """Store `meta`, whole or not at all.

    Raises:
        OSError: If it cannot be written.
    """
    partial = directory / f"{META_NAME}.partial"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(meta))
    partial.replace(directory / META_NAME)


def read_meta(directory: Path) -> Meta | None:
    """Return the journal's description; None when there is none that can be used."""
    try:
        return msgspec.json.decode((directory / META_NAME).read_bytes(), type=Meta)
    except (OSError, msgspec.MsgspecError):
        return None


def mark_closed(directory: Path) -> None:
    """Note that the owner closes the run; nothing depends on it but what is said."""
    with contextlib.suppress(OSError):
        (directory / CLOSED_NAME).touch(mode=0o600)


def was_closed(directory: Path) -> bool:
    """Return whether the owner closed the run."""
    return (directory / CLOSED_NAME).exists()


def iter_journals(state_dir: Path) -> Iterator[tuple[Path, Meta]]:
    """Yield every journal with its description, oldest first."""
    fallback = Path(tempfile.gettempdir()) / f"matyan-{os.getuid()}"
    found: list[tuple[int, Path, Meta]] = []
    for parent in {journals_dir(state_dir), journals_dir(fallback)}:
        directories: list[Path] = []
        with contextlib.suppress(OSError):
            directories = [path for path in parent.iterdir() if path.is_dir()]
        for directory in directories:
            meta = read_meta(directory)
            if meta is not None:
                found.append((meta.created_us, directory, meta))
    for _, directory, meta in sorted(found, key=lambda entry: entry[:2]):
        yield directory, meta


def remove(directory: Path) -> None:
    """Delete a journal, its description first so that nobody begins to deliver it."""
    (directory / META_NAME).unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)


def disk_bytes(directory: Path) -> int:
    """Return the disk space a journal has reserved."""
    total = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file():
                total += path.stat().st_size
    return total

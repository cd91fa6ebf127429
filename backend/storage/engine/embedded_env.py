"""The LMDB environment of the embedded engine: opening, sharing, growing, recovering.

A change of the memory map (growing it, adopting another process's growth, opening
again after a failed write of the meta page) ends every transaction of the process.
Whoever finds that it is needed raises `RecoveryNeededError`, which unwinds its own
transaction; the engine then calls `recover`, which waits for the others, and runs the
transaction again.

Files: data.mdb and lock.mdb are LMDB's, commit.lock is `WriterLock`'s.
Limits: keys up to 511 bytes (LMDB's); a map up to the address space.

Design note: docs/subsystems/engines.md#the-embedded-engine
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

import lmdb

from backend.errors import (
    NetworkFilesystemError,
    StoreClosedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)
from backend.storage.engine.embedded_gate import Gate, WriterLock
from backend.storage.engine.filesystems import filesystem_of, is_network_filesystem

logger = logging.getLogger(__name__)

INTERNAL_PREFIX: Final = b"\xff"
"""Keys from here on are the engine's own; callers cannot reach them."""

_TICK_KEY: Final = INTERNAL_PREFIX + b"tick"
_PAGE: Final = 4096
_LARGEST_DOUBLING: Final = 64 << 30
_LITTLE_ROOM: Final = 1 << 20
_READER_CHECK_S: Final = 10.0
_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class EnvironmentOptions:
    """How to open the environment.

    Attributes:
        map_bytes: First size of the memory map; it grows by doubling.
        max_map_bytes: Size at which the store is full, None for no bound but the disk.
        durable: Whether a commit waits until the disk has it.
        max_readers: Read transactions at a time, over all processes.
        patience_s: How long a change of the map waits for running transactions.
        allow_network_filesystem: Whether to open on a network file system.
    """

    map_bytes: int
    max_map_bytes: int | None
    durable: bool
    max_readers: int
    patience_s: float
    allow_network_filesystem: bool

    @property
    def spare_bytes(self) -> int:
        """Room above `max_map_bytes`, so that a full store can still be cleared."""
        return max(16 * _PAGE, (self.max_map_bytes or 0) // 16)


class Recovery(Enum):
    """What has to happen before a transaction can succeed."""

    GROW = "grow"
    ADOPT = "adopt"
    REOPEN = "reopen"
    READERS = "readers"
    RETRY = "retry"


class RecoveryNeededError(StoreError):
    """Unwinds a transaction; never leaves the engine."""

    def __init__(
        self, recovery: Recovery, generation: int, *, only_clears: bool = False
    ) -> None:
        super().__init__(recovery=recovery.value)
        self.recovery = recovery
        self.generation = generation
        self.only_clears = only_clears


class Environment:
    """One open LMDB directory of this process; `embedded_registry` opens it once.

    Thread-safe.
    """

    def __init__(self, path: Path, options: EnvironmentOptions) -> None:
        self.path = path
        self.options = options
        self.gate = Gate()
        self.writer_lock = WriterLock(path / "commit.lock")
        self.changed = threading.Condition()
        """Notified after each commit of this process."""
        self.generation = 0
        """Grows with each change of the map."""
        self._pid = os.getpid()
        self._closed = False
        self._over_limit = False
        # Closed to be opened anew, which has not succeeded yet.
        self._lost = False
        self._map_bytes = _round_up(options.map_bytes)
        self._next_reader_check = 0.0
        try:
            _reserve_lock_file(path, options.max_readers)
            self._env = self._open(self._map_bytes)
        except lmdb.Error as error:
            self.writer_lock.close()
            raise self.translate(error) from error
        except OSError as error:
            self.writer_lock.close()
            raise _translate_os_error(error, path) from error
        self._remove_dead_readers()

    def _open(self, map_size: int) -> lmdb.Environment:
        durable = self.options.durable
        if self.options.max_map_bytes is not None:
            map_size = min(map_size, _round_up(self.options.max_map_bytes))
        return lmdb.open(
            os.fspath(self.path),
            map_size=map_size,
            max_readers=self.options.max_readers,
            mode=0o700,
            sync=durable,
            metasync=durable,
            # A cached reader keeps its slot, which a fork would then share.
            max_spare_txns=0,
        )

    # Transactions

    def require_usable(self) -> None:
        """Raise `StoreClosedError` when closed or in a forked child."""
        if self._closed:
            raise StoreClosedError(path=str(self.path))
        if os.getpid() != self._pid:
            reason = "opened before this process was forked; open it after"
            raise StoreClosedError(path=str(self.path), reason=reason)

    def begin(self, *, write: bool = False) -> lmdb.Transaction[bytes]:
        """Begin an LMDB transaction; the caller is inside the gate."""
        self.require_usable()
        try:
            return self._env.begin(write=write)
        except lmdb.Error as error:
            raise self.translate(error) from error

    def last_commit(self) -> int:
        """Return the number of the last commit by any process; cheap.

        It rises a moment before that commit can be read, by the time of an fsync.
        """
        self.require_usable()
        self.gate.enter(timeout_s=2 * self.options.patience_s)
        try:
            return self._env.info()["last_txnid"]
        except lmdb.Error as error:
            raise self.translate(error) from error
        finally:
            self.gate.leave()

    def notify(self) -> None:
        """Wake those who wait for a change."""
        with self.changed:
            self.changed.notify_all()

    def size_bytes(self) -> int:
        """Return the size of the data file."""
        self.require_usable()
        return (self.path / "data.mdb").stat().st_size

    def translate(self, error: lmdb.Error, *, only_clears: bool = False) -> StoreError:
        """Return what the engine raises for an LMDB error."""
        for kind, recovery in _RECOVERIES:
            if isinstance(error, kind):
                return RecoveryNeededError(
                    recovery, self.generation, only_clears=only_clears
                )
        if error.code in _DISK_FULL or (error.code == errno.EIO and self._disk_full()):
            reason = os.strerror(errno.ENOSPC)
            return StoreFullError(path=str(self.path), reason=reason)
        if self._closed:
            return StoreClosedError(path=str(self.path))
        if error.code == 0 and "closed/deleted" in str(error):
            # The map changed beneath a transaction older than it may be.
            recovery = Recovery.REOPEN if self._lost else Recovery.RETRY
            return RecoveryNeededError(recovery, self.generation)
        if error.code > 0:
            return StoreUnavailableError(path=str(self.path), reason=str(error))
        return StoreError(path=str(self.path), reason=str(error))

    def _disk_full(self) -> bool:
        # LMDB says "input/output error" when only a part of a write found room.
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize < _LITTLE_ROOM

    # Recovery

    def recover(self, need: RecoveryNeededError, *, attempt: int) -> None:
        """Do what `need` asks; the caller holds no transaction.

        Args:
            need: What was found.
            attempt: How often this transaction has asked before.

        Raises:
            StoreFullError: If the map may not grow any further.
            StoreUnavailableError: If all reader slots stay taken.
        """
        self.require_usable()
        if need.recovery is Recovery.GROW:
            self._grow(need, attempt)
        elif need.recovery is Recovery.ADOPT:
            self._remap(need.generation, lambda: self._env.set_mapsize(0))
        elif need.recovery is Recovery.REOPEN:
            self._remap(need.generation, self._reopen)
        elif need.recovery is Recovery.READERS and not self._remove_dead_readers():
            if attempt > 8:
                reason = "every reader slot is taken"
                raise StoreUnavailableError(
                    reason=reason, max_readers=self.options.max_readers
                )
            time.sleep(0.001 * 2**attempt)

    def maintain(self) -> None:
        """Remove dead readers now and then; called with each commit."""
        now_s = time.monotonic()
        if now_s >= self._next_reader_check:
            self._next_reader_check = now_s + _READER_CHECK_S
            self._remove_dead_readers()

    def settle(self) -> None:
        """Give back the spare room used to clear a full store."""
        if not self._over_limit:
            return
        limit = self.options.max_map_bytes
        assert limit is not None  # noqa: S101 - over a limit that exists
        with self._remapping() as alone:
            if alone:
                self._over_limit = False
                self._tick()
                self._env.set_mapsize(_round_up(limit))

    def _grow(self, need: RecoveryNeededError, attempt: int) -> None:
        if self._remove_dead_readers() and attempt == 0:
            return
        current = self._env.info()["map_size"]
        limit = self.options.max_map_bytes
        if limit is None or current < _round_up(limit):
            size = current + min(current, _LARGEST_DOUBLING)
            if limit is not None:
                size = min(size, _round_up(limit))
            self._remap(need.generation, lambda: self._env.set_mapsize(size))
            logger.info(
                "store.map_grown", extra={"path": str(self.path), "map_bytes": size}
            )
            return
        self._use_spare_room(limit, need, attempt)

    def _use_spare_room(
        self, limit: int, need: RecoveryNeededError, attempt: int
    ) -> None:
        full = _round_up(limit) + self.options.spare_bytes
        if need.only_clears and self._env.info()["map_size"] < full:
            self._over_limit = True
            self._remap(need.generation, lambda: self._env.set_mapsize(full))
            return
        if need.only_clears or attempt > 0:
            reason = "the store has reached its size limit"
            raise StoreFullError(path=str(self.path), reason=reason, limit=limit)
        # Pages freed by the last commits become usable only after further commits.
        with self._remapping() as alone:
            if alone:
                self._env.set_mapsize(full)
                self._tick()
                self._env.set_mapsize(_round_up(limit))

    def _tick(self) -> None:
        # The caller is alone: a thread that waits here for another's commit would
        # keep that one from ever being aborted.
        deadline_s = time.monotonic() + self.options.patience_s
        with suppress(lmdb.MapFullError, StoreUnavailableError):
            self.writer_lock.acquire(deadline_s=deadline_s)
            try:
                for number in range(2):
                    with self._env.begin(write=True) as txn:
                        txn.put(_TICK_KEY, bytes((number,)))
            finally:
                self.writer_lock.release()

    def _reopen(self) -> None:
        logger.error("store.reopened", extra={"path": str(self.path)})
        if not self._lost:
            self._map_bytes = self._env.info()["map_size"]
            self._lost = True
            self._env.close()
        self._env = self._open(self._map_bytes)
        self._lost = False

    def _remap(self, generation: int, change: Callable[[], None]) -> None:
        with self._remapping():
            if generation == self.generation:
                change()

    @contextmanager
    def _remapping(self) -> Iterator[bool]:
        with self.gate.alone(patience_s=self.options.patience_s) as alone:
            self.require_usable()
            try:
                yield alone
            except lmdb.Error as error:
                raise self.translate(error) from error
            finally:
                self.generation += 1

    def _remove_dead_readers(self) -> int:
        try:
            removed = self._env.reader_check()
        except lmdb.Error as error:
            raise self.translate(error) from error
        if removed:
            logger.warning(
                "store.dead_readers_removed",
                extra={"path": str(self.path), "readers": removed},
            )
        return removed

    # Closing

    def close(self) -> None:
        """Close the files once running transactions have ended."""
        if self._closed or os.getpid() != self._pid:
            return
        with self.gate.alone(patience_s=self.options.patience_s):
            self._closed = True
            self._env.close()
            self.writer_lock.close()
        self.notify()


_RECOVERIES: Final[tuple[tuple[type[lmdb.Error], Recovery], ...]] = (
    (lmdb.MapFullError, Recovery.GROW),
    (lmdb.MapResizedError, Recovery.ADOPT),
    (lmdb.PanicError, Recovery.REOPEN),
    (lmdb.ReadersFullError, Recovery.READERS),
    (lmdb.BadTxnError, Recovery.RETRY),
    (lmdb.BadRslotError, Recovery.RETRY),
)


def make_directory(path: Path, options: EnvironmentOptions) -> None:
    """Make `path`, readable by its owner only, unless it exists.

    Raises:
        NetworkFilesystemError: If it is on a network file system.
        StoreFullError: If there is no room.
        StoreUnavailableError: If it cannot be made.
    """
    filesystem = filesystem_of(path.resolve())
    if is_network_filesystem(filesystem) and not options.allow_network_filesystem:
        raise NetworkFilesystemError(path=str(path), filesystem=filesystem)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _translate_os_error(error, path) from error


def _translate_os_error(error: OSError, path: Path) -> StoreError:
    kind = StoreFullError if error.errno in _DISK_FULL else StoreUnavailableError
    return kind(path=str(path), reason=error.strerror or str(error))


def _reserve_lock_file(path: Path, max_readers: int) -> None:
    # The reader table is a memory map of a sparse file: on a full disk the first use
    # of a new slot would kill the process (SIGBUS), so its blocks are taken now. Only
    # before LMDB opens the file: closing a descriptor drops its record locks.
    descriptor = os.open(
        path / "lock.mdb", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
        # Never longer than it is: other processes have mapped it as it was.
        size = os.fstat(descriptor).st_size or 256 + 64 * max_readers
        os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


def _round_up(size: int) -> int:
    return max(-(-size // _PAGE), 16) * _PAGE

"""The LMDB environment of a local event log, shared by everything in one process.

LMDB must not have the same files open twice in a process, nor use them after a fork,
and its memory map may only be resized while no transaction of the process is active.
`LocalEnvironment` sees to all three: it is opened once per process and path (counted),
belongs to the process that opened it, and lets transactions pass through a gate that a
resize closes. The map grows by itself, whichever process filled it.

Errors of LMDB and of the disk leave here as `EventLogError`s; a transaction that raised
one has changed nothing.

Thread rules: `read` and `write` may be called from any thread and block (`write` waits
for the one writer of all processes). The functions passed must not call them again.

Design note: docs/subsystems/eventlog.md
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import lmdb

from backend.bus import local_format as fmt
from backend.bus.local_errors import translate, translated
from backend.errors import (
    EventLogClosedError,
    EventLogUnavailableError,
    FormatError,
)

T = TypeVar("T")

MAX_READERS: Final = 512
LARGEST_GROWTH_BYTES: Final = 16 << 30
FORK_PAUSE_S: Final = 5.0

_open_lock = threading.Lock()
_open: dict[str, LocalEnvironment] = {}
_inherited: list[LocalEnvironment] = []
_paused: list[LocalEnvironment] = []


class LocalEnvironment:
    """One open environment; see the module. Made by `acquire` only.

    Attributes:
        path: Directory of the log.
        log_id: Identity of the log, made when it was created.
        records: Database of the records.
        state: Database of everything else.
    """

    def __init__(self, path: Path, *, map_bytes: int, durable: bool) -> None:
        self.path = path
        self.users = 0
        self.pid = os.getpid()
        self._gate = threading.Condition()
        # One thread at a time may wait for LMDB's write lock: py-lmdb counts a waiting
        # thread as being inside LMDB, and the holder could then never abort.
        self._writing = threading.Lock()
        self._active = 0
        self._resizing = False
        self._map_bytes = map_bytes
        self._durable = durable
        self._env: Any = None
        path.mkdir(parents=True, exist_ok=True)
        self._open()
        try:
            self.log_id = self.write(self._initialise)
        except BaseException:
            self._close()
            raise

    def read(self, fn: Callable[[Any], T]) -> T:
        """Return `fn(transaction)`, reading at one point in the log's history.

        Raises:
            EventLogClosedError: If the environment is closed or of a parent process.
            EventLogUnavailableError: If LMDB or the disk failed.
        """
        while True:
            try:
                with self._passing(), self._env.begin() as txn:
                    return fn(txn)
            except lmdb.MapResizedError:
                self._adopt_map()
            except lmdb.PanicError as error:
                self._open_again(error)
            except (lmdb.Error, OSError) as error:
                raise translate(error, self.path) from error

    def write(self, fn: Callable[[Any], T]) -> T:
        """Return `fn(transaction)` after committing it durably.

        `fn` runs again if the map was too small. What it raises undoes the transaction.

        Raises:
            EventLogClosedError: If the environment is closed or of a parent process.
            EventLogFullError: If the disk is full.
            EventLogUnavailableError: If LMDB or the disk failed otherwise.
        """
        while True:
            map_bytes = 0
            try:
                with self._writing, self._passing():
                    map_bytes = self._env.info()["map_size"]
                    return self._write_once(fn)
            except lmdb.MapResizedError:
                self._adopt_map()
            except lmdb.MapFullError:
                self._grow_map(map_bytes)
            except lmdb.PanicError as error:
                self._open_again(error)
            except (lmdb.Error, OSError) as error:
                raise translate(error, self.path) from error

    def last_change(self) -> int:
        """Return a number that rises with every commit of any process.

        It rises a moment before the commit can be read.
        """
        with self._passing():
            return int(self._env.info()["last_txnid"])

    def free_disk_bytes(self) -> int:
        """Return how much more the disk would take."""
        disk = os.statvfs(self.path)
        return disk.f_bavail * disk.f_frsize

    def drop_dead_readers(self) -> None:
        """Forget readers that died in a transaction: they would keep old pages."""
        with self._passing():
            self._env.reader_check()

    def is_inherited(self) -> bool:
        """Return whether this process was forked after the environment was opened."""
        return self.pid != os.getpid()

    def check_usable(self) -> None:
        """Refuse a closed environment and one opened by a parent process.

        Raises:
            EventLogClosedError: If it is one of these.
        """
        if self.is_inherited():
            raise EventLogClosedError(path=str(self.path), reason="opened before fork")
        if self._env is None:
            raise EventLogClosedError(path=str(self.path))

    def release(self) -> None:
        """Give up one use; the last one closes the files."""
        with _open_lock:
            self.users -= 1
            if self.users:
                return
            if _open.get(str(self.path)) is self:
                del _open[str(self.path)]
            with self._exclusive():
                self._close()

    def abandon(self) -> None:
        """Drop, in a forked child, the parent's files; the parent keeps using them."""
        self._close()

    def _write_once(self, fn: Callable[[Any], T]) -> T:
        txn = self._env.begin(write=True)
        try:
            result = fn(txn)
        except BaseException:
            self._abort(txn)
            raise
        txn.commit()
        return result

    def _abort(self, txn: Any) -> None:
        # py-lmdb aborts a write only once no other thread is inside LMDB, which
        # readers that follow one another would put off for ever.
        with self._gate:
            closed_here = not self._resizing
            self._resizing = True
        try:
            txn.abort()
        finally:
            if closed_here:
                self.resume()

    @contextlib.contextmanager
    def _passing(self) -> Iterator[None]:
        if self.is_inherited():
            self.check_usable()
        with self._gate:
            while self._resizing:
                self._gate.wait()
            self.check_usable()
            self._active += 1
        try:
            yield
        finally:
            with self._gate:
                self._active -= 1
                if not self._active:
                    self._gate.notify_all()

    def pause(self, *, timeout_s: float | None = None) -> bool:
        """Let no transaction begin and wait for those under way.

        Returns whether they ended in time; either way `resume` must follow.
        """
        with self._gate:
            self._gate.wait_for(lambda: not self._resizing)
            self._resizing = True
            return self._gate.wait_for(lambda: not self._active, timeout_s)

    def resume(self) -> None:
        """Let transactions begin again."""
        with self._gate:
            self._resizing = False
            self._gate.notify_all()

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def _open(self) -> None:
        env = lmdb.open(
            str(self.path),
            map_size=self._map_bytes,
            max_dbs=4,
            max_readers=MAX_READERS,
            sync=self._durable,
            metasync=self._durable,
        )
        try:
            env.reader_check()
            self.records = _open_database(env, b"records")
            self.state = _open_database(env, b"state")
        except BaseException:
            env.close()
            raise
        self._env = env

    def _close(self) -> None:
        env, self._env = self._env, None
        if env is not None:
            env.close()

    def _open_again(self, error: lmdb.Error) -> NoReturn:
        # LMDB refuses everything once it could not write its root page: what was
        # committed is safe, and the files must be opened anew.
        with self._exclusive(), translated(self.path):
            self._close()
            self._open()
        raise EventLogUnavailableError(path=str(self.path), reason=str(error))

    def _adopt_map(self) -> None:
        # Another process has grown the map: 0 means "as large as the file says".
        with self._exclusive(), translated(self.path):
            self.check_usable()
            self._env.set_mapsize(0)

    def _grow_map(self, full_bytes: int) -> None:
        with self._exclusive(), translated(self.path):
            self.check_usable()
            # Another thread may have grown it in the meantime.
            if self._env.info()["map_size"] <= full_bytes:
                growth = min(full_bytes, LARGEST_GROWTH_BYTES)
                self._env.set_mapsize(full_bytes + growth)

    def _initialise(self, txn: Any) -> str:
        found = txn.get(fmt.FORMAT_KEY, db=self.state)
        if found is None:
            log_id = f"local-{secrets.token_hex(12)}"
            txn.put(fmt.FORMAT_KEY, fmt.encode_number(fmt.FORMAT), db=self.state)
            txn.put(fmt.LOG_ID_KEY, log_id.encode(), db=self.state)
            return log_id
        if fmt.decode_number(found) != fmt.FORMAT:
            number = fmt.decode_number(found)
            raise FormatError(path=str(self.path), found=number, supported=fmt.FORMAT)
        stored: bytes = txn.get(fmt.LOG_ID_KEY, db=self.state)
        return stored.decode()


def acquire(path: Path, *, map_bytes: int, durable: bool) -> LocalEnvironment:
    """Return this process's environment of `path`, opening it if need be.

    Each call must be matched by one `release`. The options of the first one count.

    Raises:
        EventLogFullError: If there is no room to create it.
        EventLogUnavailableError: If it cannot be opened.
        FormatError: If another version wrote it.
    """
    path = path.resolve()
    with _open_lock:
        while _inherited:
            _inherited.pop().abandon()
        found = _open.get(str(path))
        if found is None:
            with translated(path):
                found = LocalEnvironment(path, map_bytes=map_bytes, durable=durable)
            _open[str(path)] = found
        found.users += 1
        return found


def _before_fork() -> None:
    # The child can only close its parent's files if no transaction was under way.
    _open_lock.acquire()
    for env in _open.values():
        env.pause(timeout_s=FORK_PAUSE_S)
        _paused.append(env)


def _after_fork_in_parent() -> None:
    while _paused:
        _paused.pop().resume()
    _open_lock.release()


def _after_fork_in_child() -> None:
    _inherited.extend(_open.values())
    _open.clear()
    _paused.clear()
    _open_lock.release()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)


def _open_database(env: Any, name: bytes) -> Any:
    while True:
        try:
            return env.open_db(name)
        except lmdb.MapResizedError:
            # Another process has grown the map since the environment was opened.
            env.set_mapsize(0)

"""The native client of FoundationDB: loading it, its futures, what they hold.

The one module that imports the `fdb` binding. libfdb_c is looked for when the first
engine is constructed, never before: in the binding's own directory, then where the
dynamic loader looks (`/usr/lib` with the foundationdb-clients package, or
`LD_LIBRARY_PATH`), unless a path is given.

One network thread per process serves every database; it starts with the first and
cannot be started again, so a child forked afterwards can never use FoundationDB. TLS,
trace files and external clients are configured by libfdb_c's own environment variables
(`FDB_TLS_*`, `FDB_NETWORK_OPTION_*`).

Design note: docs/subsystems/engines.md#foundationdb
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

import fdb

from backend.errors import StoreError, StoreUnavailableError
from backend.storage.engine.base import KeyRange, KeyValue
from backend.storage.engine.fdb_errors import TIMED_OUT, translate

API_VERSION: Final = 730

Native = Any
"""A transaction, database or future of the binding, which has no types."""

_PAIR: Final = struct.Struct("=QiQi")
"""FDBKeyValue as libfdb_c lays it out: address and length of key, then of value."""

_NO_LIMIT: Final = 2**31 - 1

_bytes_at: Final = ctypes.PYFUNCTYPE(
    ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t
)(("PyBytes_FromStringAndSize", ctypes.pythonapi))

_lock = threading.Lock()
_loaded_by: int | None = None


@dataclass(frozen=True, slots=True)
class Buggify:
    """How often the client makes requests fail, for tests; holds for the process.

    Attributes:
        activated_percent: Share of the places of failure that are ever used.
        fired_percent: How often such a place fails.
    """

    activated_percent: int = 25
    fired_percent: int = 25


def open_database(
    cluster_file: str | None, *, library: str | None, buggify: Buggify | None
) -> Native:
    """Return the database of `cluster_file`, one per process and cluster file.

    Args:
        cluster_file: Path; None: `FDB_CLUSTER_FILE`, else FoundationDB's default.
        library: Path of libfdb_c; None: where the loader finds it. Only the first
            opening of a process loads it.
        buggify: Failures to inject from now on in the whole process.

    Raises:
        StoreUnavailableError: If libfdb_c cannot be loaded, the cluster file cannot be
            used, or the process is a fork of one that had FoundationDB open.
    """
    with _lock:
        _load(library)
        if buggify is not None:
            _enable(buggify)
        try:
            return fdb.open(cluster_file)
        except fdb.FDBError as error:
            raise store_error(error) from None


def _load(library: str | None) -> None:
    global _loaded_by  # noqa: PLW0603 - one network thread per process is the point
    if _loaded_by not in {None, os.getpid()}:
        raise StoreUnavailableError(reason="FoundationDB was open before the fork")
    try:
        if library is not None and _loaded_by is None:
            # The binding asks the loader for "libfdb_c.so", which is this one from now
            # on, as both have the same SONAME.
            ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
        fdb.api_version(API_VERSION)
    except Exception as error:
        # The binding itself raises nothing more particular.
        raise StoreUnavailableError(
            reason=f"libfdb_c cannot be loaded: {error}", library=library
        ) from error
    _loaded_by = os.getpid()


def _enable(buggify: Buggify) -> None:
    options = fdb.options
    options.set_client_buggify_enable()
    options.set_client_buggify_section_activated_probability(buggify.activated_percent)
    options.set_client_buggify_section_fired_probability(buggify.fired_percent)


def store_error(error: Any) -> StoreError:
    """Return our error for an `FDBError`."""
    return translate(
        error.code,
        error.description.decode(),
        retryable=fdb.predicates.is_retryable(error),
        maybe_committed=fdb.predicates.is_maybe_committed(error),
    )


class Patience:
    """Waits for futures until a moment that is the same for all of them.

    Not the client's own time-out of a transaction: a commit that one cancels may happen
    later, after another attempt. Here an attempt ends undecided only when no other
    follows.
    """

    def __init__(self, timeout_s: float) -> None:
        self._deadline_s = time.monotonic() + timeout_s

    def result_of(self, future: Native) -> Any:
        """Return what `future` holds once it is ready.

        Raises:
            StoreUnavailableError: If it is not ready in time.
            StoreError: What FoundationDB answered.
        """
        self.wait(future)
        try:
            return future.wait()
        except fdb.FDBError as error:
            raise store_error(error) from None

    def bytes_of(self, future: Native) -> bytes | None:
        """Return the bytes of a future of a value or a key, None for a missing key.

        Raises:
            StoreUnavailableError: If it is not ready in time.
            StoreError: What FoundationDB answered.
        """
        self.wait(future)
        try:
            value: bytes | None = future.value
        except fdb.FDBError as error:
            raise store_error(error) from None
        return value

    def wait(self, future: Native) -> None:
        """Block until `future` is ready, whatever it holds.

        Raises:
            StoreUnavailableError: If it is not ready in time.
        """
        if future.is_ready():
            return
        ready = threading.Lock()
        ready.acquire()
        future.on_ready(lambda _: ready.release())
        left_s = max(self._deadline_s - time.monotonic(), 0)
        if not ready.acquire(timeout=left_s):
            future.cancel()
            raise translate(TIMED_OUT, "", retryable=False, maybe_committed=False)


class RangeRead:
    """One range on its way: started when made, complete after `pairs`."""

    def __init__(self, native: Native, item: KeyRange, *, snapshot: bool) -> None:
        self._native = native
        self._item = item
        self._snapshot = snapshot
        self._begin = item.begin
        self._end = item.end
        self._left = item.limit or _NO_LIMIT
        self._future = self._ask()

    def pairs(self, patience: Patience) -> list[KeyValue]:
        """Return all pairs.

        Raises:
            StoreUnavailableError: If they do not arrive in time.
            StoreError: What FoundationDB answered.
        """
        found: list[KeyValue] = []
        future = self._future
        while future is not None:
            patience.wait(future)
            address, count, more = self._arrived(future)
            raw = ctypes.string_at(address, count * _PAIR.size) if count else b""
            following = self._follow(raw, count) if more and count else None
            # The next batch is under way while this one is copied.
            found += [
                (_bytes_at(key, key_bytes), _bytes_at(value, value_bytes))
                for key, key_bytes, value, value_bytes in _PAIR.iter_unpack(raw)
            ]
            future = following
        return found

    def _follow(self, raw: bytes, count: int) -> Native | None:
        self._left -= count
        if self._left <= 0:
            return None
        key, key_bytes, _, _ = _PAIR.unpack_from(raw, len(raw) - _PAIR.size)
        last = _bytes_at(key, key_bytes)
        if self._item.reverse:
            self._end = last
        else:
            self._begin = last + b"\x00"
        return self._ask()

    def _ask(self) -> Native:
        native = self._native
        # "exact" joins the batches inside the native client. Of 90 MB in large values
        # it read 470 to 570 MB/s where "want_all" read 310 to 370 (a batch of 80 kB
        # each, with Python in between); of small values 1.0 to 1.2 M pairs/s, as fast
        # as any other mode.
        return fdb.Future(
            native.capi.fdb_transaction_get_range(
                native.tpointer,
                *(self._begin, len(self._begin), 0, 1),
                *(self._end, len(self._end), 0, 1),
                *(self._left, 0, fdb.StreamingMode.exact, 1),
                self._snapshot,
                self._item.reverse,
            )
        )

    def _arrived(self, future: Native) -> tuple[Any, int, bool]:
        pairs = ctypes.POINTER(fdb.impl.KeyValueStruct)()
        count = ctypes.c_int()
        more = ctypes.c_int()
        try:
            future.capi.fdb_future_get_keyvalue_array(
                future.fpointer,
                ctypes.byref(pairs),
                ctypes.byref(count),
                ctypes.byref(more),
            )
        except fdb.FDBError as error:
            raise store_error(error) from None
        return pairs, count.value, bool(more.value)

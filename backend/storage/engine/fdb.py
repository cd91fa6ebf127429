"""The FoundationDB engine, for a cluster of any size.

The contract is `base.py`'s. FoundationDB keeps most of it by itself; added here are the
smaller limits both engines share, an age bound that does not depend on the cluster's
mood, faults on demand, errors in our words, and one retry loop bounded in time.

Any number of engines may be open in a process; those of one cluster file share a
connection. Constructing an engine loads libfdb_c; importing this module does not.

Design note: docs/subsystems/engines.md#foundationdb
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final, TypeVar

from typing_extensions import override

from backend.errors import (
    CommitUnknownResultError,
    StoreClosedError,
    StoreError,
    TransactionConflictError,
)
from backend.storage.engine.base import (
    Engine,
    Limits,
    ReadTransaction,
    Transaction,
)
from backend.storage.engine.bounds import KEY_SPACE_END
from backend.storage.engine.faults import Fault, FaultInjector
from backend.storage.engine.fdb_errors import READ_RETRIED, RETRIED
from backend.storage.engine.fdb_native import (
    Buggify,
    Native,
    Patience,
    open_database,
)
from backend.storage.engine.fdb_transaction import FdbReadTransaction, FdbTransaction
from backend.storage.engine.fdb_watch import FdbWatch

T = TypeVar("T")

_FIRST_PAUSE_S: Final = 0.002
_LAST_PAUSE_S: Final = 1.0
_CHECK_TIMEOUT_S: Final = 1.0
_SIZE_TIMEOUT_S: Final = 10.0
_STATUS_KEY: Final = b"\xff\xff/status/json"


class FdbEngine(Engine):
    """A store on a cluster. Thread-safe; see `Engine`.

    A commit that is not answered within `timeout_s` raises `StoreUnavailableError`. It
    may have been applied, or may yet be, for as long as a transaction may last.
    """

    def __init__(  # noqa: PLR0913 - options of one opening, all by name
        self,
        cluster_file: str | os.PathLike[str] | None = None,
        *,
        library: str | os.PathLike[str] | None = None,
        buggify: bool = False,
        limits: Limits | None = None,
        faults: FaultInjector | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the cluster; it need not answer yet.

        Args:
            cluster_file: Path of the cluster file, writable, because FoundationDB
                follows its coordinators there; None: its default.
            library: Path of libfdb_c; None: where the loader finds it.
            buggify: Make the client fail requests at random, in the whole process and
                for good. For tests.
            limits: Bounds to enforce, FoundationDB's by default.
            faults: Makes commits fail on demand.
            clock: Seconds that only ascend; ages and timeouts are measured by it.

        Raises:
            StoreUnavailableError: If libfdb_c cannot be loaded or the cluster file
                cannot be used.
        """
        self.limits = limits or Limits()
        self._faults = faults
        self._clock = clock
        self._random = random.Random()  # noqa: S311 - spreads retries, no secret
        self._database = open_database(
            None if cluster_file is None else os.fspath(cluster_file),
            library=None if library is None else os.fspath(library),
            buggify=Buggify() if buggify else None,
        )
        self._opened_by = os.getpid()
        self._closed = False
        self._size_limit = min(
            self.limits.transaction_bytes, Limits().transaction_bytes
        )
        self._watches: weakref.WeakSet[FdbWatch] = weakref.WeakSet()
        self._lock = threading.Lock()

    @override
    def transact(self, fn: Callable[[Transaction], T], *, timeout_s: float = 30.0) -> T:
        deadline_s = self._clock() + timeout_s

        def attempt(native: Native, patience: Patience) -> T:
            transaction = FdbTransaction(
                native, patience, self.limits, self._clock, self._make_watch
            )
            try:
                result = fn(transaction)
                self._commit(transaction)
            finally:
                transaction.end()
            return result

        return self._run(attempt, deadline_s=deadline_s, retried=RETRIED)

    @override
    def read(self, fn: Callable[[ReadTransaction], T], *, timeout_s: float = 30.0) -> T:
        deadline_s = self._clock() + timeout_s

        def attempt(native: Native, patience: Patience) -> T:
            transaction = FdbReadTransaction(native, patience, self.limits, self._clock)
            try:
                return fn(transaction)
            finally:
                transaction.end()

        return self._run(attempt, deadline_s=deadline_s, retried=READ_RETRIED)

    @override
    def check(self) -> None:
        self.read(lambda tr: tr.get(b"\x00"), timeout_s=_CHECK_TIMEOUT_S)

    @override
    def size_bytes(self) -> int:
        """Return the bytes the cluster takes on its disks, replicas included.

        Raises:
            StoreUnavailableError: If the cluster does not answer within 10 s.
        """

        def ask(native: Native, patience: Patience) -> int:
            status = json.loads(patience.bytes_of(native.get(_STATUS_KEY)) or b"{}")
            found = status.get("cluster", {}).get("data", {})
            size = found.get("total_disk_used_bytes")
            if size is not None:
                return int(size)
            # The status lacks it while the cluster recovers.
            return int(
                patience.result_of(
                    native.get_estimated_range_size_bytes(b"", KEY_SPACE_END)
                )
            )

        deadline_s = self._clock() + _SIZE_TIMEOUT_S
        return self._run(ask, deadline_s=deadline_s, retried=READ_RETRIED)

    @override
    def close(self) -> None:
        """End the engine's watches and refuse further use.

        The connection itself is shared and stays until the process ends.
        """
        if self._closed:
            return
        self._closed = True
        if os.getpid() == self._opened_by:
            with self._lock:
                watches = list(self._watches)
            for watch in watches:
                watch.cancel()

    def _run(
        self,
        attempt: Callable[[Native, Patience], T],
        *,
        deadline_s: float,
        retried: tuple[type[StoreError], ...],
    ) -> T:
        pause_s = _FIRST_PAUSE_S
        while True:
            self._require_open()
            native = self._database.create_transaction()
            native.options.set_size_limit(self._size_limit)
            patience = Patience(deadline_s - self._clock())
            try:
                return attempt(native, patience)
            except retried:
                # Spread, so that those who met do not meet again.
                chosen_s = pause_s * self._random.random()
                pause_s = min(2 * pause_s, _LAST_PAUSE_S)
                if self._clock() + chosen_s >= deadline_s:
                    raise
                time.sleep(chosen_s)

    def _commit(self, transaction: FdbTransaction) -> None:
        fault = Fault.NONE
        if transaction.writes:
            transaction.require_young()
            fault = self._faults.draw() if self._faults else Fault.NONE
        if fault is Fault.CONFLICT:
            raise TransactionConflictError
        if fault is Fault.UNKNOWN_LOST:
            raise CommitUnknownResultError
        if fault is Fault.UNKNOWN_APPLIED:
            transaction.commit()
            raise CommitUnknownResultError
        transaction.commit()
        transaction.committed()

    def _make_watch(self, future: Native) -> FdbWatch:
        watch = FdbWatch(future, self._require_open)
        with self._lock:
            self._watches.add(watch)
        return watch

    def _require_open(self) -> None:
        if self._closed or os.getpid() != self._opened_by:
            raise StoreClosedError

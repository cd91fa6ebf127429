"""The embedded engine: LMDB in one directory, for one machine and for the tests.

The contract is `base.py`'s, FoundationDB's manners included: its limits are enforced,
conflicts are real, and a `FaultInjector` makes the rest happen on demand. Several
processes may open the same directory.

- A transaction reads a snapshot and buffers its writes; nobody waits while `fn` runs.
- A commit takes the one writer's place for as long as the disk needs (an fsync, unless
  `durable` is off); transactions of several threads share it.
- One LMDB environment per directory and process, whatever the number of engines.

Design note: docs/subsystems/engines.md#the-embedded-engine
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from typing_extensions import override

from backend.errors import (
    CommitUnknownResultError,
    StoreClosedError,
    StoreError,
    StoreUnavailableError,
    TransactionConflictError,
    TransactionTooOldError,
)
from backend.storage.engine.base import (
    Engine,
    Limits,
    ReadTransaction,
    Transaction,
)
from backend.storage.engine.embedded_env import (
    EnvironmentOptions,
    RecoveryNeededError,
)
from backend.storage.engine.embedded_registry import (
    acquire_directory,
    release_directory,
)
from backend.storage.engine.embedded_snapshot import Snapshot
from backend.storage.engine.embedded_transaction import (
    EmbeddedReadTransaction,
    EmbeddedTransaction,
)
from backend.storage.engine.embedded_watch import EmbeddedWatch
from backend.storage.engine.faults import Fault, FaultInjector

T = TypeVar("T")

DEFAULT_MAP_BYTES: Final = 1 << 30
"""Address space, not disk: the file grows as it is written."""

_FIRST_PAUSE_S: Final = 0.001
_LAST_PAUSE_S: Final = 0.1
_CHECK_TIMEOUT_S: Final = 1.0
_LOOK_TIMEOUT_S: Final = 30.0

_RETRIED: Final = (
    TransactionConflictError,
    CommitUnknownResultError,
    TransactionTooOldError,
)


class EmbeddedEngine(Engine):
    """A store in a directory. Thread-safe; see `Engine`."""

    def __init__(  # noqa: PLR0913 - options of one opening, all by name
        self,
        path: str | os.PathLike[str],
        *,
        map_bytes: int = DEFAULT_MAP_BYTES,
        max_map_bytes: int | None = None,
        durable: bool = True,
        max_readers: int = 1024,
        allow_network_filesystem: bool = False,
        limits: Limits | None = None,
        faults: FaultInjector | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the store in `path`, made with mode 0700 when missing.

        When this process has `path` open already, the engine shares it, and the first
        opening's `map_bytes`, `max_map_bytes` and `max_readers` hold.

        Args:
            path: The directory.
            map_bytes: First size of the memory map; it grows by doubling.
            max_map_bytes: Bytes at which the store is full; None: when the disk is.
            durable: Whether a commit waits for the disk. Without, a killed process
                loses nothing but a power cut may lose the last commits.
            max_readers: Read transactions at a time over all processes; the process
                that creates the store decides.
            allow_network_filesystem: Open on a network file system all the same.
            limits: Bounds to enforce, FoundationDB's by default.
            faults: Makes commits fail on demand.
            clock: Seconds that only ascend; ages and timeouts are measured by it.

        Raises:
            NetworkFilesystemError: If `path` is on a network file system.
            StoreFullError: If there is no room to create it.
            StoreUnavailableError: If `path` cannot be used.
            StoreError: If it is open in this process with another `durable`.
        """
        self.limits = limits or Limits()
        self._faults = faults
        self._clock = clock
        self._random = random.Random()  # noqa: S311 - spreads retries, no secret
        self._directory = acquire_directory(
            Path(path),
            EnvironmentOptions(
                map_bytes=map_bytes,
                max_map_bytes=max_map_bytes,
                durable=durable,
                max_readers=max_readers,
                patience_s=self.limits.transaction_seconds,
                allow_network_filesystem=allow_network_filesystem,
            ),
        )
        self._environment = self._directory.environment
        self._closed = False

    @override
    def transact(self, fn: Callable[[Transaction], T], *, timeout_s: float = 30.0) -> T:
        deadline_s = self._clock() + timeout_s

        def attempt(snapshot: Snapshot) -> T:
            transaction = EmbeddedTransaction(snapshot, self.limits, self._make_watch)
            result = fn(transaction)
            self._commit(transaction, timeout_s=deadline_s - self._clock())
            return result

        result = self._run(attempt, deadline_s=deadline_s, retried=_RETRIED)
        self._environment.settle()
        return result

    @override
    def read(self, fn: Callable[[ReadTransaction], T], *, timeout_s: float = 30.0) -> T:
        return self._run(
            lambda snapshot: fn(EmbeddedReadTransaction(snapshot)),
            deadline_s=self._clock() + timeout_s,
            retried=(),
        )

    @override
    def check(self) -> None:
        self.read(lambda tr: tr.get(b"\x00"), timeout_s=_CHECK_TIMEOUT_S)

    @override
    def size_bytes(self) -> int:
        self._require_open()
        return self._environment.size_bytes()

    @override
    def close(self) -> None:
        if not self._closed:
            self._closed = True
            release_directory(self._directory)

    def _run(
        self,
        attempt: Callable[[Snapshot], T],
        *,
        deadline_s: float,
        retried: tuple[type[StoreError], ...],
    ) -> T:
        recoveries = 0
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return self._once(attempt, timeout_s=deadline_s - self._clock())
            except RecoveryNeededError as need:
                if self._clock() >= deadline_s:
                    raise StoreUnavailableError(reason=need.recovery.value) from need
                self._environment.recover(need, attempt=recoveries)
                recoveries += 1
            except retried:
                pause_s = min(2 * pause_s, _LAST_PAUSE_S)
                # Spread, so that those who met do not meet again.
                chosen_s = pause_s * self._random.random()
                if self._clock() + chosen_s >= deadline_s:
                    raise
                time.sleep(chosen_s)

    def _once(self, attempt: Callable[[Snapshot], T], *, timeout_s: float) -> T:
        self._require_open()
        environment = self._environment
        environment.gate.enter(timeout_s=timeout_s)
        snapshot = Snapshot(environment, self.limits, self._clock)
        try:
            return attempt(snapshot)
        finally:
            snapshot.close()
            environment.gate.leave()

    def _commit(self, transaction: EmbeddedTransaction, *, timeout_s: float) -> None:
        if not transaction.writes:
            transaction.committed(None)
            return
        transaction.require_fit()
        transaction.snapshot.require_young()
        fault = self._faults.draw() if self._faults else Fault.NONE
        if fault is Fault.CONFLICT:
            raise TransactionConflictError
        if fault is Fault.UNKNOWN_LOST:
            raise CommitUnknownResultError
        stamp = self._directory.committer.commit(
            transaction, deadline_s=time.monotonic() + max(timeout_s, 0)
        )
        if fault is Fault.UNKNOWN_APPLIED:
            raise CommitUnknownResultError
        transaction.committed(stamp)

    def _make_watch(self, key: bytes, value: bytes | None) -> EmbeddedWatch:
        return EmbeddedWatch(
            changed=self._environment.changed,
            last_commit=self._last_commit,
            read=self._look_at,
            key=key,
            value=value,
        )

    def _last_commit(self) -> int:
        self._require_open()
        return self._environment.last_commit()

    def _look_at(self, key: bytes) -> tuple[int, bytes | None]:
        return self._run(
            lambda snapshot: (snapshot.version(), snapshot.get(key)),
            deadline_s=self._clock() + _LOOK_TIMEOUT_S,
            retried=(),
        )

    def _require_open(self) -> None:
        if self._closed:
            raise StoreClosedError
        self._environment.require_usable()

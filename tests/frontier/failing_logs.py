"""Event logs that fail on purpose; for failure injection only."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from typing_extensions import override

from backend.bus.base import (
    Consumer,
    EventLog,
    PartitionLag,
    Producer,
    Record,
    RecordPosition,
    TopicSpec,
)
from backend.errors import EventLogError, EventLogFullError


class ScriptedProducer(Producer):
    """Takes or refuses records as its log says, and remembers what was tried."""

    def __init__(self, log: ScriptedLog) -> None:
        self._log = log

    @override
    def publish(
        self,
        topic: str,
        *,
        key: bytes,
        value: bytes,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> Future[RecordPosition]:
        self._log.tried.append(value)
        future: Future[RecordPosition] = Future()
        # A new error each time: a raised one keeps the frames it came through.
        error = self._log.errors.pop(0) if self._log.errors else None
        if self._log.refuse:
            error = EventLogFullError(reason="scripted")
        if self._log.hold:
            self._log.held.append((value, future))
        elif error is not None:
            future.set_exception(error)
        else:
            self._log.taken.append((key, value))
            offset = len(self._log.taken)
            future.set_result(RecordPosition("test", topic, 0, offset))
        return future

    @override
    def flush(self, *, timeout_s: float) -> bool:
        return True

    @override
    def close(self, *, timeout_s: float = 10.0) -> None:
        pass


class ScriptedLog(EventLog):
    """Fails as told. The last one made is `ScriptedLog.last`.

    Args:
        refuse: Refuse every record, while `check` says all is well.
        failing_check: Let `check` fail too.
        remember: Keep what was tried; off where memory is measured.
    """

    last: ScriptedLog

    def __init__(self, *, refuse: bool = False, failing_check: bool = False) -> None:
        self.refuse = refuse
        self.failing_check = failing_check
        self.errors: list[EventLogError | None] = []
        self.hold = False
        self.held: list[tuple[bytes, Future[RecordPosition]]] = []
        self.tried: list[bytes] = []
        self.taken: list[tuple[bytes, bytes]] = []
        type(self).last = self

    def let_go(self, index: int = 0) -> None:
        """Make the held record durable."""
        value, future = self.held.pop(index)
        self.taken.append((b"", value))
        future.set_result(RecordPosition("test", "", 0, len(self.taken)))

    @override
    def ensure_topics(self, specs: Sequence[TopicSpec]) -> None:
        pass

    def inspect_topics(self, specs: Sequence[TopicSpec]) -> list[Any]:
        return []

    @override
    def producer(self) -> Producer:
        return ScriptedProducer(self)

    @override
    def consumer(self, *, group: str, topics: Sequence[str]) -> Consumer:
        raise NotImplementedError

    @override
    def lag(self, *, group: str, topics: Sequence[str]) -> list[PartitionLag]:
        return []

    @override
    def read(
        self, topic: str, *, partition: int, offset: int, max_records: int
    ) -> list[Record]:
        return []

    @override
    def trim(self) -> int:
        return 0

    @override
    def check(self) -> None:
        if self.failing_check:
            raise EventLogFullError(reason="scripted")

    @override
    def close(self) -> None:
        pass


class RefusingLog(ScriptedLog):
    """Refuses every record and remembers none."""

    def __init__(self) -> None:
        super().__init__(refuse=True)
        self.tried = _Forgetful()


class _Forgetful(list[Any]):
    @override
    def append(self, value: Any) -> None:
        pass

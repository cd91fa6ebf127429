"""The one loop behind every event-log worker: poll, apply, set aside, commit.

Order of a turn: poll a batch; hand it to the handler; store the records that can never
be applied as dead letters and wait until they are durable; only then commit the
offsets. So a record is either applied, or a dead letter, or delivered again.

Failures:
- The surroundings (`SURROUNDINGS`: store, event log, task queue): nothing is skipped.
  The loop goes back to the start of the batch, waits (longer each time, up to 5 s, with
  a random part), tells its health, and tries again for as long as it takes.
- `StaleConsumerError`: the partition went to another worker, which applies it again;
  the loop just polls on.
- Anything else a handler raises is a record's fault. The batch is applied record by
  record; one that fails by itself a few times becomes a dead letter.

Thread rules: `run` occupies the calling thread; the handler runs on one other, so that
a long batch does not cost the group membership. `request_stop` may be called from a
signal handler or another thread.

Design note: docs/subsystems/workers.md
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from backend.bus.base import Consumer, EventLog, Producer, Record, TopicPartition
from backend.errors import (
    EventLogError,
    KeyTooLargeError,
    RecordTooLargeError,
    StaleConsumerError,
    StoreError,
    TaskQueueUnavailableError,
    TransactionTooLargeError,
    ValueTooLargeError,
)
from workers.dlq import error_code, publish_dead_letters
from workers.handler_thread import HandlerThread
from workers.handlers.base import Handler, Outcome
from workers.health import Health, NoHealth
from workers.metrics import WorkerMetrics
from workers.progress import Progress

logger = logging.getLogger(__name__)

SURROUNDINGS: Final = (StoreError, EventLogError, TaskQueueUnavailableError)
RECORD_FAULTS: Final = (
    KeyTooLargeError,
    RecordTooLargeError,
    TransactionTooLargeError,
    ValueTooLargeError,
)
"""Errors of the store and the log that trying again cannot help."""


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """How a loop behaves.

    Attributes:
        max_records: Most records of a batch.
        max_bytes: Most bytes of a batch; a larger single record still goes through.
        poll_s: Longest wait for records.
        heartbeat_s: How often the membership is kept alive during a batch.
        longest_batch_s: A batch beyond this is stuck: its partitions are given up.
        stop_s: How long a stopping loop lets the batch in hand finish.
        attempts: How often a record that fails by itself is tried.
        first_pause_s: Wait after a failure of the surroundings; doubles each time.
        longest_pause_s: Bound on that wait.
    """

    max_records: int = 500
    max_bytes: int = 8 << 20
    poll_s: float = 1.0
    heartbeat_s: float = 2.0
    longest_batch_s: float = 300.0
    stop_s: float = 10.0
    attempts: int = 3
    first_pause_s: float = 0.1
    longest_pause_s: float = 5.0


@dataclass(slots=True)
class Chore:
    """Something a loop does from time to time, between batches.

    A failing chore is logged and tried again when it is due next.

    Attributes:
        name: For the log.
        interval_s: Time between two runs.
        run: Does a bounded amount of work.
    """

    name: str
    interval_s: float
    run: Callable[[], object]
    due_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Source:
    """What a loop reads, as which group."""

    log: EventLog
    producer: Producer
    group: str
    topics: tuple[str, ...]


class StuckError(Exception):
    """The batch in hand did not finish in time while the loop was stopping."""


class WorkerLoop:
    """See the module.

    Args:
        source: What to read; the producer takes the dead letters.
        handle: Applies batches.
        metrics: Counters of this kind of worker.
        options: How to behave.
        health: Told how the worker is.
        chores: What else to do; deleting consumed records is always among them.
        now_us: Wall clock, stamps dead letters.
    """

    def __init__(  # noqa: PLR0913 - each is one independent part
        self,
        source: Source,
        handle: Handler,
        *,
        metrics: WorkerMetrics,
        now_us: Callable[[], int],
        options: LoopOptions | None = None,
        health: Health | None = None,
        chores: Sequence[Chore] = (),
    ) -> None:
        self._source = source
        self._handle = handle
        self._metrics = metrics
        self._options = options or LoopOptions()
        self._now_us = now_us
        self._chores = [*chores, Chore("trim", 1.0, source.log.trim)]
        self._progress = Progress(
            source.log,
            group=source.group,
            topics=source.topics,
            metrics=metrics,
            health=health or NoHealth(),
        )
        self._thread = HandlerThread(name="handler")
        self._stop = threading.Event()
        self._stop_by_s = float("inf")
        self._consumer: Consumer | None = None
        self._failures = 0

    def run(self) -> bool:
        """Work until `request_stop`; return whether the batch in hand was finished."""
        self._progress.say("starting")
        finished = True
        try:
            while not self._stop.is_set():
                self._turn_safely()
        except StuckError:
            logger.error(  # noqa: TRY400 - the trace would show this loop only
                "worker.batch_abandoned", extra={"stop_s": self._options.stop_s}
            )
            finished = False
        finally:
            self._progress.say("stopping")
            self._leave()
            self._progress.say("stopped")
        return finished

    def request_stop(self) -> None:
        """Make `run` return once the batch in hand is committed."""
        self._stop_by_s = time.monotonic() + self._options.stop_s
        self._stop.set()
        consumer = self._consumer
        if consumer is not None:
            consumer.wake()

    def _turn_safely(self) -> None:
        try:
            self._turn()
        except StaleConsumerError as error:
            self._metrics.count_error(error)
            logger.info("worker.partition_lost", extra=error.fields)
        except SURROUNDINGS as error:
            self._back_off(error)
        else:
            self._failures = 0

    def _turn(self) -> None:
        consumer = self._join()
        options = self._options
        records = consumer.poll(
            max_records=options.max_records,
            max_bytes=options.max_bytes,
            timeout_s=options.poll_s,
        )
        if records:
            self._work(consumer, records)
        self._progress.keep(failing=False)
        self._do_chores()

    def _work(self, consumer: Consumer, records: Sequence[Record]) -> None:
        started_s = time.monotonic()
        try:
            outcome = self._apply_all(consumer, records)
        except BaseException:
            consumer.rewind(first_offsets(records))
            raise
        seconds = time.monotonic() - started_s
        self._metrics.observe_batch(
            records=len(records), seconds=seconds, outcome=outcome
        )
        self._progress.count(records=len(records), outcome=outcome)
        consumer.commit(next_offsets(records))

    def _apply_all(self, consumer: Consumer, records: Sequence[Record]) -> Outcome:
        outcome = Outcome()
        rest = records
        while rest:
            step = self._apply(consumer, rest)
            self._set_aside(step)
            outcome.add(step)
            rest = step.rest
        return outcome

    def _apply(self, consumer: Consumer, records: Sequence[Record]) -> Outcome:
        try:
            return self._call(consumer, records)
        except Exception as error:
            if not is_records_fault(error):
                raise
            self._metrics.count_error(error)
            logger.exception("worker.batch_failed", extra={"records": len(records)})
        outcome = Outcome()
        for count, record in enumerate(records, 1):
            alone = self._apply_alone(consumer, record)
            outcome.add(alone)
            if alone.poison:
                outcome.rest = [*alone.rest, *records[count:]]
                break
        return outcome

    def _apply_alone(self, consumer: Consumer, record: Record) -> Outcome:
        failure: Exception | None = None
        for attempt in range(self._options.attempts):
            if attempt:
                self._stop.wait(self._options.first_pause_s * attempt)
            try:
                return self._call(consumer, [record])
            except Exception as error:
                if not is_records_fault(error):
                    raise
                failure = error
        assert failure is not None  # noqa: S101 - attempts is at least 1
        return Outcome(poison=[(record, failure)])

    def _call(self, consumer: Consumer, records: Sequence[Record]) -> Outcome:
        """Run the handler on its thread, heartbeating meanwhile."""
        started_s = time.monotonic()
        future = self._thread.submit(lambda: self._handle(records))
        while True:
            try:
                return future.result(self._wait_s())
            except TimeoutError:
                if future.done():
                    raise
            now_s = time.monotonic()
            if now_s >= self._stop_by_s:
                raise StuckError
            if now_s - started_s < self._options.longest_batch_s:
                self._keep_alive(consumer)
                self._progress.keep(failing=False)
            else:
                # The lease ends, and others take over what this batch cannot finish.
                self._progress.keep(failing=True, reason="a batch does not end")

    def _wait_s(self) -> float:
        left_s = self._stop_by_s - time.monotonic()
        return max(0.0, min(self._options.heartbeat_s, left_s))

    def _set_aside(self, outcome: Outcome) -> None:
        if not outcome.poison:
            return
        publish_dead_letters(
            self._source.producer,
            outcome.poison,
            now_us=self._now_us(),
            timeout_s=self._options.stop_s,
        )
        for record, error in outcome.poison:
            code = error_code(error)
            self._metrics.count_dead_letter(code)
            place = record.position
            extra = {
                "topic": place.topic,
                "partition": place.partition,
                "offset": place.offset,
                "code": code,
                "reason": str(error),
            }
            logger.warning("worker.dead_letter", extra=extra)

    def _back_off(self, error: Exception) -> None:
        self._metrics.count_error(error)
        options = self._options
        longest_s = min(
            options.longest_pause_s, options.first_pause_s * 2.0**self._failures
        )
        self._failures = min(self._failures + 1, 30)
        pause_s = longest_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries
        extra = {"reason": str(error), "pause_s": round(pause_s, 2)}
        logger.warning("worker.waiting_for_surroundings", extra=extra)
        self._progress.say("failing", reason=str(error))
        self._stop.wait(pause_s)
        if self._consumer is not None:
            self._keep_alive(self._consumer)

    def _keep_alive(self, consumer: Consumer) -> None:
        try:
            consumer.heartbeat()
        except EventLogError as error:
            logger.info("worker.heartbeat_failed", extra={"reason": str(error)})

    def _join(self) -> Consumer:
        if self._consumer is None:
            source = self._source
            self._consumer = source.log.consumer(
                group=source.group, topics=source.topics
            )
            logger.info("worker.joined", extra={"group": source.group})
            if self._stop.is_set():
                self._consumer.wake()
        return self._consumer

    def _leave(self) -> None:
        self._thread.stop()
        if self._consumer is not None:
            try:
                self._consumer.close()
            except EventLogError as error:
                logger.warning("worker.leave_failed", extra={"reason": str(error)})

    def _do_chores(self) -> None:
        now_s = time.monotonic()
        for chore in self._chores:
            if now_s >= chore.due_s and not self._stop.is_set():
                chore.due_s = now_s + chore.interval_s
                self._do(chore)

    def _do(self, chore: Chore) -> None:
        try:
            chore.run()
        except SURROUNDINGS as error:
            extra = {"chore": chore.name, "reason": str(error)}
            logger.warning("worker.chore_failed", extra=extra)


def is_records_fault(error: Exception) -> bool:
    """Return whether trying again later, with better surroundings, would not help."""
    if isinstance(error, RECORD_FAULTS):
        return True
    return not isinstance(error, (*SURROUNDINGS, StuckError))


def first_offsets(records: Sequence[Record]) -> dict[TopicPartition, int]:
    """Return where the batch starts in each partition."""
    return {_place(r): r.position.offset for r in reversed(records)}


def next_offsets(records: Sequence[Record]) -> dict[TopicPartition, int]:
    """Return what to commit once the batch is done with."""
    return {_place(r): r.position.offset + 1 for r in records}


def _place(record: Record) -> TopicPartition:
    return TopicPartition(record.position.topic, record.position.partition)

"""Appending to Kafka: idempotent, bounded, in order even when records fail.

`publish` hands the record to the client library and returns. One thread per producer
serves the library's delivery reports, each of which resolves a future.

Order. A record that fails must not be followed by later ones of its key that succeed:
to a reader of writer positions the failed one, published again, would look like a
repetition. So the library never gives up a single record. When the oldest record has
waited `confirm_s`, or one is refused for good, the whole *shipment* (the library's
client and all that it has in flight) is given up: everything in it is purged and failed
as unconfirmed, and the next record opens a new one. What of it reaches the broker after
all is its beginning, in order, since the broker checks the sequence numbers.

Limits: what is in flight is bounded in bytes and in number; beyond that `publish`
refuses.

Design note: docs/subsystems/eventlog.md#kafka
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Producer as Library
from typing_extensions import override

from backend.bus.base import Producer, RecordPosition
from backend.bus.kafka_errors import library_log, translate
from backend.bus.kafka_topics import KafkaTopics, KnownTopic
from backend.errors import (
    EventLogClosedError,
    EventLogError,
    EventLogFullError,
    EventLogUnavailableError,
    RecordTooLargeError,
)

logger = logging.getLogger(__name__)

SERVE_S: Final = 0.1
"""How long the thread waits for a delivery report before it looks around."""

UNKNOWN_OFFSET: Final = -1
"""Position of a record that the broker confirmed without saying where it lies."""

LOOK_UP_PAUSE_S: Final = 0.5

Headers = Sequence[tuple[str, bytes]]


@dataclass(slots=True, eq=False)
class Parcel:
    """A record on its way into the log."""

    topic: str
    key: bytes
    value: bytes
    headers: Headers
    size: int
    queued_s: float
    future: Future[RecordPosition] = field(default_factory=Future)


class Shipment:
    """One client of the library and what it has in flight, oldest first.

    Args:
        properties: Configuration of the client.
        on_settled: Called with each parcel that is no longer in flight, its place or
            its error, on the thread that serves.
    """

    def __init__(
        self,
        properties: dict[str, Any],
        on_settled: Callable[
            [Parcel, RecordPosition | None, EventLogError | None], None
        ],
    ) -> None:
        self._on_settled = on_settled
        self._library = Library(properties, logger=library_log, error_cb=self._note)
        self._parcels: OrderedDict[int, Parcel] = OrderedDict()
        self._lock = threading.Lock()
        self._next = 0
        self.failure: EventLogError | None = None
        self.trouble = ""

    def send(self, parcel: Parcel, topic: KnownTopic) -> None:
        """Hand a record to the library.

        Raises:
            EventLogError: If it does not take it; the parcel is not in flight then.
        """
        with self._lock:
            number = self._next
            self._next += 1
            self._parcels[number] = parcel
        try:
            self._library.produce(
                topic.kafka_name,
                value=parcel.value,
                key=parcel.key,
                headers=list(parcel.headers) or None,
                on_delivery=lambda error, message: self._report(
                    number, topic, error, message
                ),
            )
        except BufferError:
            self._take(number)
            reason = "too much in flight"
            raise EventLogFullError(topic=topic.name, reason=reason) from None
        except KafkaException as error:
            self._take(number)
            self.failure = translate(error, topic=topic.name)
            raise self.failure from error

    def serve(self, timeout_s: float) -> None:
        """Settle what the brokers have answered; wait for something if nothing is."""
        try:
            self._library.poll(timeout_s)
        except KafkaException as error:
            # Also how the library tells of errors it cannot recover from.
            self.failure = self.failure or translate(error)

    def oldest_s(self) -> float | None:
        """Return when the oldest parcel in flight was queued."""
        with self._lock:
            parcel = next(iter(self._parcels.values()), None)
        return None if parcel is None else parcel.queued_s

    def give_up(self, error: EventLogError) -> None:
        """Purge and fail everything in flight."""
        # First out of the library's hands, so that nothing is sent after it failed.
        self._library.purge(in_queue=True, in_flight=True, blocking=True)
        with self._lock:
            left = list(self._parcels.values())
            self._parcels.clear()
        for parcel in left:
            self._on_settled(parcel, None, error)
        self.serve(0)

    def _report(
        self, number: int, topic: KnownTopic, error: KafkaError | None, message: Any
    ) -> None:
        parcel = self._take(number)
        if parcel is None:
            return
        if error is None:
            offset = message.offset()
            where = RecordPosition(
                topic.log_id,
                topic.name,
                message.partition(),
                UNKNOWN_OFFSET if offset is None or offset < 0 else offset,
            )
            self._on_settled(parcel, where, None)
            return
        found = translate(error, topic=topic.name)
        self.failure = self.failure or found
        self._on_settled(parcel, None, found)

    def _take(self, number: int) -> Parcel | None:
        with self._lock:
            return self._parcels.pop(number, None)

    def _note(self, error: KafkaError) -> None:
        self.trouble = f"{error.name()}: {error.str()}"
        if error.fatal():
            self.failure = self.failure or translate(error)


@dataclass(frozen=True, slots=True)
class ProducerLimits:
    """Bounds of a producer.

    Attributes:
        in_flight_bytes: Published and not settled.
        in_flight_records: The same, as a number.
        confirm_s: How long a record waits for its confirmation.
    """

    in_flight_bytes: int
    in_flight_records: int
    confirm_s: float


class KafkaProducer(Producer):
    """See the module.

    Args:
        properties: Configuration of the library's client.
        topics: Where topics are looked up.
        limits: Bounds.
        on_close: Called once when it is closed.
    """

    def __init__(
        self,
        properties: dict[str, Any],
        topics: KafkaTopics,
        *,
        limits: ProducerLimits,
        on_close: Callable[[KafkaProducer], None],
    ) -> None:
        self._properties = properties
        self._topics = topics
        self._limits = limits
        self._on_close = on_close
        self._changed = threading.Condition()
        # Parcels of topics not looked up yet. While there are any, all others wait
        # behind them.
        self._unaddressed: deque[Parcel] = deque()
        self._looked_up_s = float("-inf")
        self._in_flight_bytes = 0
        self._in_flight = 0
        self._closed = False
        self._ending = threading.Event()
        self._confirmed_s = float("-inf")
        self._shipment = self._open_shipment()
        self._thread = threading.Thread(
            target=self._run, name="event-log-producer", daemon=True
        )
        self._thread.start()

    @override
    def publish(
        self,
        topic: str,
        *,
        key: bytes,
        value: bytes,
        headers: Headers = (),
    ) -> Future[RecordPosition]:
        size = record_bytes(key, value, headers)
        known = self._topics.find(topic)
        if known is not None and size > known.max_record_bytes:
            raise RecordTooLargeError(
                topic=topic, size=size, limit=known.max_record_bytes
            )
        parcel = Parcel(topic, key, value, headers, size, time.monotonic())
        # A record cannot be taken back once queued: refuse to be cancelled.
        parcel.future.set_running_or_notify_cancel()
        with self._changed:
            self._check_open()
            self._check_room(size)
            self._check_sound()
            if known is None or self._unaddressed:
                self._unaddressed.append(parcel)
            else:
                self._shipment.send(parcel, known)
            self._in_flight_bytes += size
            self._in_flight += 1
        return parcel.future

    @override
    def flush(self, *, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._in_flight, timeout_s)

    @override
    def close(self, *, timeout_s: float = 10.0) -> None:
        with self._changed:
            if self._closed:
                return
            self._closed = True
        self.flush(timeout_s=timeout_s)
        self._ending.set()
        self._thread.join(timeout_s)
        self._on_close(self)

    def seconds_since_confirmation(self) -> float:
        """Return how long ago the brokers last confirmed a record."""
        return time.monotonic() - self._confirmed_s

    def seconds_waiting(self) -> float:
        """Return how long the oldest unconfirmed record has waited, 0 if none."""
        oldest_s = self._shipment.oldest_s()
        return 0.0 if oldest_s is None else time.monotonic() - oldest_s

    def _check_open(self) -> None:
        if self._closed:
            raise EventLogClosedError

    def _check_room(self, size: int) -> None:
        if not self._in_flight:
            return
        bytes_after = self._in_flight_bytes + size
        if (
            bytes_after > self._limits.in_flight_bytes
            or self._in_flight >= self._limits.in_flight_records
        ):
            raise EventLogFullError(reason="too much in flight")

    def _check_sound(self) -> None:
        failure = self._shipment.failure
        if failure is not None:
            reason = f"an earlier record failed: {failure}"
            raise EventLogUnavailableError(reason=reason)

    def _open_shipment(self) -> Shipment:
        try:
            return Shipment(self._properties, self._settle)
        except KafkaException as error:
            raise translate(error) from error

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                self._turn()
            except Exception:
                # Futures that nobody resolves would be worse than anything.
                logger.exception("eventlog.producer_failed")
                self._ending.wait(SERVE_S)
        self._give_up(EventLogUnavailableError(reason="closed before confirmed"))

    def _turn(self) -> None:
        self._shipment.serve(0.01 if self._unaddressed else SERVE_S)
        self._address()
        error = self._reason_to_give_up()
        if error is not None:
            self._give_up(error)

    def _reason_to_give_up(self) -> EventLogError | None:
        failure = self._shipment.failure
        if failure is not None:
            reason = f"an earlier record failed: {failure}"
            return EventLogUnavailableError(reason=reason)
        if self.seconds_waiting() > self._limits.confirm_s:
            reason = self._shipment.trouble or "not confirmed in time"
            return EventLogUnavailableError(
                reason=reason, waited_s=self._limits.confirm_s
            )
        return None

    def _give_up(self, error: EventLogError) -> None:
        with self._changed:
            old = self._shipment
            if not self._ending.is_set():
                self._shipment = self._open_shipment()
        old.give_up(error)
        self._fail_unaddressed(error)
        if not self._ending.is_set():
            extra = {"reason": str(error)}
            logger.warning("eventlog.shipment_given_up", extra=extra)

    def _fail_unaddressed(
        self, error: EventLogError, *, topic: str | None = None
    ) -> None:
        with self._changed:
            failed = [p for p in self._unaddressed if topic in {None, p.topic}]
            left = [p for p in self._unaddressed if topic not in {None, p.topic}]
            self._unaddressed = deque(left)
        for parcel in failed:
            self._settle(parcel, None, error)

    def _address(self) -> None:
        """Send on what waited for its topic to be looked up."""
        if not self._unaddressed:
            return
        if time.monotonic() - self._looked_up_s < LOOK_UP_PAUSE_S:
            self._fail_overdue()
            return
        name = self._unaddressed[0].topic
        try:
            topic = self._topics.get(name)
        except EventLogError as error:
            self._looked_up_s = time.monotonic()
            if error.fields.get("reason") == "no such topic":
                self._fail_unaddressed(error, topic=name)
            return
        self._send_addressed(topic)

    def _send_addressed(self, topic: KnownTopic) -> None:
        refused = []
        with self._changed:
            while self._unaddressed and self._unaddressed[0].topic == topic.name:
                parcel = self._unaddressed.popleft()
                error = self._try_send(parcel, topic)
                if error is not None:
                    refused.append((parcel, error))
        for parcel, error in refused:
            self._settle(parcel, None, error)

    def _try_send(self, parcel: Parcel, topic: KnownTopic) -> EventLogError | None:
        if parcel.size > topic.max_record_bytes:
            return RecordTooLargeError(
                topic=topic.name, size=parcel.size, limit=topic.max_record_bytes
            )
        try:
            self._shipment.send(parcel, topic)
        except EventLogError as error:
            return error
        return None

    def _fail_overdue(self) -> None:
        waited_s = time.monotonic() - self._unaddressed[0].queued_s
        if waited_s > self._limits.confirm_s:
            reason = "the topic could not be looked up"
            self._fail_unaddressed(EventLogUnavailableError(reason=reason))

    def _settle(
        self,
        parcel: Parcel,
        where: RecordPosition | None,
        error: EventLogError | None,
    ) -> None:
        with self._changed:
            self._in_flight -= 1
            self._in_flight_bytes -= parcel.size
            if error is None:
                self._confirmed_s = time.monotonic()
        try:
            if where is not None:
                parcel.future.set_result(where)
            else:
                parcel.future.set_exception(error)
        except InvalidStateError:
            logger.info("eventlog.confirmed_late")
        with self._changed:
            if not self._in_flight:
                self._changed.notify_all()


def record_bytes(key: bytes, value: bytes, headers: Headers) -> int:
    """Return the size that `TopicSpec.max_record_bytes` bounds."""
    return len(key) + len(value) + sum(len(n) + len(v) for n, v in headers)

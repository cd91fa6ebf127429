"""Reading Kafka outside any group: for inspection and for the age of what waits.

Thread-safe; one question at a time. Connects on first use.

Design note: docs/subsystems/eventlog.md#kafka
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from confluent_kafka import Consumer as Library
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from backend.bus.kafka_admin import Place
from backend.bus.kafka_errors import library_log, translate
from backend.errors import EventLogUnavailableError

READ_S: Final = 10.0


class KafkaReader:
    """See the module.

    Args:
        properties: Configuration of the library's client.
    """

    def __init__(self, properties: dict[str, Any]) -> None:
        self._properties = properties
        self._lock = threading.Lock()
        self._opened: Library | None = None
        self._times_ms: dict[Place, tuple[int, int]] = {}

    def read(
        self, place: Place, *, offset: int, end: int, max_records: int
    ) -> list[Message]:
        """Return messages from `offset` on, below `end`.

        Raises:
            EventLogUnavailableError: If the brokers do not answer in time.
        """
        found: list[Message] = []
        with self._lock:
            for message in self._iter({place: offset}):
                if message is None or (message.offset() or 0) >= end:
                    break
                found.append(message)
                if len(found) == max_records or message.offset() == end - 1:
                    break
        return found

    def times_ms(self, offsets: Mapping[Place, int]) -> dict[Place, int]:
        """Return the time of the first record at or after each offset, where known.

        Remembers the last answer of each partition, so that one whose group stands
        still costs nothing.
        """
        with self._lock:
            asked = {p: n for p, n in offsets.items() if not self._knows(p, n)}
            self._times_ms |= self._fetch_times(asked)
            return {
                place: self._times_ms[place][1]
                for place, offset in offsets.items()
                if self._knows(place, offset)
            }

    def close(self) -> None:
        """Disconnect."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    def _knows(self, place: Place, offset: int) -> bool:
        return self._times_ms.get(place, (-1, 0))[0] == offset

    def _fetch_times(
        self, offsets: Mapping[Place, int]
    ) -> dict[Place, tuple[int, int]]:
        left = dict(offsets)
        times: dict[Place, tuple[int, int]] = {}
        if not left:
            return times
        for message in self._iter(left):
            if message is None:
                break
            place = _place(message)
            offset = left.pop(place, None)
            if offset is not None:
                times[place] = (offset, message.timestamp()[1])
            if not left:
                break
        return times

    def _iter(self, offsets: Mapping[Place, int]) -> Iterator[Message | None]:
        """Yield what lies at the offsets and after; None when all is read."""
        library = self._client()
        deadline = time.monotonic() + READ_S
        ended: set[Place] = set()
        try:
            library.assign([TopicPartition(*p, n) for p, n in offsets.items()])
            while time.monotonic() < deadline:
                message = library.poll(0.1)
                if message is None:
                    continue
                error = message.error()
                if error is None:
                    yield message
                elif error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - the library's local error codes
                    raise translate(error)
                else:
                    ended.add(_place(message))
                    if len(ended) == len(offsets):
                        yield None
        except KafkaException as error:
            raise translate(error) from error
        finally:
            library.unassign()
        reason = f"no answer within {READ_S} s"
        raise EventLogUnavailableError(reason=reason)

    def _client(self) -> Library:
        if self._opened is None:
            try:
                self._opened = Library(self._properties, logger=library_log)
            except KafkaException as error:
                raise translate(error) from error
        return self._opened


def _place(message: Message) -> Place:
    return message.topic() or "", int(message.partition() or 0)

"""Kafka's errors in this product's words.

Only the library's own text goes into `reason`; it names hosts, topics and codes, never
a password.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from confluent_kafka import KafkaError, KafkaException
from typing_extensions import override

from backend.errors import EventLogError, EventLogUnavailableError, RecordTooLargeError

TOO_LARGE: Final = frozenset(
    {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}
)
UNKNOWN_TOPIC: Final = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001 - the library's local error codes
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001 - the library's local error codes
    }
)
UNSEEN: Final = frozenset(
    {
        KafkaError._NOENT,  # noqa: SLF001 - the library's local error codes
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
    }
)
NO_COORDINATOR: Final = frozenset(
    {
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
    }
)
SILENCE: Final = frozenset(
    {
        KafkaError._TIMED_OUT,  # noqa: SLF001 - the library's local error codes
        KafkaError._TRANSPORT,  # noqa: SLF001 - the library's local error codes
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001 - the library's local error codes
    }
)
LOST_MEMBERSHIP: Final = frozenset(
    {
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.FENCED_MEMBER_EPOCH,
        KafkaError.STALE_MEMBER_EPOCH,
    }
)
DENIED: Final = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)

library_log: Final = logging.getLogger("backend.bus.kafka.library")
"""Where the client library writes. Most of it is about brokers coming and going."""

REPEAT_S: Final = 30.0


class Once(logging.Filter):
    """Lets a text through once in `REPEAT_S`: the library tells of every attempt.

    Left out altogether: remarks on settings, which were chosen knowingly, and that
    purging a client, which is then thrown away, leaves a gap.
    """

    LEFT_OUT: Final = ("CONFWARN", "Purged in ")

    def __init__(self) -> None:
        super().__init__()
        self._told_s: dict[str, float] = {}

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage().partition(" (after ")[0]
        now_s = time.monotonic()
        if any(part in text for part in self.LEFT_OUT) or self._was_told(text, now_s):
            return False
        if len(self._told_s) > 1_000:
            self._told_s.clear()
        self._told_s[text] = now_s
        return True

    def _was_told(self, text: str, now_s: float) -> bool:
        return now_s - self._told_s.get(text, float("-inf")) < REPEAT_S


library_log.addFilter(Once())


def error_of(error: KafkaException | KafkaError) -> KafkaError:
    """Return the error inside an exception of the library."""
    inside = error.args[0] if isinstance(error, KafkaException) else error
    if isinstance(inside, KafkaError):
        return inside
    return KafkaError(KafkaError._FAIL, str(inside))  # noqa: SLF001 - the library's local error codes


def translate(
    error: KafkaException | KafkaError, *, topic: str | None = None
) -> EventLogError:
    """Return the error to raise for one of the library's."""
    found = error_of(error)
    fields = {} if topic is None else {"topic": topic}
    if found.code() in TOO_LARGE:
        return RecordTooLargeError(**fields, reason=found.name())
    if found.code() in UNKNOWN_TOPIC:
        return EventLogUnavailableError(**fields, reason="no such topic")
    return EventLogUnavailableError(**fields, reason=f"{found.name()}: {found.str()}")

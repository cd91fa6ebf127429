"""Kafka's errors in this product's words.

Only the library's own text goes into `reason`; it names hosts, topics and codes, never
a password.
"""

from __future__ import annotations

import logging
from typing import Final

from confluent_kafka import KafkaError, KafkaException

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
    }
)
LOST_MEMBERSHIP: Final = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
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

# Remarks on settings, at each opening: they were chosen knowingly.
library_log.addFilter(lambda record: not record.getMessage().startswith("CONFWARN"))


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

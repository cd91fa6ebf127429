"""How the Kafka event log talks to its brokers: options to client properties.

Nothing here connects. Secrets stay inside `Connection`, whose text form hides them.

Design note: docs/subsystems/eventlog.md#kafka
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from backend.errors import EventLogError

MIN_RETENTION_S: Final = 3_600.0
"""An outage of the workers that is noticed at night lasts longer than this."""

BATCH_BYTES: Final = 512 * 1024
"""Records sent together. A larger record goes alone."""

OVERHEAD_BYTES: Final = 16 * 1024
"""What Kafka's framing adds to a batch, generously."""

LARGEST_REQUEST_BYTES: Final = 64 << 20
FETCH_BYTES: Final = 16 << 20
"""Fetched ahead of the consumer, per consumer."""

SASL_MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the brokers are and how to prove who is asking."""

    bootstrap_servers: str
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str = ""
    sasl_username: str = ""
    sasl_password: str = field(default="", repr=False)
    ssl_ca_location: str = ""

    def check(self) -> None:
        """Verify what can be verified without connecting.

        Raises:
            EventLogError: If settings contradict each other.
        """
        if not self.bootstrap_servers.strip():
            raise EventLogError(reason="no bootstrap servers are given")
        if self.uses_sasl and self.sasl_mechanism not in SASL_MECHANISMS:
            reason = f"the SASL mechanism must be one of {', '.join(SASL_MECHANISMS)}"
            raise EventLogError(reason=reason, sasl_mechanism=self.sasl_mechanism)
        if self.uses_sasl and not (self.sasl_username and self.sasl_password):
            raise EventLogError(reason="SASL needs a user name and a password")

    @property
    def uses_sasl(self) -> bool:
        """Whether a name and a password are asked for."""
        return self.security_protocol.startswith("SASL")

    def properties(self) -> dict[str, Any]:
        """Return what every client of these brokers is configured with."""
        found: dict[str, Any] = {
            "bootstrap.servers": self.bootstrap_servers,
            "security.protocol": self.security_protocol,
            "client.id": "matyan",
            "socket.keepalive.enable": True,
            # A broker that stopped answering is given up, and asked again, after this.
            "socket.timeout.ms": 10_000,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 1_000,
            "log.connection.close": False,
        }
        if self.uses_sasl:
            found["sasl.mechanism"] = self.sasl_mechanism
            found["sasl.username"] = self.sasl_username
            found["sasl.password"] = self.sasl_password
        if self.ssl_ca_location:
            found["ssl.ca.location"] = self.ssl_ca_location
        return found


def producer_properties(connection: Connection) -> dict[str, Any]:
    """Return the configuration of a producer.

    The library's own delivery timeout is off: it would fail one record and send the
    next. `kafka_producer` gives up on all that is in flight instead.
    """
    return connection.properties() | {
        "acks": "all",
        "enable.idempotence": True,
        "enable.gapless.guarantee": True,
        "message.timeout.ms": 0,
        "partitioner": "murmur2",
        "message.max.bytes": LARGEST_REQUEST_BYTES,
        "compression.type": "lz4",
        "linger.ms": 1,
        "batch.size": BATCH_BYTES,
        # The producer counts for itself what is in flight.
        "queue.buffering.max.messages": 0,
        "queue.buffering.max.kbytes": 2_000_000,
        "topic.metadata.refresh.interval.ms": 60_000,
    }


def consumer_properties(
    connection: Connection,
    *,
    group: str,
    session_timeout_s: float,
    max_poll_interval_s: float,
) -> dict[str, Any]:
    """Return the configuration of a group member."""
    session_ms = int(session_timeout_s * 1000)
    return connection.properties() | {
        "group.id": group,
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": session_ms,
        "heartbeat.interval.ms": max(100, min(3_000, session_ms // 8)),
        "max.poll.interval.ms": max(session_ms, int(max_poll_interval_s * 1000)),
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "fetch.wait.max.ms": 100,
        "fetch.error.backoff.ms": 100,
        "fetch.max.bytes": FETCH_BYTES,
        "queued.max.messages.kbytes": FETCH_BYTES // 1024,
        "topic.metadata.refresh.interval.ms": 5_000,
    }


def reader_properties(connection: Connection) -> dict[str, Any]:
    """Return the configuration of a reader outside any group."""
    return connection.properties() | {
        # Asked for by the library, never used: it neither joins nor commits.
        "group.id": "matyan-reader",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
        "fetch.wait.max.ms": 20,
        "fetch.error.backoff.ms": 50,
        "fetch.max.bytes": FETCH_BYTES,
        "queued.max.messages.kbytes": FETCH_BYTES // 1024,
    }

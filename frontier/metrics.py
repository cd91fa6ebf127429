"""What the gateway counts; declared once, with unit and meaning.

Design note: docs/subsystems/frontier.md#metrics
"""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

CONNECTIONS: Final = Gauge(
    "matyan_ws_connections_active", "WebSocket connections open now."
)
CONNECTION_SECONDS: Final = Histogram(
    "matyan_ws_connection_duration_seconds",
    "Seconds a WebSocket connection was open.",
    buckets=(1, 10, 60, 600, 3600, 21600, 86400),
)
MESSAGES: Final = Counter(
    "matyan_ws_messages_total",
    "Messages accepted: JSON messages by type, points and events of binary frames.",
    ["message_type"],
)
FRAMES: Final = Counter(
    "matyan_ws_frames_total",
    "Frames answered. Outcome: ok, refused (in part or whole), unavailable.",
    ["protocol", "outcome"],
)
REFUSED_HANDSHAKES: Final = Counter(
    "matyan_ws_handshakes_refused_total",
    "WebSocket handshakes answered with an HTTP error.",
    ["status"],
)
IN_FLIGHT_BYTES: Final = Gauge(
    "matyan_ws_in_flight_bytes", "Bytes received and not acknowledged yet."
)
ACK_SECONDS: Final = Histogram(
    "matyan_ws_ack_seconds",
    "Seconds from a frame's receipt to its acknowledgement.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40),
)
PUBLISH_FAILURES: Final = Counter(
    "matyan_ws_publish_failures_total",
    "Times the event log did not take a record; each is tried again.",
    ["code"],
)
UPLOADS_GRANTED: Final = Counter(
    "matyan_uploads_granted_total", "Uploads of blobs that were allowed."
)
UPLOADS_ACTIVE: Final = Gauge(
    "matyan_uploads_active", "Blobs being received by this process now."
)
UPLOAD_BYTES: Final = Counter(
    "matyan_upload_bytes_total", "Bytes of blobs received whole by this process."
)
UPLOAD_SECONDS: Final = Histogram(
    "matyan_upload_seconds",
    "Seconds from a blob's first byte until it was durable.",
    buckets=(0.01, 0.05, 0.25, 1, 5, 15, 60, 300, 1800),
)
UPLOADS_FAILED: Final = Counter(
    "matyan_uploads_failed_total",
    "Blobs not taken by this process, by reason.",
    ["code"],
)

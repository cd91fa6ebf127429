"""Every topic: its name, key, value, partitions and who must have read it.

Design note: docs/subsystems/eventlog.md#topics
"""

from __future__ import annotations

from typing import Final

from backend.bus.base import TopicSpec

INGESTION: Final = "data-ingestion"
"""Key: run id, UTF-8. Value: `matyan_wire.batch.Envelope`."""

CONTROL: Final = "control-events"
"""Key: entity id. Value: JSON `{"id", "type", "time_us", "payload"}`."""

DEAD_LETTERS: Final = "dead-letters"
"""Key and value of the record that could not be applied; headers tell where it came
from (`topic`, `partition`, `offset`, `log_id`) and why (`code`, `reason`,
`time_us`)."""

REPLAY_OF: Final = "replay_of"
"""Header of a record replayed from the dead letters: log id/topic/partition/offset of
the record it repeats. What its writer sent later may have been applied before it."""

INGESTION_GROUP: Final = "ingestion-workers"
CONTROL_GROUP: Final = "control-workers"
REPLAY_GROUP: Final = "dead-letter-replay"

DAY_S: Final = 86_400.0

TOPICS: Final = (
    TopicSpec(
        name=INGESTION,
        partitions=6,
        max_record_bytes=9 * 1024 * 1024,
        retention_seconds=0.0,
        groups=(INGESTION_GROUP,),
    ),
    TopicSpec(
        name=CONTROL,
        partitions=1,
        max_record_bytes=1024 * 1024,
        retention_seconds=7 * DAY_S,
        groups=(CONTROL_GROUP,),
    ),
    TopicSpec(
        name=DEAD_LETTERS,
        partitions=1,
        max_record_bytes=10 * 1024 * 1024,
        retention_seconds=30 * DAY_S,
        groups=(REPLAY_GROUP,),
    ),
)

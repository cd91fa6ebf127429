"""Deleting what the event log need not keep, beyond what workers do by themselves.

Design note: docs/subsystems/maintenance.md#trim_event_log
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from backend.bus.base import EventLog, PartitionLag, TopicSpec
from backend.services.long_work import Observer, Step, nobody


@dataclass(slots=True)
class TrimReport:
    """What was found.

    Attributes:
        deleted: Records deleted.
        consumed: Records that every group has consumed and that are still there; of
            these, retention keeps some.
        waiting: Records that some group has not consumed.
    """

    deleted: int = 0
    consumed: int = 0
    waiting: int = 0


def trim_log(
    log: EventLog,
    *,
    topics: Sequence[TopicSpec],
    dry_run: bool = False,
    on_step: Observer = nobody,
) -> dict[str, Any]:
    """Delete what retention allows; return a report.

    Raises:
        EventLogError: If the log fails.
    """
    report = TrimReport()
    while not dry_run and (deleted := log.trim()):
        report.deleted += deleted
        on_step(Step(report.deleted, note="records deleted"))
    for topic in topics:
        for slowest in _slowest(log, topic):
            report.waiting += slowest.lag
            report.consumed += _consumed(log, slowest)
    return asdict(report)


def _slowest(log: EventLog, topic: TopicSpec) -> list[PartitionLag]:
    """Return, of each partition, the group that is furthest behind."""
    found: dict[int, PartitionLag] = {}
    for group in topic.groups:
        for lag in log.lag(group=group, topics=[topic.name]):
            known = found.get(lag.partition)
            if known is None or lag.committed < known.committed:
                found[lag.partition] = lag
    return list(found.values())


def _consumed(log: EventLog, lag: PartitionLag) -> int:
    first = log.read(lag.topic, partition=lag.partition, offset=0, max_records=1)
    if not first:
        return 0
    return max(0, lag.committed - first[0].position.offset)

"""How a worker tells others how it is: a small file, replaced as a whole.

The supervisor, the admin and the health endpoint read
`<data directory>/health/<name>.json`; a file whose `time_us` is older than a minute is
of a worker that hangs or is gone.

Design note: docs/subsystems/workers.md#health
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

logger = logging.getLogger(__name__)


STALE_S: Final = 60.0
"""A worker reports every few seconds; one silent for so long hangs or is gone."""


class Health(Protocol):
    """Takes a worker's word about itself."""

    def report(self, state: str, **fields: Any) -> None:
        """Note the state and what there is to say about it.

        Args:
            state: "starting", "ok", "failing", "stopping" or "stopped".
            fields: Counters, lag, the reason of a failure; JSON values.
        """


class NoHealth:
    """Takes the word and forgets it."""

    def report(self, state: str, **fields: Any) -> None:
        """Do nothing."""


class HealthFile:
    """Writes every report to a file; readers see the old one or the new one.

    A report that cannot be written is logged and otherwise ignored: a full disk must
    not stop a worker that is making room.

    Args:
        path: The file; its directory is made if missing.
        name: Name of the worker.
        now_us: Wall clock, microseconds since the epoch.

    Attributes:
        last: The newest report.
    """

    def __init__(self, path: Path, *, name: str, now_us: Callable[[], int]) -> None:
        self._path = path
        self._name = name
        self._now_us = now_us
        self.last: dict[str, Any] = {}

    def report(self, state: str, **fields: Any) -> None:
        """Replace the file; see `Health.report`."""
        body = {
            "name": self._name,
            "pid": os.getpid(),
            "state": state,
            "time_us": self._now_us(),
            **fields,
        }
        self.last = body
        # Two workers of one name must not write into each other's new file.
        fresh = self._path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(json.dumps(body))
            fresh.replace(self._path)
        except OSError as error:
            extra = {"path": str(self._path), "reason": str(error)}
            logger.warning("worker.health_not_written", extra=extra)


def read_reports(directory: Path) -> list[dict[str, Any]]:
    """Return the last report of every worker, in the order of their names."""
    return [json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))]


def trouble_of(report: Mapping[str, Any], *, now_us: int) -> str:
    """Return why a worker cannot be relied on just now, "" if it can."""
    age_s = (now_us - report["time_us"]) / 1e6
    if age_s > STALE_S:
        return f"it has said nothing for {age_s:.0f} s"
    if report["state"] in {"starting", "ok"}:
        return ""
    return f"it is {report['state']}: {report.get('reason') or 'no reason given'}"

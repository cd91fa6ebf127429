"""What the workers last said, and which need somebody.

Those of this data directory, from their health files; or, where Django's tables are
shared, those of every machine, from their heartbeats.

Design note: docs/subsystems/workers.md#health
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from django.conf import settings

from backend.admin.cells import Cell, now_us
from backend.models import WorkerHeartbeat

SILENT_S: Final = 60.0
"""A worker reports every few seconds; one silent for so long hangs or is gone."""

_MOODS: Final = {"ok": "good", "failing": "bad", "unreadable": "bad"}
_RESTART: Final = "Restart it if it is to run; nothing is lost meanwhile."
_RETRIES: Final = "It tries again by itself; nothing is lost meanwhile."


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """The last word of a worker.

    Attributes:
        name: Its name.
        said: The report as it was written.
        host: Its machine; "" for this one.
    """

    name: str
    said: dict[str, Any]
    host: str = ""

    @property
    def age_s(self) -> float:
        """Seconds since it was said."""
        return (now_us() - int(self.said.get("time_us", 0))) / 1e6

    @property
    def is_silent(self) -> bool:
        """Whether the worker hangs or is gone, though nobody stopped it."""
        return self.age_s > SILENT_S and self.said.get("state") != "stopped"

    @property
    def state(self) -> Cell:
        """How it is; "bad" where somebody has to act."""
        said = str(self.said.get("state", "unknown"))
        if self.is_silent:
            return Cell(f"silent (was {said})", mood="bad")
        if said == "ok" and self.said.get("warning"):
            return Cell("ok, with a warning", mood="bad")
        return Cell(said, mood=_MOODS.get(said, "warn"))

    @property
    def explanation(self) -> str:
        """Why it is so, or what it is doing."""
        reason = str(self.said.get("reason") or self.said.get("warning") or "")
        if self.is_silent:
            return f"{_RESTART} Its last word: {reason}" if reason else _RESTART
        if self.said.get("state") == "failing":
            return f"{reason}. {_RETRIES}" if reason else _RETRIES
        running = self.said.get("running")
        return reason or (f"doing {running}" if running else "")


def read_worker_reports() -> list[WorkerReport]:
    """Return the last reports: what needs somebody first, then by name."""
    reports = _read_rows() if settings.MATYAN_SHARED_HEARTBEATS else _read_files()
    return sorted(reports, key=lambda report: report.state.mood != "bad")


def summarise(reports: list[WorkerReport]) -> Cell:
    """Return in one line how the workers are."""
    if not reports:
        return Cell(
            "No worker has reported.",
            mood="warn",
            note="Nothing is stored or deleted until some run.",
        )
    bad = [report for report in reports if report.state.mood == "bad"]
    if not bad:
        stopped = sum(report.said.get("state") == "stopped" for report in reports)
        told = f", {stopped} stopped" if stopped else ""
        return Cell(f"{len(reports) - stopped} at work{told}.", mood="good")
    names = ", ".join(f"{report.name} is {report.state.text}" for report in bad)
    return Cell(
        f"{len(bad)} of {len(reports)} need attention.", mood="bad", note=f"{names}."
    )


def _read_rows() -> list[WorkerReport]:
    rows = WorkerHeartbeat.objects.order_by("name", "host")
    return [WorkerReport(row.name, row.said, row.host) for row in rows]


def _read_files() -> list[WorkerReport]:
    directory = Path(settings.DATA_DIR) / "health"
    return [_read(path) for path in sorted(directory.glob("*.json"))]


def _read(path: Path) -> WorkerReport:
    try:
        said = json.loads(path.read_text())
        return WorkerReport(str(said.get("name", path.stem)), said)
    except (OSError, ValueError, AttributeError) as error:
        # Not silent: when it was written is not known.
        said = {"state": "unreadable", "time_us": now_us(), "reason": str(error)}
        return WorkerReport(path.stem, said)

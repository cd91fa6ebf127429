"""Management commands of maintenance jobs: arguments, progress, report.

A command does in this process what the job does in a task worker. Progress is shown on
a terminal only, on stderr; the report goes to stdout. Interrupted, it notes where it
was; `--resume` goes on there.

Design note: docs/subsystems/maintenance.md#commands
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Final

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from typing_extensions import override

from backend.domain.job_reports import describe_report
from backend.domain.jobs import JOBS, JobName
from backend.errors import MatyanError
from backend.maintenance import resolve_arguments
from backend.services.long_work import Observer, Step
from workers.jobs import run_job

SAVE_S: Final = 1.0


class MaintenanceCommand(BaseCommand):
    """A command that does a job.

    Attributes:
        job: Which.
    """

    job: ClassVar[JobName]

    @override
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._spec = JOBS[self.job]
        self.help = self._spec.what
        super().__init__(*args, **kwargs)

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        for parameter in self._spec.parameters:
            default = f" ({parameter.setting})" if parameter.setting else ""
            parser.add_argument(
                f"--{parameter.name.replace('_', '-')}",
                type=parameter.kind,
                default=None,
                help=parameter.help + default,
            )
        if self._spec.dry_run:
            parser.add_argument(
                "--dry-run",
                action="store_true",
                help="count what would be done and change nothing",
            )
        parser.add_argument(
            "--resume",
            action="store_true",
            help="go on where this command was interrupted",
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    @override
    def handle(self, **options: Any) -> None:
        given = {
            p.name: options[p.name]
            for p in self._spec.parameters
            if options[p.name] is not None
        }
        if options.get("dry_run"):
            given["dry_run"] = True
        file = _CheckpointFile(self.job)
        checkpoint = file.read() if options["resume"] else {}
        try:
            with shown_progress(self._spec.title) as show:

                def tell(step: Step) -> None:
                    show(step)
                    if not options.get("dry_run"):
                        file.note(step)

                arguments = resolve_arguments(self.job, given)
                report = run_job(
                    self.job,
                    arguments,
                    on_step=tell,
                    checkpoint=checkpoint,
                )
        except KeyboardInterrupt:
            file.save()
            stopped = "Interrupted. Go on with --resume."
            raise CommandError(stopped) from None
        except (MatyanError, OSError) as error:
            file.save()
            raise CommandError(str(error)) from None
        file.remove()
        self.done(arguments, report)
        text = report_text(
            report, as_json=options["json"], dry_run=options.get("dry_run", False)
        )
        self.stdout.write(text)

    def done(self, arguments: dict[str, Any], report: dict[str, Any]) -> None:
        """Note somewhere what the job reports, if that is of use later."""


def report_text(report: dict[str, Any], *, as_json: bool, dry_run: bool = False) -> str:
    """Return a report for people, a line each, or as one JSON object."""
    if as_json:
        return json.dumps(report)
    lines = [f"{name:<32}{text}".rstrip() for name, text in describe_report(report)]
    if dry_run:
        lines.append("Only counted: nothing was changed.")
    return "\n".join(lines)


@contextlib.contextmanager
def shown_progress(title: str) -> Iterator[Observer]:
    """Yield an observer that shows how far work is, on a terminal only."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        console=Console(file=sys.stderr),
        disable=not sys.stderr.isatty(),
    ) as progress:
        task = progress.add_task(title, total=None, note="")
        yield lambda step: progress.update(
            task, completed=step.done, total=step.total or None, note=step.note
        )


class _CheckpointFile:
    """Where a command was when it was interrupted."""

    def __init__(self, job: JobName) -> None:
        self._path = Path(settings.DATA_DIR) / "maintenance" / f"{job.value}.json"
        self._last: dict[str, Any] = {}
        self._saved_s = 0.0

    def read(self) -> dict[str, Any]:
        """Return the checkpoint.

        Raises:
            CommandError: If there is nothing to go on with.
        """
        try:
            self._last = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):
            msg = "There is nothing to go on with: it was not interrupted."
            raise CommandError(msg) from None
        return self._last

    def note(self, step: Step) -> None:
        """Remember a step, and write it now and then: the process may be killed."""
        self._last = dict(step.checkpoint)
        if time.monotonic() - self._saved_s >= SAVE_S:
            self.save()

    def save(self) -> None:
        """Write what was noted last."""
        if self._last:
            self._saved_s = time.monotonic()
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = self._path.with_suffix(".tmp")
            fresh.write_text(json.dumps(self._last))
            fresh.replace(self._path)

    def remove(self) -> None:
        """Forget it: the work is done."""
        self._path.unlink(missing_ok=True)

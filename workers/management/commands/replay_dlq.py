"""`manage.py replay_dlq`: give dead letters another chance."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console
from rich.progress import Progress
from typing_extensions import override

from backend import runtime
from backend.bus.topics import DEAD_LETTERS, REPLAY_GROUP, TOPICS
from backend.errors import MatyanError
from backend.services.dead_letters import iter_dead_letters
from workers.dlq import ReplayReport, replay


class Command(BaseCommand):
    help = (
        "Publish dead letters to the topics they came from, so that the workers try "
        "them again. Can be interrupted and run again."
    )

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--limit", type=_positive, help="replay at most so many")
        parser.add_argument(
            "--topic",
            choices=[topic.name for topic in TOPICS if topic.name != DEAD_LETTERS],
            help="only those that came from this topic",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="list what would be replayed and change nothing",
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    @override
    def handle(self, **options: Any) -> None:
        try:
            log = runtime.get_event_log()
            log.ensure_topics(TOPICS)
            if options["dry_run"]:
                self._list(**options)
            else:
                self._replay(**options)
        except MatyanError as error:
            raise CommandError(str(error)) from None

    def _list(
        self, *, limit: int | None, topic: str | None, json: bool, **_later: Any
    ) -> None:
        log = runtime.get_event_log()
        reasons: Counter[tuple[str, str, str]] = Counter()
        for letter in iter_dead_letters(log, topic=topic, limit=limit):
            reasons[letter.topic, letter.code, letter.reason] += 1
        if json:
            self._print_json(
                would_replay=reasons.total(),
                reasons=[
                    {"topic": t, "code": c, "reason": r, "records": n}
                    for (t, c, r), n in reasons.most_common()
                ],
            )
            return
        for (origin, code, reason), count in reasons.most_common():
            self.stdout.write(f"{count:>8}  {origin}  {code}  {reason}")
        self.stdout.write(f"{reasons.total()} would be replayed.")

    def _replay(
        self, *, limit: int | None, topic: str | None, json: bool, **_later: Any
    ) -> None:
        log = runtime.get_event_log()
        waiting = sum(x.lag for x in log.lag(group=REPLAY_GROUP, topics=[DEAD_LETTERS]))
        console = Console(file=sys.stderr)
        with Progress(console=console, disable=not sys.stderr.isatty()) as progress:
            task = progress.add_task("replaying", total=limit or waiting)

            def show(report: ReplayReport) -> None:
                progress.update(task, completed=report.replayed + report.kept)

            report = replay(
                log,
                runtime.get_producer(),
                topic=topic,
                limit=limit,
                on_progress=show,
            )
        if json:
            self._print_json(
                replayed=report.replayed, kept=report.kept, by_topic=report.by_topic
            )
            return
        self.stdout.write(f"{report.replayed} replayed, {report.kept} kept.")

    def _print_json(self, **body: Any) -> None:
        self.stdout.write(json.dumps(body))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number

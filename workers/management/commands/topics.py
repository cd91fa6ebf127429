"""`manage.py topics create|check|list`: the topics of the event log.

Exit status: 0 done, 1 failed or differences found, 2 usage.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, CommandParser
from typing_extensions import override

from backend import runtime
from backend.bus.base import EventLog, PartitionLag, TopicState, seconds_to_loss
from backend.bus.topics import TOPICS
from backend.errors import MatyanError

_ACTIONS: Final = {
    "create": "create missing topics, partitions and settings; change nothing else",
    "check": "tell what differs from what is needed; exit status 1 if anything does",
    "list": "list every topic, its settings and how far its readers are",
}


class Command(BaseCommand):
    help = "Create, check or list the topics of the event log."

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        for name, text in _ACTIONS.items():
            action = actions.add_parser(name, help=text, description=text)
            action.add_argument(
                "--json", action="store_true", help="print one JSON object"
            )

    @override
    def handle(self, *, action: str, json: bool, **_later: Any) -> None:
        does: dict[str, Callable[[EventLog, bool], None]] = {
            "create": self._create,
            "check": self._check,
            "list": self._list,
        }
        try:
            does[action](runtime.get_event_log(), json)
        except MatyanError as error:
            raise CommandError(str(error)) from None
        finally:
            runtime.close()

    def _create(self, log: EventLog, as_json: bool) -> None:  # noqa: FBT001 - one of three alike
        before = {s.name: s for s in log.inspect_topics(TOPICS)}
        log.ensure_topics(TOPICS)
        after = log.inspect_topics(TOPICS)
        done = {
            state.name: _what_was_done(before[state.name], state) for state in after
        }
        if as_json:
            self.stdout.write(json.dumps({"topics": done}))
        else:
            for name, text in done.items():
                self.stdout.write(f"{name:<20} {text}")
        _require_right(after)

    def _check(self, log: EventLog, as_json: bool) -> None:  # noqa: FBT001 - one of three alike
        states = log.inspect_topics(TOPICS)
        if as_json:
            body = {state.name: list(state.problems) for state in states}
            self.stdout.write(json.dumps({"problems": body}))
        else:
            for state in states:
                if not state.problems:
                    self.stdout.write(f"{state.name:<20} as it should be")
        _require_right(states)

    def _list(self, log: EventLog, as_json: bool) -> None:  # noqa: FBT001 - one of three alike
        states = log.inspect_topics(TOPICS)
        groups = {spec.name: spec.groups for spec in TOPICS}
        lags = {
            (state.name, group): log.lag(group=group, topics=[state.name])
            for state in states
            if state.partitions
            for group in groups[state.name]
        }
        if as_json:
            self.stdout.write(json.dumps({"topics": [_body(s, lags) for s in states]}))
        else:
            for line in _lines(states, lags):
                self.stdout.write(line)


Lags = dict[tuple[str, str], list[PartitionLag]]


def _what_was_done(before: TopicState, after: TopicState) -> str:
    if not before.partitions:
        return f"created, {after.partitions} partitions"
    if before.partitions < after.partitions:
        return f"{before.partitions} partitions are now {after.partitions}"
    if before.problems and not after.problems:
        return f"corrected: {'; '.join(before.problems)}"
    return "is there"


def _require_right(states: Sequence[TopicState]) -> None:
    problems = [
        f"{state.name}: {problem}" for state in states for problem in state.problems
    ]
    if problems:
        raise CommandError("\n".join(problems))


def _body(state: TopicState, lags: Lags) -> dict[str, Any]:
    return {
        "name": state.name,
        "partitions": state.partitions,
        "replicas": state.replicas,
        "max_record_bytes": state.max_record_bytes,
        "retention_seconds": state.retention_seconds,
        "problems": list(state.problems),
        "groups": [
            {
                "group": group,
                "lag": sum(lag.lag for lag in found),
                "oldest_age_s": max((lag.oldest_age_s for lag in found), default=0.0),
                "seconds_to_loss": seconds_to_loss(found),
            }
            for (topic, group), found in lags.items()
            if topic == state.name
        ],
    }


def _lines(states: Sequence[TopicState], lags: Lags) -> Iterator[str]:
    columns = "{:<16} {:>10} {:>7} {:>15}  {:<20} {:>12}"
    yield columns.format("topic", "partitions", "copies", "kept", "group", "lag")
    for state in states:
        found = [(g, x) for (topic, g), x in lags.items() if topic == state.name]
        for group, partitions in found or [("", [])]:
            yield columns.format(
                state.name,
                state.partitions or "missing",
                state.replicas,
                _duration(state.retention_seconds),
                group,
                sum(lag.lag for lag in partitions),
            )


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "until consumed"
    return f"{seconds / 86_400:.1f} days"

"""`manage.py store copy|verify`: move a store to another engine; check one.

A store is named ENGINE:WHERE: `embedded:/path/of/the/directory`,
`foundationdb:/path/of/the/cluster/file` (`foundationdb:` for the default one), or
`configured` for the store of the settings.

Exit status: 0 done, 1 failed or problems found, 2 usage.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console
from rich.progress import (
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from typing_extensions import override

from backend.errors import MatyanError
from backend.services.store_copy import CopyProgress, copy_store
from backend.services.store_verify import verify_store
from backend.services.store_walk import Problem
from backend.storage.engine.base import Engine
from backend.storage.factory import open_engine

CONFIGURED: Final = "configured"
ENGINES: Final = {
    "embedded": ("backend.storage.engine.embedded.EmbeddedEngine", "path"),
    "foundationdb": ("backend.storage.engine.fdb.FdbEngine", "cluster_file"),
}
MAX_LISTED: Final = 1_000
"""Problems listed in the JSON object; all are counted."""


class Command(BaseCommand):
    help = "Copy a store to another engine, or verify one."

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        copy = actions.add_parser(
            "copy",
            help="copy a store to an empty one",
            description=(
                "Copy a store to an empty one. Stop what writes to the source first. "
                "Can be stopped and resumed; the target cannot be used before the copy "
                "is complete."
            ),
        )
        copy.add_argument(
            "--from", required=True, dest="source", metavar="ENGINE:WHERE"
        )
        copy.add_argument("--to", required=True, dest="target", metavar="ENGINE:WHERE")
        copy.add_argument(
            "--resume", action="store_true", help="go on with a copy that was stopped"
        )
        copy.add_argument(
            "--no-compare",
            action="store_true",
            help="do not compare the stores after copying",
        )
        verify = actions.add_parser(
            "verify",
            help="check every row of a store",
            description=(
                "Check every row against the rows it refers to, decode every value, "
                "and recompute every summary. Changes nothing."
            ),
        )
        verify.add_argument(
            "--store",
            default=CONFIGURED,
            metavar="ENGINE:WHERE",
            help="the store (default: that of the settings)",
        )
        for action in (copy, verify):
            action.add_argument(
                "--json", action="store_true", help="print one JSON object"
            )

    @override
    def handle(self, *, action: str, **options: Any) -> None:
        try:
            if action == "copy":
                self._copy(**options)
            else:
                self._verify(**options)
        except MatyanError as error:
            raise CommandError(str(error)) from None

    def _copy(
        self,
        *,
        source: str,
        target: str,
        resume: bool,
        no_compare: bool,
        json: bool,
        **_later: Any,
    ) -> None:
        if source == target:
            raise _wrong(source, "is both --from and --to.")
        with (
            _open(source, must_exist=True) as source_engine,
            _open(target) as target_engine,
            _progress("copying") as show,
        ):

            def tell(done: CopyProgress) -> None:
                copied = f"{done.pairs:,} keys, {done.copied_bytes / 1e6:,.0f} MB"
                compared = f", {done.compared:,} compared" if done.compared else ""
                show(copied + compared)

            try:
                done = copy_store(
                    source_engine,
                    target_engine,
                    source_name=source,
                    resume=resume,
                    compare=not no_compare,
                    on_progress=tell,
                )
            except KeyboardInterrupt:
                stopped = "Stopped. Go on with --resume."
                raise CommandError(stopped) from None
        if json:
            self._print_json(
                keys=done.pairs, bytes=done.copied_bytes, put_right=done.repaired
            )
            return
        self.stdout.write(
            f"{done.pairs:,} keys copied ({done.copied_bytes / 1e6:,.1f} MB), "
            f"{done.repaired:,} put right."
        )

    def _verify(self, *, store: str, json: bool, **_later: Any) -> None:
        listed: list[dict[str, str]] = []

        def on_problem(problem: Problem) -> None:
            if not json:
                self.stdout.write(f"{problem.where}: {problem.reason}")
            elif len(listed) < MAX_LISTED:
                listed.append(
                    {
                        "key": problem.key.hex(),
                        "where": problem.where,
                        "reason": problem.reason,
                    }
                )

        with _open(store, must_exist=True) as engine, _progress("verifying") as show:
            report = verify_store(
                engine,
                on_problem=on_problem,
                on_progress=lambda name, rows: show(f"{name}: {rows:,}"),
            )
        if json:
            self._print_json(problems=report.problems, rows=report.rows, listed=listed)
        else:
            total = sum(report.rows.values())
            self.stdout.write(f"{total:,} rows verified, {report.problems:,} problems.")
        if report.problems:
            sys.exit(1)

    def _print_json(self, **body: Any) -> None:
        self.stdout.write(json.dumps(body))


@contextlib.contextmanager
def _open(name: str, *, must_exist: bool = False) -> Iterator[Engine]:
    path, options = _parse(name, must_exist=must_exist)
    with contextlib.closing(open_engine(engine=path, options=options)) as engine:
        yield engine


def _parse(name: str, *, must_exist: bool) -> tuple[str, dict[str, Any]]:
    """Return the engine's class path and its options for ENGINE:WHERE."""
    if name == CONFIGURED:
        config = settings.MATYAN_STORE
        return config["ENGINE"], config.get("OPTIONS", {})
    kind, colon, where = name.partition(":")
    if kind not in ENGINES or not colon or (kind == "embedded" and not where):
        raise _wrong(name, "names no store: use embedded:PATH or foundationdb:FILE.")
    if must_exist and where and not Path(where).exists():
        raise _wrong(where, "does not exist.")
    path, option = ENGINES[kind]
    options: dict[str, Any] = {option: where or None}
    if kind == "foundationdb" and settings.MATYAN_FDB_LIBRARY:
        options["library"] = settings.MATYAN_FDB_LIBRARY
    return path, options


def _wrong(what: str, why: str) -> CommandError:
    return CommandError(f"{what} {why}", returncode=2)


@contextlib.contextmanager
def _progress(verb: str) -> Iterator[Any]:
    """Yield a function that shows how far it is, on a terminal only."""
    with Progress(
        SpinnerColumn(),
        TextColumn(verb),
        TextColumn("{task.fields[done]}"),
        TimeElapsedColumn(),
        console=Console(file=sys.stderr),
        disable=not sys.stderr.isatty(),
    ) as progress:
        task = progress.add_task(verb, total=None, done="")
        yield lambda text: progress.update(task, done=text)

"""Compacting the chunks of runs that nobody writes to.

Design note: docs/subsystems/maintenance.md#compact_chunks
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from backend.domain.runs import Run
from backend.services.damage import IMPOSSIBLE, read_page
from backend.services.long_work import Checkpoint, Observer, Step, nobody
from backend.storage.engine.base import ReadTransaction
from backend.storage.repositories.series_compaction import compact_run

if TYPE_CHECKING:
    from backend.storage.factory import Store

logger = logging.getLogger(__name__)

PAGE: Final = 100


@dataclass(slots=True)
class CompactionReport:
    """What was done.

    Attributes:
        runs: Runs looked at; active ones are passed over.
        changed: Of these, had chunks to merge.
        damaged: Of these, could not be read or rewritten whole; the log and
            `store verify` tell more.
        groups: Groups of chunks merged.
        chunks_before: Chunks there were in them.
        chunks_after: Chunks they are now.
    """

    runs: int = 0
    changed: int = 0
    damaged: int = 0
    groups: int = 0
    chunks_before: int = 0
    chunks_after: int = 0


def compact_chunks(
    store: Store,
    *,
    dry_run: bool = False,
    on_step: Observer = nobody,
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any]:
    """Merge the small chunks of every run that is not active; return a report.

    Raises:
        StoreError: If the store fails; what is merged stays merged.
    """
    report = CompactionReport(**(checkpoint or {}).get("report", {}))
    after = (checkpoint or {}).get("after", -1)
    total = store.engine.read(store.runs.count)
    while True:

        def read(tr: ReadTransaction, after: int = after) -> list[Run]:
            return read_page(
                store.runs, tr, limit=PAGE, newest_first=False, after=after
            )

        page = store.engine.read(read)
        for run in page:

            def tell(after: int = after) -> None:
                saved = {"after": after, "report": asdict(report)}
                on_step(Step(report.runs, total, checkpoint=saved))

            if not run.active:
                _compact(store, run, report, dry_run=dry_run, tell=tell)
            report.runs += 1
            after = run.number
            tell(after)
        if len(page) < PAGE:
            return asdict(report)


def _compact(
    store: Store, run: Run, report: CompactionReport, *, dry_run: bool, tell: Any
) -> None:
    try:
        if not dry_run:
            store.series.seal(store.engine, run.number, final=True)
        done = compact_run(store.engine, run.number, dry_run=dry_run, between=tell)
    except IMPOSSIBLE as error:
        report.damaged += 1
        extra = {"run_id": run.run_id, "code": error.code}
        logger.exception("compaction.run_left", extra=extra)
        return
    report.changed += bool(done.groups)
    report.groups += done.groups
    report.chunks_before += done.before
    report.chunks_after += done.after

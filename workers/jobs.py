"""What each maintenance job does: its arguments, and the service that does it.

A job is a function of keyword arguments that returns its report, JSON values. It tells
`on_step` how far it is, may be stopped there by what that raises, and goes on from
`checkpoint`.

Design note: docs/subsystems/maintenance.md
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from backend import runtime
from backend.bus.base import EventLog
from backend.bus.topics import INGESTION, INGESTION_GROUP, TOPICS
from backend.domain.jobs import JobName
from backend.services import runs
from backend.services.backup import back_up
from backend.services.blob_sweep import sweep_blobs
from backend.services.compaction import compact_chunks
from backend.services.experiments import delete_experiment
from backend.services.log_trim import trim_log
from backend.services.long_work import Checkpoint, Observer, Step
from backend.services.reindex import reindex
from backend.services.stale_runs import finish_stale_runs
from backend.services.store_sizes import measure_store
from backend.services.tags import delete_tag
from backend.services.tombstones import expire_tombstones
from workers import backups
from workers.dlq import ReplayReport, replay

Report = dict[str, Any]
Run = Callable[..., Report]

HOUR_US: Final = 3_600_000_000
SKIPPED: Final = "nothing was done: it is turned off, see"


def now_us() -> int:
    """Return the wall clock, microseconds since the epoch."""
    return time.time_ns() // 1000


def _event_log() -> EventLog:
    log = runtime.get_event_log()
    log.ensure_topics(TOPICS)
    return log


def run_job(
    job: str,
    arguments: Mapping[str, Any],
    *,
    on_step: Observer,
    checkpoint: Checkpoint | None = None,
) -> Report:
    """Do a job; return its report.

    Args:
        job: Its name.
        arguments: All its arguments, as from `backend.maintenance.resolve_arguments`.
        on_step: Told how far it is; what it raises ends the job there.
        checkpoint: Of the last step of an earlier attempt.

    Raises:
        MatyanError: If it cannot be done, or not now.
    """
    function = FUNCTIONS[JobName(job)]
    return function(on_step=on_step, checkpoint=checkpoint or {}, **arguments)


def _finish_stale(
    *,
    hours: float,
    on_step: Observer,
    checkpoint: Checkpoint,
    dry_run: bool = False,
) -> Report:
    if not hours:
        return {"skipped": f"{SKIPPED} MATYAN_STALE_RUN_HOURS"}
    return finish_stale_runs(
        runtime.get_store(),
        idle_us=round(hours * HOUR_US),
        now_us=now_us(),
        dry_run=dry_run,
        on_step=on_step,
        checkpoint=checkpoint,
    )


def _expire_tombstones(
    *,
    hours: float,
    on_step: Observer,
    checkpoint: Checkpoint,
    dry_run: bool = False,
) -> Report:
    if not hours:
        return {"skipped": f"{SKIPPED} MATYAN_TOMBSTONE_HOURS"}
    return expire_tombstones(
        runtime.get_store(),
        deleted_before_us=now_us() - round(hours * HOUR_US),
        dry_run=dry_run,
        on_step=on_step,
        checkpoint=checkpoint,
    )


def _sweep_blobs(
    *,
    hours: float,
    on_step: Observer,
    checkpoint: Checkpoint,
    dry_run: bool = False,
) -> Report:
    if not hours:
        return {"skipped": f"{SKIPPED} MATYAN_ORPHAN_BLOB_HOURS"}
    # A grant that waits in the event log belongs to a run that is not stored yet.
    lags = _event_log().lag(group=INGESTION_GROUP, topics=[INGESTION])
    behind_s = max((lag.oldest_age_s for lag in lags), default=0.0)
    age_us = round(hours * HOUR_US) + round(behind_s * 1e6)
    return sweep_blobs(
        runtime.get_store(),
        runtime.get_blobs(),
        modified_before_us=now_us() - age_us,
        dry_run=dry_run,
        on_step=on_step,
    )


def _compact(
    *, on_step: Observer, checkpoint: Checkpoint, dry_run: bool = False
) -> Report:
    return compact_chunks(
        runtime.get_store(), dry_run=dry_run, on_step=on_step, checkpoint=checkpoint
    )


def _reindex(
    *, on_step: Observer, checkpoint: Checkpoint, dry_run: bool = False
) -> Report:
    return reindex(
        runtime.get_store(), dry_run=dry_run, on_step=on_step, checkpoint=checkpoint
    )


def _back_up(
    *,
    directory: str,
    keep: int,
    on_step: Observer,
    checkpoint: Checkpoint,
    dry_run: bool = False,
) -> Report:
    place = backups.working_directory(directory)
    if place is None:
        return {"skipped": f"{SKIPPED} MATYAN_BACKUP_DIR, MATYAN_BACKUP_STORAGE"}
    begun_us = int(checkpoint.get("begun_us", 0)) or now_us()
    path = place / backups.backup_name(begun_us)

    def tell(step: Step) -> None:
        saved = {"begun_us": begun_us}
        on_step(Step(step.done, step.total, step.note, saved))

    report: Report = {}
    # It is whole already where an earlier attempt ended between writing and moving it.
    if not path.exists():
        report = back_up(
            runtime.get_store(),
            path,
            created_us=begun_us,
            dry_run=dry_run,
            on_step=tell,
        )
    if dry_run:
        return {**report, "path": str(path), "removed": []}
    return {**report, **_keep(path, keep=keep)}


def _keep(path: Path, *, keep: int) -> Report:
    """Put a whole backup where it belongs and remove old ones."""
    storage = backups.find_storage()
    if storage is None:
        removed = backups.prune_directory(path.parent, keep=keep)
        return {"path": str(path), "removed": removed}
    name = backups.move_to_storage(path, storage)
    removed = backups.prune_storage(storage, keep=keep)
    removed += backups.prune_partial(path.parent, newest=path.name)
    return {"stored": name, "removed": removed}


def _trim(
    *,
    on_step: Observer,
    checkpoint: Checkpoint,
    dry_run: bool = False,
) -> Report:
    return trim_log(_event_log(), topics=TOPICS, dry_run=dry_run, on_step=on_step)


def _measure(
    *,
    max_runs: int,
    on_step: Observer,
    checkpoint: Checkpoint,
) -> Report:
    return measure_store(runtime.get_store(), max_runs=max_runs, on_step=on_step)


def _delete_runs(
    *,
    run_ids: list[str],
    on_step: Observer,
    checkpoint: Checkpoint,
    dry_run: bool = False,
) -> Report:
    done = int(checkpoint.get("done", 0))
    deleted = int(checkpoint.get("deleted", 0))
    store = runtime.get_store()
    if dry_run:
        found = store.engine.read(lambda tr: store.runs.find_many(tr, run_ids))
        return {"runs": len(run_ids), "deleted": len(found)}
    for start in range(done, len(run_ids), runs.RUNS_PER_TRANSACTION):
        some = run_ids[start : start + runs.RUNS_PER_TRANSACTION]
        deleted += runs.delete_runs(store, run_ids=some, now_us=now_us())
        done = start + len(some)
        on_step(Step(done, len(run_ids), checkpoint={"done": done, "deleted": deleted}))
    return {"runs": len(run_ids), "deleted": deleted}


def _delete_experiment(
    *,
    experiment_id: str,
    on_step: Observer,
    checkpoint: Checkpoint,
) -> Report:
    on_step(Step(0, note="unlinking its runs"))
    delete_experiment(runtime.get_store(), experiment_id=experiment_id, now_us=now_us())
    return {"deleted": 1}


def _delete_tag(
    *,
    tag_id: str,
    on_step: Observer,
    checkpoint: Checkpoint,
) -> Report:
    on_step(Step(0, note="taking it off its runs"))
    delete_tag(runtime.get_store(), tag_id=tag_id, now_us=now_us())
    return {"deleted": 1}


def _replay(
    *,
    origins: list[str] | None,
    on_step: Observer,
    checkpoint: Checkpoint,
) -> Report:
    return _treat_dead_letters(origins, on_step, discard=False)


def _discard(
    *,
    origins: list[str] | None,
    on_step: Observer,
    checkpoint: Checkpoint,
) -> Report:
    return _treat_dead_letters(origins, on_step, discard=True)


def _treat_dead_letters(
    origins: list[str] | None, on_step: Observer, *, discard: bool
) -> Report:
    """Treat the dead letters of these origins, all of them for None."""
    total = len(origins) if origins is not None else 0

    def tell(report: ReplayReport) -> None:
        on_step(Step(report.replayed + report.discarded, total))

    report = replay(
        _event_log(),
        runtime.get_producer(),
        origins=origins,
        discard=discard,
        on_progress=tell,
    )
    return {
        "replayed": report.replayed,
        "discarded": report.discarded,
        "kept": report.kept,
    }


FUNCTIONS: Final[Mapping[JobName, Run]] = {
    JobName.FINISH_STALE_RUNS: _finish_stale,
    JobName.EXPIRE_TOMBSTONES: _expire_tombstones,
    JobName.SWEEP_BLOBS: _sweep_blobs,
    JobName.COMPACT_CHUNKS: _compact,
    JobName.REINDEX: _reindex,
    JobName.BACK_UP: _back_up,
    JobName.TRIM_EVENT_LOG: _trim,
    JobName.MEASURE_STORE: _measure,
    JobName.DELETE_RUNS: _delete_runs,
    JobName.DELETE_EXPERIMENT: _delete_experiment,
    JobName.DELETE_TAG: _delete_tag,
    JobName.REPLAY_DEAD_LETTERS: _replay,
    JobName.DISCARD_DEAD_LETTERS: _discard,
}

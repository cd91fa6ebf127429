"""Maintenance jobs: what can be asked for, by whom it is understood, and how.

The table is shared by the admin, the management commands and the task workers; what a
job does is in `workers/jobs.py`.

Design note: docs/subsystems/maintenance.md
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of a job.

    Attributes:
        name: Keyword.
        kind: `float`, `int` or `str`.
        help: One sentence.
        setting: Name of the setting that has the default, "" for `default`.
        default: Taken without a setting.
        in_admin: Whether it can be given in the admin: not what names files.
    """

    name: str
    kind: type
    help: str
    setting: str = ""
    default: float | int | str = 0
    in_admin: bool = True


class JobName(StrEnum):
    """Every job. Permanent: rows and queues hold the values."""

    FINISH_STALE_RUNS = "finish_stale_runs"
    EXPIRE_TOMBSTONES = "expire_tombstones"
    SWEEP_BLOBS = "sweep_blobs"
    COMPACT_CHUNKS = "compact_chunks"
    REINDEX = "reindex"
    BACK_UP = "back_up"
    TRIM_EVENT_LOG = "trim_event_log"
    MEASURE_STORE = "measure_store"
    DELETE_RUNS = "delete_runs"
    DELETE_EXPERIMENT = "delete_experiment"
    DELETE_TAG = "delete_tag"
    REPLAY_DEAD_LETTERS = "replay_dead_letters"
    DISCARD_DEAD_LETTERS = "discard_dead_letters"


@dataclass(frozen=True, slots=True)
class Job:
    """One job.

    Attributes:
        name: Which.
        title: For people.
        what: What it does, and what becomes of what it takes away; for people.
        parameters: What can be chosen.
        dry_run: Whether it can count without changing anything.
        asked_for: Whether people choose it from a list; the others belong to a page.
    """

    name: JobName
    title: str
    what: str
    parameters: tuple[Parameter, ...] = ()
    dry_run: bool = True
    asked_for: bool = True


_ORIGINS: Final = Parameter("origins", str, "Which dead letters.", in_admin=False)

JOBS: Final[dict[str, Job]] = {
    job.name.value: job
    for job in (
        Job(
            JobName.FINISH_STALE_RUNS,
            "Finish stale runs",
            "Marks active runs as finished that have received nothing for some hours, "
            "at the time they last did. Data that comes later is stored all the same.",
            (
                Parameter(
                    "hours",
                    float,
                    "Without data for so many hours; 0 does nothing.",
                    setting="MATYAN_STALE_RUN_HOURS",
                ),
            ),
        ),
        Job(
            JobName.EXPIRE_TOMBSTONES,
            "Expire tombstones",
            "Forgets runs deleted long ago: their ids can be used again, and data that "
            "still arrives for them makes new runs.",
            (
                Parameter(
                    "hours",
                    float,
                    "Deleted more than so many hours ago; 0 does nothing.",
                    setting="MATYAN_TOMBSTONE_HOURS",
                ),
            ),
        ),
        Job(
            JobName.SWEEP_BLOBS,
            "Sweep orphan files",
            "Removes files (artifacts, images, audio) that no run knows and that are "
            "older than some hours. They cannot be brought back.",
            (
                Parameter(
                    "hours",
                    float,
                    "Older than so many hours; 0 does nothing.",
                    setting="MATYAN_ORPHAN_BLOB_HOURS",
                ),
            ),
        ),
        Job(
            JobName.COMPACT_CHUNKS,
            "Compact chunks",
            "Merges the small chunks of runs that are not active into full ones. What "
            "is read stays the same; the store gets smaller and faster.",
        ),
        Job(
            JobName.REINDEX,
            "Rebuild indexes",
            "Builds index rows anew from the records and clears rows that belong to "
            "none. For runs that are not found, or found wrongly.",
        ),
        Job(
            JobName.BACK_UP,
            "Back up the store",
            "Writes all records to one file. Files in the blob store are not in it.",
            (
                Parameter(
                    "directory",
                    str,
                    "Directory of the backups; empty does nothing.",
                    setting="MATYAN_BACKUP_DIR",
                    in_admin=False,
                ),
                Parameter(
                    "keep",
                    int,
                    "How many backups are kept there.",
                    setting="MATYAN_BACKUP_KEEP",
                    in_admin=False,
                ),
            ),
        ),
        Job(
            JobName.TRIM_EVENT_LOG,
            "Trim the event log",
            "Deletes records that every group has consumed and whose time is over. The "
            "workers do so all the time; this is for a log that nobody trims.",
        ),
        Job(
            JobName.MEASURE_STORE,
            "Measure the store",
            "Counts the bytes of runs by kind; of a large store some runs, from which "
            "the rest is estimated. Changes nothing.",
            (
                Parameter(
                    "max_runs", int, "Most runs measured one by one.", default=2_000
                ),
            ),
            dry_run=False,
        ),
        Job(
            JobName.DELETE_RUNS,
            "Delete runs",
            "Deletes runs with their data and files. They cannot be brought back.",
            (Parameter("run_ids", str, "Which runs.", in_admin=False),),
            asked_for=False,
        ),
        Job(
            JobName.DELETE_EXPERIMENT,
            "Delete an experiment",
            "Unlinks the experiment's runs, which stay, and removes it with its notes.",
            (Parameter("experiment_id", str, "Which.", in_admin=False),),
            dry_run=False,
            asked_for=False,
        ),
        Job(
            JobName.DELETE_TAG,
            "Delete a tag",
            "Takes the tag off its runs, which stay, and removes it.",
            (Parameter("tag_id", str, "Which.", in_admin=False),),
            dry_run=False,
            asked_for=False,
        ),
        Job(
            JobName.REPLAY_DEAD_LETTERS,
            "Replay dead letters",
            "Publishes records that could not be applied once more; those that still "
            "cannot be come back as dead letters.",
            (_ORIGINS,),
            dry_run=False,
            asked_for=False,
        ),
        Job(
            JobName.DISCARD_DEAD_LETTERS,
            "Discard dead letters",
            "Gives records up that could not be applied. They cannot be brought back.",
            (_ORIGINS,),
            dry_run=False,
            asked_for=False,
        ),
    )
}
"""Every job, by name."""

"""Celery's settings: the broker, how workers behave, what is done when.

Without a broker URL, messages are files under the data directory: one machine.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, Final

QUEUE: Final = "matyan"
BROKER_TIMEOUT_S: Final = 5


def celery_settings(broker_url: str, *, data_dir: Path) -> dict[str, Any]:
    """Return what `Celery.config_from_object` takes.

    Args:
        broker_url: redis://…, amqp://…; "" for files under the data directory.
        data_dir: Where those, and the times of the schedule, are kept.
    """
    directory = data_dir / "tasks"
    return {
        **(_remote(broker_url) if broker_url else _files(directory)),
        "task_default_queue": QUEUE,
        "task_ignore_result": True,
        "task_serializer": "json",
        "accept_content": ["json"],
        # A task may run twice; one that was begun must not vanish with its worker.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        # Threads: the store may not be used across a fork.
        "worker_pool": "threads",
        "worker_concurrency": 1,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_send_task_events": False,
        "worker_enable_remote_control": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "beat_schedule_filename": str(directory / "schedule"),
        "beat_schedule": SCHEDULE,
        "imports": ("workers.tasks.reactions", "workers.tasks.requests"),
        "enable_utc": True,
        "timezone": "UTC",
    }


def _files(directory: Path) -> dict[str, Any]:
    messages = str(directory / "messages")
    return {
        "broker_url": "filesystem://localhost",
        "broker_transport_options": {
            "data_folder_in": messages,
            "data_folder_out": messages,
            "control_folder": str(directory / "control"),
            "polling_interval": 0.5,
        },
    }


def _remote(url: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if url.startswith(("redis:", "rediss:")):
        options = {
            # A task not ended after so long goes to another worker as well.
            "visibility_timeout": 6 * 3600,
            "socket_connect_timeout": BROKER_TIMEOUT_S,
            "socket_timeout": BROKER_TIMEOUT_S,
            "socket_keepalive": True,
        }
    return {
        "broker_url": url,
        "broker_connection_timeout": BROKER_TIMEOUT_S,
        "broker_transport_options": options,
    }


def _daily(job: str) -> dict[str, Any]:
    return _every(timedelta(days=1), job)


def _every(interval: timedelta, job: str) -> dict[str, Any]:
    return {
        "task": "matyan.request_job",
        "schedule": interval,
        "kwargs": {"job": job},
        # Sent while no worker was there, it is late, not wanted twice.
        "options": {"expires": interval.total_seconds()},
    }


SCHEDULE: Final[dict[str, dict[str, Any]]] = {
    "resume": {"task": "matyan.resume_requests", "schedule": timedelta(minutes=1)},
    "finish-stale-runs": _every(timedelta(hours=1), "finish_stale_runs"),
    "expire-tombstones": _daily("expire_tombstones"),
    "sweep-blobs": _daily("sweep_blobs"),
    "compact-chunks": _daily("compact_chunks"),
    "trim-event-log": _daily("trim_event_log"),
    "measure-store": _daily("measure_store"),
    "back-up": _daily("back_up"),
}
"""What beat asks for, and how often. A job whose setting turns it off does nothing."""

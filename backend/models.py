"""ORM rows for operations. Tracked data is not here: see `backend.storage`."""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.db import models
from django.utils import timezone
from typing_extensions import override

from backend.domain.access import Scope
from backend.domain.jobs import JOBS


class ApiToken(models.Model):
    """A token that lets a program in. The secret itself is not stored.

    Made by `backend.access.tokens`; shown to people once, when it is made. Rows stay
    when a token is revoked or has expired, so that it can be told whose it was.
    """

    token_id = models.CharField(max_length=16, unique=True, editable=False)
    name = models.CharField(
        max_length=100, help_text="What it is for: a person, a machine, a job."
    )
    digest = models.BinaryField(max_length=32, editable=False)
    scope = models.CharField(
        max_length=8,
        choices=[(scope.value, scope.value) for scope in Scope],
        default=Scope.WRITE.value,
        help_text="read looks; write also logs runs; admin also deletes for good.",
    )
    project_id = models.PositiveIntegerField(default=0, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        editable=False,
    )
    expires_at = models.DateTimeField(
        null=True, blank=True, help_text="Empty: it does not expire."
    )
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        """Names and order in the admin."""

        verbose_name = "API token"
        ordering = ("-created_at", "-pk")

    @override
    def __str__(self) -> str:
        return f"{self.name} ({self.token_id})"

    def is_usable(self, now: datetime) -> bool:
        """Return whether the token lets anybody in at `now`."""
        expired = self.expires_at is not None and self.expires_at <= now
        return self.revoked_at is None and not expired

    @property
    def state(self) -> str:
        """`usable`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "usable" if self.is_usable(timezone.now()) else "expired"


class MaintenanceRequest(models.Model):
    """A job asked for, by a person or by the schedule, and what became of it.

    The row is the truth: the task queue only says that there is something to do. Rows
    are made by `backend.maintenance` and changed by the task workers.
    """

    class State(models.TextChoices):
        """Where a request stands."""

        QUEUED = "queued", "queued"
        RUNNING = "running", "running"
        DONE = "done", "done"
        FAILED = "failed", "failed"
        CANCELLED = "cancelled", "cancelled"

    job = models.CharField(
        max_length=64, choices=[(job.name.value, job.title) for job in JOBS.values()]
    )
    arguments = models.JSONField(default=dict)
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
    )
    requester = models.CharField(
        max_length=150, help_text="Who, in words; stays when the person's row goes."
    )
    requested_at = models.DateTimeField(default=timezone.now)
    due_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True, blank=True)
    heard_at = models.DateTimeField(
        null=True, blank=True, help_text="When its worker last said something."
    )
    finished_at = models.DateTimeField(null=True, blank=True)
    state = models.CharField(
        max_length=16, choices=State.choices, default=State.QUEUED.value
    )
    attempts = models.PositiveIntegerField(default=0)
    cancel_requested = models.BooleanField(default=False)
    done_units = models.PositiveBigIntegerField(default=0)
    total_units = models.PositiveBigIntegerField(default=0)
    note = models.CharField(max_length=200, blank=True, default="")
    checkpoint = models.JSONField(default=dict)
    result = models.JSONField(default=dict)
    error = models.TextField(blank=True, default="")

    class Meta:
        """Names and order in the admin."""

        verbose_name = "job"
        ordering = ("-pk",)
        default_permissions = ("add", "change", "view")
        indexes = (
            models.Index(fields=["state", "due_at"], name="maintenance_state_due"),
            models.Index(fields=["job", "-id"], name="maintenance_job"),
        )

    @override
    def __str__(self) -> str:
        return f"{JOBS[self.job].title if self.job in JOBS else self.job} ({self.pk})"

    @property
    def is_over(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in {
            self.State.DONE,
            self.State.FAILED,
            self.State.CANCELLED,
        }

    @property
    def percent(self) -> int | None:
        """How far it is, 0 to 100; None while that is unknown."""
        if self.state == self.State.DONE:
            return 100
        if not self.total_units:
            return None
        return min(100, 100 * self.done_units // self.total_units)


class WorkerHeartbeat(models.Model):
    """What a worker last said, where there are several machines.

    Written by the worker itself (`workers.heartbeats`); one row a worker and host.
    """

    name = models.CharField(max_length=100)
    host = models.CharField(max_length=100)
    said = models.JSONField(default=dict)
    heard_at = models.DateTimeField(default=timezone.now)

    class Meta:
        """Nobody edits them: they have no page of their own and no permissions."""

        default_permissions = ()
        constraints = (
            models.UniqueConstraint(fields=["name", "host"], name="worker_and_host"),
        )

    @override
    def __str__(self) -> str:
        return f"{self.name} on {self.host}"


class _Anchor(models.Model):
    """What an operator's page hangs on: permissions, a place in the menu, the audit.

    Has no table: what the page shows is in the store or the event log.
    """

    class Meta:
        """No table is ever made."""

        abstract = True
        managed = False

    @override
    def __str__(self) -> str:
        return str(self._meta.verbose_name)


class RunAnchor(_Anchor):
    """Runs."""

    class Meta:
        """Names in the admin."""

        managed = False
        default_permissions = ("view", "change", "delete")
        verbose_name = "run"


class ExperimentAnchor(_Anchor):
    """Experiments."""

    class Meta:
        """Names in the admin."""

        managed = False
        default_permissions = ("view", "delete")
        verbose_name = "experiment"


class TagAnchor(_Anchor):
    """Tags."""

    class Meta:
        """Names in the admin."""

        managed = False
        default_permissions = ("view", "delete")
        verbose_name = "tag"


class TombstoneAnchor(_Anchor):
    """Tombstones of deleted runs; to delete one lets its id be used again."""

    class Meta:
        """Names in the admin."""

        managed = False
        default_permissions = ("view", "delete")
        verbose_name = "tombstone"


class EventLogAnchor(_Anchor):
    """Lag of every group in every partition."""

    class Meta:
        """Names in the admin."""

        managed = False
        default_permissions = ("view",)
        verbose_name = "event log"
        verbose_name_plural = "event log"


class DeadLetterAnchor(_Anchor):
    """Dead letters; to change one replays it, to delete one discards it."""

    class Meta:
        """Names in the admin."""

        managed = False
        default_permissions = ("view", "change", "delete")
        verbose_name = "dead letter"


class StoreSizeAnchor(_Anchor):
    """Bytes in the store by run and kind."""

    class Meta:
        """Names in the admin."""

        managed = False
        default_permissions = ("view",)
        verbose_name = "store size"


class WorkerAnchor(_Anchor):
    """Workers and what they last said."""

    class Meta:
        """Names in the admin."""

        managed = False
        default_permissions = ("view",)
        verbose_name = "worker"

"""ORM rows for operations. Tracked data is not here: see `backend.storage`."""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.db import models
from django.utils import timezone
from typing_extensions import override

from backend.domain.access import Scope


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

"""Shapes of what the web UI keeps on the server: dashboards, apps, reports, pins."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from backend.api.serializers.base import PatchSerializer


class DashboardSerializer(serializers.Serializer[Any]):
    """A bookmark; `app_type` is its app's."""

    id = serializers.CharField()
    name = serializers.CharField()
    description = serializers.CharField(allow_null=True)
    app_id = serializers.CharField(allow_null=True)
    app_type = serializers.CharField(allow_null=True)
    updated_at = serializers.FloatField()
    created_at = serializers.FloatField()


class DashboardCreateSerializer(serializers.Serializer[Any]):
    """A new bookmark."""

    name = serializers.CharField()
    description = serializers.CharField(
        required=False, allow_null=True, allow_blank=True
    )
    app_id = serializers.CharField(required=False, allow_null=True)


class DashboardUpdateSerializer(PatchSerializer):
    """Changes to a bookmark."""

    name = serializers.CharField(required=False, allow_null=True)
    description = serializers.CharField(
        required=False, allow_null=True, allow_blank=True
    )


class AppSerializer(serializers.Serializer[Any]):
    """The saved state of an explorer."""

    id = serializers.CharField()
    type = serializers.CharField()
    state = serializers.DictField()
    updated_at = serializers.FloatField()
    created_at = serializers.FloatField()


class AppCreateSerializer(serializers.Serializer[Any]):
    """A new saved state."""

    type = serializers.CharField()
    state = serializers.DictField()


class AppUpdateSerializer(PatchSerializer):
    """Changes to a saved state."""

    type = serializers.CharField(required=False, allow_null=True)
    state = serializers.DictField(required=False, allow_null=True)


class ReportSerializer(serializers.Serializer[Any]):
    """A report: Markdown with code."""

    id = serializers.CharField()
    name = serializers.CharField()
    code = serializers.CharField(allow_null=True)
    description = serializers.CharField(allow_null=True)
    updated_at = serializers.CharField(help_text="ISO-8601.")
    created_at = serializers.CharField(help_text="ISO-8601.")


class ReportCreateSerializer(serializers.Serializer[Any]):
    """A new report."""

    name = serializers.CharField()
    code = serializers.CharField(
        required=False, allow_null=True, allow_blank=True, trim_whitespace=False
    )
    description = serializers.CharField(
        required=False, allow_null=True, allow_blank=True
    )


class ReportUpdateSerializer(PatchSerializer):
    """Changes to a report."""

    name = serializers.CharField(required=False, allow_null=True)
    code = serializers.CharField(
        required=False, allow_null=True, allow_blank=True, trim_whitespace=False
    )
    description = serializers.CharField(
        required=False, allow_null=True, allow_blank=True
    )


class PinnedSequenceSerializer(serializers.Serializer[Any]):
    """A series the web UI keeps in view."""

    name = serializers.CharField()
    context = serializers.DictField()  # type: ignore[assignment]  # the wire's name


class PinnedSequencesSerializer(serializers.Serializer[Any]):
    """Every pinned series."""

    sequences = PinnedSequenceSerializer(many=True)

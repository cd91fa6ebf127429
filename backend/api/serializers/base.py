"""Fields and shapes that several answers share."""

from __future__ import annotations

import datetime
from typing import Any

from rest_framework import serializers
from typing_extensions import override


class SecondsField(serializers.FloatField):
    """Stored microseconds shown as float seconds since the epoch."""

    @override
    def to_representation(self, value: Any) -> Any:
        return int(value) / 1e6


class IsoField(serializers.DateTimeField):
    """Stored microseconds shown as ISO-8601 text in UTC; browsers read it as a date."""

    @override
    def to_representation(self, value: Any) -> str:
        return iso_text(int(value))


def iso_text(time_us: int) -> str:
    """Return the ISO-8601 text, in UTC, of microseconds since the epoch."""
    moment = datetime.datetime.fromtimestamp(time_us / 1e6, tz=datetime.UTC)
    return moment.isoformat(timespec="milliseconds")


class StatusSerializer(serializers.Serializer[Any]):
    """A change that has nothing to say but that it was made."""

    status = serializers.CharField(default="OK")


class IdStatusSerializer(StatusSerializer):
    """A change, and the id of what changed."""

    id = serializers.CharField()


class ErrorSerializer(serializers.Serializer[Any]):
    """Every error's shape."""

    message = serializers.CharField(help_text="What happened, for people.")
    detail = serializers.JSONField(help_text="Text; an object for query syntax errors.")
    error = serializers.DictField(
        help_text="`code` (stable machine name), `message`, and `fields` if apt."
    )


class PatchSerializer(serializers.Serializer[Any]):
    """A partial update: what is absent or null stays as it is."""

    @override
    def to_internal_value(self, data: Any) -> dict[str, Any]:
        values = super().to_internal_value(data)
        return {name: value for name, value in values.items() if value is not None}

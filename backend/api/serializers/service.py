"""Shapes of the project and of the service itself."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from backend.api.fields import FlagField


class ProjectSerializer(serializers.Serializer[Any]):
    """The project; the flags ask the web UI for nothing."""

    name = serializers.CharField()
    path = serializers.CharField()
    description = serializers.CharField()
    telemetry_enabled = serializers.IntegerField()
    warn_index = serializers.BooleanField()
    warn_runs = serializers.BooleanField()


class ProjectParamsParams(serializers.Serializer[Any]):
    """Query of `projects/params`."""

    sequence = serializers.ListField(
        child=serializers.CharField(allow_blank=True),
        default=list,
        help_text="Kinds of series to list; none: all.",
    )
    exclude_params = FlagField(default=False, help_text="Leave out `params`.")


class ProjectParamsSerializer(serializers.Serializer[Any]):
    """What autocompletion offers: kinds of series beside `params`."""

    params = serializers.DictField(required=False)
    metric = serializers.DictField(required=False)
    images = serializers.DictField(required=False)
    texts = serializers.DictField(required=False)
    figures = serializers.DictField(required=False)
    distributions = serializers.DictField(required=False)
    audios = serializers.DictField(required=False)


class GatewaySerializer(serializers.Serializer[Any]):
    """Where this server's gateway listens."""

    same_origin = serializers.BooleanField(
        help_text="Whether this address also takes the SDK's WebSockets."
    )
    port = serializers.IntegerField(
        allow_null=True, help_text="The gateway's port on this host, if it has its own."
    )


class VersionSerializer(serializers.Serializer[Any]):
    """Who answers."""

    version = serializers.CharField()
    component = serializers.CharField()
    fdb_api_version = serializers.IntegerField()
    gateway = GatewaySerializer()


class LiveSerializer(serializers.Serializer[Any]):
    """The process answers."""

    status = serializers.CharField()


class ReadySerializer(serializers.Serializer[Any]):
    """Whether requests can be served; `checks` says what is wrong."""

    status = serializers.CharField(help_text="`ok` or `degraded`.")
    checks = serializers.DictField()

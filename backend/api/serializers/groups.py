"""Shapes of the runs of an experiment or a tag."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from backend.api.fields import NumberField
from backend.api.serializers.runs import MAX_RUNS


class NameSearchParams(serializers.Serializer[Any]):
    """Query of a search by name."""

    q = serializers.CharField(
        default="", allow_blank=True, help_text="Part of the name, in any case."
    )


class RunPageParams(serializers.Serializer[Any]):
    """Query of an experiment's runs."""

    limit = NumberField(
        default=0, least=0, greatest=MAX_RUNS, help_text="Most runs; 0: all."
    )
    offset = serializers.CharField(
        default="", allow_blank=True, help_text="Start after this run's hash."
    )


class ExperimentRunSerializer(serializers.Serializer[Any]):
    """A run in an experiment's list."""

    run_id = serializers.CharField()
    name = serializers.CharField()
    creation_time = serializers.FloatField()
    end_time = serializers.FloatField(allow_null=True)
    archived = serializers.BooleanField()


class ExperimentRunsSerializer(serializers.Serializer[Any]):
    """An experiment's runs, newest first."""

    id = serializers.CharField()
    runs = ExperimentRunSerializer(many=True)


class TagRunSerializer(serializers.Serializer[Any]):
    """A run in a tag's list."""

    run_id = serializers.CharField()
    name = serializers.CharField()
    experiment = serializers.CharField(allow_null=True)
    creation_time = serializers.FloatField()
    end_time = serializers.FloatField(allow_null=True)


class TagRunsSerializer(serializers.Serializer[Any]):
    """A tag's runs, newest first."""

    id = serializers.CharField()
    runs = TagRunSerializer(many=True)

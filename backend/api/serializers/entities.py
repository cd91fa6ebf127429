"""Shapes of experiments, tags and notes."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from backend.api.serializers.base import IsoField, PatchSerializer, SecondsField
from backend.domain.entities import Experiment, Note, Tag


class ExperimentSerializer(serializers.Serializer[Experiment]):
    """An experiment; `run_counts` in the context maps ids to numbers of runs."""

    id = serializers.CharField(source="experiment_id")
    name = serializers.CharField()
    description = serializers.CharField(allow_null=True)
    run_count = serializers.SerializerMethodField()
    archived = serializers.BooleanField()
    creation_time = SecondsField(source="created_us")

    def get_run_count(self, experiment: Experiment) -> int:
        """Return how many runs belong to it."""
        return int(self.context["run_counts"].get(experiment.experiment_id, 0))


class ExperimentCreateSerializer(serializers.Serializer[Any]):
    """A new experiment."""

    name = serializers.CharField()


class ExperimentUpdateSerializer(PatchSerializer):
    """Changes to an experiment; an empty name changes nothing."""

    name = serializers.CharField(required=False, allow_null=True, allow_blank=True)
    description = serializers.CharField(
        required=False, allow_null=True, allow_blank=True, trim_whitespace=False
    )
    archived = serializers.BooleanField(required=False, allow_null=True)


class TagSerializer(serializers.Serializer[Tag]):
    """A tag; `run_counts` in the context maps ids to numbers of runs."""

    id = serializers.CharField(source="tag_id")
    name = serializers.CharField()
    color = serializers.CharField(allow_null=True)
    description = serializers.CharField(allow_null=True)
    run_count = serializers.SerializerMethodField()
    archived = serializers.BooleanField()

    def get_run_count(self, tag: Tag) -> int:
        """Return how many runs carry it."""
        return int(self.context["run_counts"].get(tag.tag_id, 0))


class TagCreateSerializer(serializers.Serializer[Any]):
    """A new tag."""

    name = serializers.CharField()
    color = serializers.CharField(default="", allow_blank=True, allow_null=True)
    description = serializers.CharField(
        default="", allow_blank=True, allow_null=True, trim_whitespace=False
    )


class TagUpdateSerializer(PatchSerializer):
    """Changes to a tag; an empty name changes nothing."""

    name = serializers.CharField(required=False, allow_null=True, allow_blank=True)
    color = serializers.CharField(required=False, allow_null=True, allow_blank=True)
    description = serializers.CharField(
        required=False, allow_null=True, allow_blank=True, trim_whitespace=False
    )
    archived = serializers.BooleanField(required=False, allow_null=True)


class NoteSerializer(serializers.Serializer[Note]):
    """A note in a list."""

    id = serializers.CharField(source="note_id")
    content = serializers.CharField()
    created_at = IsoField(source="created_us")
    updated_at = IsoField(source="updated_us")


class RunNoteSerializer(NoteSerializer):
    """A note of a run."""

    run_hash = serializers.CharField(source="owner_id")


class ExperimentNoteSerializer(NoteSerializer):
    """A note of an experiment."""

    experiment_id = serializers.CharField(source="owner_id")


class NoteContentSerializer(serializers.Serializer[Any]):
    """What a note says."""

    content = serializers.CharField(allow_blank=True)


class NoteCreatedSerializer(serializers.Serializer[Note]):
    """A note just made."""

    id = serializers.CharField(source="note_id")
    created_at = IsoField(source="created_us")


class NoteUpdatedSerializer(serializers.Serializer[Note]):
    """A note read or changed on its own."""

    id = serializers.CharField(source="note_id")
    content = serializers.CharField()
    updated_at = IsoField(source="updated_us")


class ActivitySerializer(serializers.Serializer[Any]):
    """Numbers of runs, and when they were created, in the caller's time zone."""

    num_experiments = serializers.IntegerField(required=False)
    num_runs = serializers.IntegerField()
    num_archived_runs = serializers.IntegerField()
    num_active_runs = serializers.IntegerField()
    activity_map = serializers.DictField(
        child=serializers.IntegerField(), help_text="Local time, ISO-8601, to a number."
    )

"""Shapes of runs: parameters of their endpoints, bodies, answers."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from rest_framework import serializers

from backend.api.fields import FlagField, NumberField, StepRangeField
from backend.api.serializers.base import PatchSerializer, StatusSerializer
from backend.errors import InvalidInputError

MAX_TRACE_POINTS: Final = 10_000
"""Most points of one trace in a search."""

MAX_BATCH_POINTS: Final = 1_000_000
"""Most points of one trace in `metric/get-batch`."""

MAX_RUNS: Final = 2**31 - 1
MAX_OBJECT_STEPS: Final = 2**31 - 1
MAX_STEP: Final = 2**62


class RunUpdateSerializer(PatchSerializer):
    """Changes to a run. `experiment` is a name; "" takes the run out of its own."""

    name = serializers.CharField(required=False, allow_null=True, allow_blank=True)
    description = serializers.CharField(
        required=False, allow_null=True, allow_blank=True, trim_whitespace=False
    )
    archived = serializers.BooleanField(required=False, allow_null=True)
    experiment = serializers.CharField(
        required=False, allow_null=True, allow_blank=True
    )
    active = serializers.BooleanField(required=False, allow_null=True)


class TagNameSerializer(serializers.Serializer[Any]):
    """A tag to attach."""

    tag_name = serializers.CharField()


class TagAttachedSerializer(StatusSerializer):
    """A tag has been attached."""

    id = serializers.CharField(help_text="The run.")
    tag_id = serializers.CharField()


class TagRemovedSerializer(StatusSerializer):
    """A tag is not on the run any more."""

    id = serializers.CharField(help_text="The run.")
    removed = serializers.BooleanField()


class ArchiveParams(serializers.Serializer[Any]):
    """Query of `archive-batch`."""

    archive = FlagField(default=True, help_text="false brings the runs back.")


class InfoParams(serializers.Serializer[Any]):
    """Query of `info`."""

    skip_system = FlagField(
        default=False, help_text="Leave out `params.__system_params`."
    )
    sequence = serializers.ListField(
        child=serializers.CharField(allow_blank=True),
        default=list,
        help_text="Kinds of series to list; none: all. Unknown ones are ignored.",
    )


class RunSearchParams(serializers.Serializer[Any]):
    """Query of `runs/search/run`."""

    q = serializers.CharField(
        default="", allow_blank=True, trim_whitespace=False, help_text="A query."
    )
    limit = NumberField(
        default=0, least=0, greatest=MAX_RUNS, help_text="Most runs; 0: all."
    )
    offset = serializers.CharField(
        default="", allow_blank=True, help_text="Start after this run's hash."
    )
    sort = serializers.CharField(
        default="",
        allow_blank=True,
        help_text='JSON list of {"field", "order"}; newest first by default.',
    )
    skip_system = FlagField(
        default=True, help_text="Leave out `params.__system_params`."
    )
    report_progress = FlagField(default=True, help_text="Send progress frames.")
    exclude_params = FlagField(default=False, help_text="Send no attributes.")
    exclude_traces = FlagField(default=False, help_text="Send no series.")


class MetricSearchParams(serializers.Serializer[Any]):
    """Query of `runs/search/metric`."""

    q = serializers.CharField(
        default="", allow_blank=True, trim_whitespace=False, help_text="A query."
    )
    p = NumberField(
        default=50,
        least=1,
        greatest=MAX_TRACE_POINTS,
        help_text="Most points of a series.",
    )
    x_axis = serializers.CharField(
        default="",
        allow_blank=True,
        help_text="Metric whose values are sent along, of the same run and context.",
    )
    skip_system = FlagField(
        default=True, help_text="Leave out `params.__system_params`."
    )
    report_progress = FlagField(default=True, help_text="Send progress frames.")
    trace_chunk_size = NumberField(
        default=10, least=1, greatest=500, help_text="Ignored."
    )


class ActiveParams(serializers.Serializer[Any]):
    """Query of `runs/active`."""

    report_progress = FlagField(default=True, help_text="Send progress frames.")


class BatchParams(serializers.Serializer[Any]):
    """Query of `metric/get-batch`."""

    record_range = StepRangeField(
        default="", help_text="Steps `start:stop`, half-open."
    )
    record_density = NumberField(
        default=50,
        least=0,
        greatest=MAX_BATCH_POINTS,
        help_text="Most points of a series; 0: all.",
    )


class ObjectParams(serializers.Serializer[Any]):
    """What every request for objects may say."""

    record_range = StepRangeField(
        default="", help_text="Steps `start:stop`, half-open."
    )
    record_density = NumberField(
        default=50,
        least=0,
        greatest=MAX_OBJECT_STEPS,
        help_text="Most steps of a series; 0, or one less than there are: all.",
    )
    index_range = StepRangeField(
        default="", help_text="Items of each step's list `start:stop`, half-open."
    )
    index_density = NumberField(
        default=5,
        least=0,
        greatest=MAX_OBJECT_STEPS,
        help_text="Most items of a step; 0, or one less than there are: all.",
    )


class ObjectSearchParams(ObjectParams):
    """Query of `runs/search/{images,texts,…}`."""

    q = serializers.CharField(
        default="", allow_blank=True, trim_whitespace=False, help_text="A query."
    )
    skip_system = FlagField(
        default=True, help_text="Leave out `params.__system_params`."
    )
    report_progress = FlagField(default=True, help_text="Send progress frames.")


class ObjectStepParams(serializers.Serializer[Any]):
    """Query of `get-step`."""

    record_step = NumberField(
        default=-1, least=-MAX_STEP, greatest=MAX_STEP, help_text="-1: the last."
    )
    record_density = NumberField(
        default=50, least=0, greatest=MAX_OBJECT_STEPS, help_text="Ignored."
    )
    index_range = StepRangeField(
        default="", help_text="Items of the step's list `start:stop`, half-open."
    )
    index_density = NumberField(
        default=5,
        least=0,
        greatest=MAX_OBJECT_STEPS,
        help_text="Most items; 0, or one less than there are: all.",
    )


class ArtifactParams(serializers.Serializer[Any]):
    """Query of `artifacts/download`."""

    path = serializers.CharField(
        trim_whitespace=False, help_text="The artifact's path, as `info` lists it."
    )


class LogParams(serializers.Serializer[Any]):
    """Query of `logs` and `log-records`."""

    record_range = StepRangeField(
        default="", help_text="Steps `start:stop`, half-open; none: the last."
    )


class DurableParams(serializers.Serializer[Any]):
    """Query of `durable`."""

    writer = serializers.CharField(help_text="Writer id, as in its frames.")


class TraceRefSerializer(serializers.Serializer[Any]):
    """A series by name and context; other keys are ignored."""

    name = serializers.CharField()
    context = serializers.DictField()  # type: ignore[assignment]  # the wire's name


class TracePointsSerializer(TraceRefSerializer):
    """Points of one series; a value that is no finite number is null."""

    iters = serializers.ListField(child=serializers.IntegerField())
    values = serializers.ListField(child=serializers.FloatField(allow_null=True))


class AlignTraceSerializer(TraceRefSerializer):
    """A series to align, with the `slice` a search answered."""

    slice = serializers.ListField(child=serializers.IntegerField(), required=False)


class AlignRunSerializer(serializers.Serializer[Any]):
    """A run's series to align."""

    run_id = serializers.CharField()
    traces = AlignTraceSerializer(many=True)


class AlignSerializer(serializers.Serializer[Any]):
    """Body of `metric/align`."""

    align_by = serializers.CharField(help_text="Metric to use as x axis.")
    runs = AlignRunSerializer(many=True)


class DurableSerializer(serializers.Serializer[Any]):
    """How far a writer's frames are in the store."""

    epoch = serializers.IntegerField()
    seq = serializers.IntegerField(help_text="Every frame up to this one is stored.")
    part = serializers.IntegerField(
        allow_null=True, help_text="Last stored part of a frame not yet stored whole."
    )
    deleted_us = serializers.IntegerField(
        allow_null=True,
        help_text="When the run was deleted, microseconds since the epoch: what is "
        "sent for it is dropped. Null for a run that is there.",
    )


class ExperimentRefSerializer(serializers.Serializer[Any]):
    """A run's experiment; all null when it has none."""

    id = serializers.CharField(allow_null=True)
    name = serializers.CharField(allow_null=True)
    description = serializers.CharField(allow_null=True)


class TagRefSerializer(serializers.Serializer[Any]):
    """A run's tag."""

    id = serializers.CharField()
    name = serializers.CharField()
    color = serializers.CharField(allow_null=True)
    description = serializers.CharField(allow_null=True)


class PropsSerializer(serializers.Serializer[Any]):
    """A run's properties."""

    name = serializers.CharField(allow_null=True)
    description = serializers.CharField(allow_null=True)
    experiment = ExperimentRefSerializer()
    tags = TagRefSerializer(many=True)
    creation_time = serializers.FloatField()
    end_time = serializers.FloatField(allow_null=True)
    archived = serializers.BooleanField()
    active = serializers.BooleanField()
    notes = serializers.IntegerField(required=False)


class TraceSerializer(TraceRefSerializer):
    """A series in `info`."""

    last_value = serializers.FloatField(allow_null=True)


class ArtifactSerializer(serializers.Serializer[Any]):
    """A file of the run."""

    name = serializers.CharField()
    path = serializers.CharField()
    uri = serializers.CharField()


class RunInfoSerializer(serializers.Serializer[Any]):
    """All there is to know about a run but its points."""

    params = serializers.DictField()
    traces = serializers.DictField(child=TraceSerializer(many=True))
    props = PropsSerializer()
    artifacts = ArtifactSerializer(many=True)


class TraceRef(msgspec.Struct, frozen=True):
    """`TraceRefSerializer`, read fast: a request may name 10,000 series."""

    name: str
    context: dict[str, Any] | None = None
    slice: tuple[int, int, int] | None = None


class ObjectRef(msgspec.Struct, frozen=True):
    """`TraceRefSerializer`, read fast; the context must be there."""

    name: str
    context: dict[str, Any]


class AlignRun(msgspec.Struct, frozen=True):
    """`AlignRunSerializer`, read fast."""

    run_id: str
    traces: list[TraceRef]


class Align(msgspec.Struct, frozen=True):
    """`AlignSerializer`, read fast."""

    align_by: str
    runs: list[AlignRun]


def convert_body(body: Any, wanted: Any) -> Any:
    """Return a decoded JSON body as `wanted`, a type msgspec knows.

    Raises:
        InvalidInputError: If it does not fit; `reason` names the path.
    """
    try:
        return msgspec.convert(body, wanted)
    except msgspec.ValidationError as error:
        raise InvalidInputError(reason=str(error)) from error

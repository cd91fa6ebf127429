"""Experiments: named groups of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from typing_extensions import override

from backend.api import run_lists, schema
from backend.api.fields import read_params, tz_offset_min
from backend.api.serializers.base import IdStatusSerializer, StatusSerializer
from backend.api.serializers.entities import (
    ActivitySerializer,
    ExperimentCreateSerializer,
    ExperimentSerializer,
    ExperimentUpdateSerializer,
)
from backend.api.serializers.groups import (
    ExperimentRunsSerializer,
    NameSearchParams,
    RunPageParams,
)
from backend.api.viewsets.base import StoreViewSet, now_us
from backend.domain.entities import Experiment
from backend.services import experiments as service
from backend.storage import indexes

EXPERIMENT_ID = schema.path_param("experiment_id", "The experiment's id.")


class ExperimentViewSet(StoreViewSet):
    """List, read, make, change and remove experiments; newest first."""

    lookup_field = "experiment_id"
    body_serializers: ClassVar[Any] = {
        "create": ExperimentCreateSerializer,
        "update": ExperimentUpdateSerializer,
    }

    @override
    def get_queryset(self) -> Any:
        return service.list_experiments(self.store)

    @override
    def get_object(self) -> tuple[Experiment, int]:
        experiment_id = self.kwargs["experiment_id"]
        return service.get_experiment(self.store, experiment_id=experiment_id)

    @extend_schema(responses=ExperimentSerializer(many=True))
    def list(self, request: Request) -> Response:
        """List all experiments, newest first."""
        return Response(_shown(self.get_queryset()))

    @extend_schema(
        parameters=[EXPERIMENT_ID],
        responses={200: ExperimentSerializer, 404: schema.NOT_FOUND},
    )
    def retrieve(self, request: Request, experiment_id: str) -> Response:
        """Return one experiment."""
        return Response(_shown([self.get_object()])[0])

    @extend_schema(
        parameters=[NameSearchParams], responses=ExperimentSerializer(many=True)
    )
    @action(detail=False)
    def search(self, request: Request) -> Response:
        """List experiments with `q` in their name."""
        part = read_params(request, NameSearchParams)["q"].casefold()
        found = [one for one in self.get_queryset() if part in one[0].name.casefold()]
        return Response(_shown(found))

    @extend_schema(
        request=ExperimentCreateSerializer,
        responses={200: IdStatusSerializer, 409: schema.CONFLICT, 422: schema.INVALID},
    )
    def create(self, request: Request) -> Response:
        """Make an experiment."""
        name = self.body()["name"]
        made = service.create_experiment(self.store, name=name, now_us=now_us())
        return Response({"id": made.experiment_id, "status": "OK"})

    @extend_schema(
        parameters=[EXPERIMENT_ID],
        request=ExperimentUpdateSerializer,
        responses={
            200: IdStatusSerializer,
            404: schema.NOT_FOUND,
            409: schema.CONFLICT,
        },
    )
    def update(self, request: Request, experiment_id: str) -> Response:
        """Change what is given; an empty name changes nothing."""
        service.update_experiment(
            self.store, experiment_id=experiment_id, **self.body()
        )
        return Response({"id": experiment_id, "status": "OK"})

    @extend_schema(
        parameters=[EXPERIMENT_ID],
        responses={200: StatusSerializer, 404: schema.NOT_FOUND},
    )
    def destroy(self, request: Request, experiment_id: str) -> Response:
        """Remove the experiment; its runs stay, without one."""
        service.delete_experiment(
            self.store, experiment_id=experiment_id, now_us=now_us()
        )
        return Response({"status": "OK"})

    @extend_schema(
        parameters=[EXPERIMENT_ID, RunPageParams],
        responses={200: ExperimentRunsSerializer, 404: schema.NOT_FOUND},
    )
    @action(detail=True)
    def runs(self, request: Request, experiment_id: str) -> Response:
        """List the experiment's runs, newest first."""
        params = read_params(request, RunPageParams)
        self.get_object()
        runs = run_lists.runs_under(
            self.store,
            indexes.experiment_term(experiment_id),
            after_run_id=params["offset"],
            limit=params["limit"],
        )
        rows = [{**run_lists.run_row(run), "archived": run.archived} for run in runs]
        return Response({"id": experiment_id, "runs": rows})

    @extend_schema(
        parameters=[EXPERIMENT_ID, schema.TIMEZONE],
        responses={200: ActivitySerializer, 404: schema.NOT_FOUND},
    )
    @action(detail=True)
    def activity(self, request: Request, experiment_id: str) -> Response:
        """Count the experiment's runs by hour of creation."""
        self.get_object()
        store = self.store
        numbers = run_lists.run_numbers(store, indexes.experiment_term(experiment_id))
        archived = run_lists.run_numbers(store, indexes.archived_term(archived=True))
        active = run_lists.run_numbers(store, indexes.active_term(active=True))
        return Response(
            {
                "num_runs": len(numbers),
                "num_archived_runs": len(set(numbers).intersection(archived)),
                "num_active_runs": len(set(numbers).intersection(active)),
                "activity_map": run_lists.activity_map(
                    numbers,
                    bucket_us=run_lists.HOUR_US,
                    tz_offset_min=tz_offset_min(request),
                ),
            }
        )


def _shown(found: Sequence[tuple[Experiment, int]]) -> Any:
    counts = {experiment.experiment_id: count for experiment, count in found}
    experiments: Any = [experiment for experiment, _ in found]
    return ExperimentSerializer(
        experiments, many=True, context={"run_counts": counts}
    ).data

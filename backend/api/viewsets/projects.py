"""The project: what the web UI's home page and autocompletion ask for."""

from __future__ import annotations

from typing import Final

from drf_spectacular.helpers import forced_singular_serializer
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from backend.api import run_lists, schema
from backend.api.fields import read_params, tz_offset_min
from backend.api.project_params import project_params
from backend.api.serializers.entities import ActivitySerializer
from backend.api.serializers.service import (
    ProjectParamsParams,
    ProjectParamsSerializer,
    ProjectSerializer,
)
from backend.api.viewsets.base import StoreViewSet
from backend.storage import indexes

_PROJECT: Final = {
    "name": "My project",
    "path": "",
    "description": "",
    "telemetry_enabled": 0,
    "warn_index": False,
    "warn_runs": False,
}


_ONE_PROJECT: Final = forced_singular_serializer(ProjectSerializer)  # type: ignore[no-untyped-call]  # untyped


class ProjectViewSet(StoreViewSet):
    """The one project of this server."""

    @extend_schema(responses=_ONE_PROJECT)
    def list(self, request: Request) -> Response:
        """Return the project."""
        return Response(_PROJECT)

    @extend_schema(parameters=[schema.TIMEZONE], responses=ActivitySerializer)
    @action(detail=False)
    def activity(self, request: Request) -> Response:
        """Count experiments and runs, and runs by day of creation."""
        store = self.store
        archived = run_lists.run_numbers(store, indexes.archived_term(archived=True))
        shown = run_lists.run_numbers(store, indexes.archived_term(archived=False))
        active = run_lists.run_numbers(store, indexes.active_term(active=True))
        numbers = archived + shown
        return Response(
            {
                "num_experiments": len(self.read(store.experiments.list_all)),
                "num_runs": len(numbers),
                "num_archived_runs": len(archived),
                "num_active_runs": len(active),
                "activity_map": run_lists.activity_map(
                    numbers,
                    bucket_us=run_lists.DAY_US,
                    tz_offset_min=tz_offset_min(request),
                ),
            }
        )

    @extend_schema(parameters=[ProjectParamsParams], responses=ProjectParamsSerializer)
    @action(detail=False)
    def params(self, request: Request) -> Response:
        """Return what autocompletion offers."""
        params = read_params(request, ProjectParamsParams)
        return Response(
            project_params(
                self.store,
                kinds=params["sequence"],
                with_params=not params["exclude_params"],
            )
        )

    @extend_schema(responses=OpenApiTypes.STR)
    @action(detail=False)
    def status(self, request: Request) -> Response:
        """Return "up-to-date": indexes are never behind."""
        return Response("up-to-date")

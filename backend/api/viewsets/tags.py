"""Tags: labels on runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from typing_extensions import override

from backend.api import run_lists, schema
from backend.api.fields import read_params
from backend.api.serializers.base import IdStatusSerializer, StatusSerializer
from backend.api.serializers.entities import (
    TagCreateSerializer,
    TagSerializer,
    TagUpdateSerializer,
)
from backend.api.serializers.groups import NameSearchParams, TagRunsSerializer
from backend.api.viewsets.base import StoreViewSet, now_us
from backend.domain.entities import Tag
from backend.services import tags as service
from backend.storage import indexes

TAG_ID = schema.path_param("tag_id", "The tag's id.")


class TagViewSet(StoreViewSet):
    """List, read, make, change and remove tags; they come sorted by name."""

    lookup_field = "tag_id"
    body_serializers: ClassVar[Any] = {
        "create": TagCreateSerializer,
        "update": TagUpdateSerializer,
    }

    @override
    def get_queryset(self) -> Any:
        return service.list_tags(self.store)

    @override
    def get_object(self) -> tuple[Tag, int]:
        return service.get_tag(self.store, tag_id=self.kwargs["tag_id"])

    @extend_schema(responses=TagSerializer(many=True))
    def list(self, request: Request) -> Response:
        """List all tags by name."""
        return Response(_shown(self.get_queryset()))

    @extend_schema(
        parameters=[TAG_ID], responses={200: TagSerializer, 404: schema.NOT_FOUND}
    )
    def retrieve(self, request: Request, tag_id: str) -> Response:
        """Return one tag."""
        return Response(_shown([self.get_object()])[0])

    @extend_schema(parameters=[NameSearchParams], responses=TagSerializer(many=True))
    @action(detail=False)
    def search(self, request: Request) -> Response:
        """List tags with `q` in their name."""
        part = read_params(request, NameSearchParams)["q"].casefold()
        found = [one for one in self.get_queryset() if part in one[0].name.casefold()]
        return Response(_shown(found))

    @extend_schema(
        request=TagCreateSerializer,
        responses={200: IdStatusSerializer, 409: schema.CONFLICT, 422: schema.INVALID},
    )
    def create(self, request: Request) -> Response:
        """Make a tag."""
        values = self.body()
        made = service.create_tag(
            self.store,
            name=values["name"],
            color=values["color"] or "",
            description=values["description"] or "",
            now_us=now_us(),
        )
        return Response({"id": made.tag_id, "status": "OK"})

    @extend_schema(
        parameters=[TAG_ID],
        request=TagUpdateSerializer,
        responses={
            200: IdStatusSerializer,
            404: schema.NOT_FOUND,
            409: schema.CONFLICT,
        },
    )
    def update(self, request: Request, tag_id: str) -> Response:
        """Change what is given; an empty name changes nothing."""
        service.update_tag(self.store, tag_id=tag_id, **self.body())
        return Response({"id": tag_id, "status": "OK"})

    @extend_schema(
        parameters=[TAG_ID], responses={200: StatusSerializer, 404: schema.NOT_FOUND}
    )
    def destroy(self, request: Request, tag_id: str) -> Response:
        """Remove the tag from every run and for good."""
        service.delete_tag(self.store, tag_id=tag_id, now_us=now_us())
        return Response({"status": "OK"})

    @extend_schema(
        parameters=[TAG_ID], responses={200: TagRunsSerializer, 404: schema.NOT_FOUND}
    )
    @action(detail=True)
    def runs(self, request: Request, tag_id: str) -> Response:
        """List the runs with the tag, newest first."""
        self.get_object()
        store = self.store
        runs = run_lists.runs_under(store, indexes.tag_term(tag_id))
        experiments = {
            one.experiment_id: one.name for one in self.read(store.experiments.list_all)
        }
        rows = [
            {
                **run_lists.run_row(run),
                "experiment": experiments.get(run.experiment_id or ""),
            }
            for run in runs
        ]
        return Response({"id": tag_id, "runs": rows})


def _shown(found: Sequence[tuple[Tag, int]]) -> Any:
    counts = {tag.tag_id: count for tag, count in found}
    tags: Any = [tag for tag, _ in found]
    return TagSerializer(tags, many=True, context={"run_counts": counts}).data

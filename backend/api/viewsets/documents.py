"""What the web UI keeps on the server: bookmarks, explorer states, reports, pins.

Every dashboard listed has its app in the list of apps: one without breaks the page.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from typing_extensions import override

from backend.api import schema
from backend.api.serializers.base import StatusSerializer, iso_text
from backend.api.serializers.documents import (
    AppCreateSerializer,
    AppSerializer,
    AppUpdateSerializer,
    DashboardCreateSerializer,
    DashboardSerializer,
    DashboardUpdateSerializer,
    PinnedSequencesSerializer,
    ReportCreateSerializer,
    ReportSerializer,
    ReportUpdateSerializer,
)
from backend.api.trees import seconds
from backend.api.viewsets.base import StoreViewSet, now_us
from backend.services import documents as service
from backend.services.documents import Document
from backend.storage.repositories.documents import APPS, DASHBOARDS, REPORTS

DOCUMENT_ID = schema.path_param("document_id", "Its id.")


class DocumentViewSet(StoreViewSet):
    """List, read, make, change and remove the documents of one collection."""

    lookup_field = "document_id"
    collection: ClassVar[str]

    @override
    def get_queryset(self) -> Any:
        return service.list_documents(self.store, collection=self.collection)

    @override
    def get_object(self) -> Document:
        return service.get_document(
            self.store,
            collection=self.collection,
            document_id=self.kwargs["document_id"],
        )

    def shown(self, found: list[Document]) -> list[dict[str, Any]]:
        """Return documents as answers show them."""
        raise NotImplementedError

    def list(self, request: Request) -> Response:
        """List all, newest first."""
        return Response(self.shown(self.get_queryset()))

    def create(self, request: Request) -> Response:
        """Make one."""
        made = service.create_document(
            self.store, collection=self.collection, fields=self.body(), now_us=now_us()
        )
        return Response(self.shown([made])[0], status=201)

    def retrieve(self, request: Request, document_id: str) -> Response:
        """Read one."""
        return Response(self.shown([self.get_object()])[0])

    def update(self, request: Request, document_id: str) -> Response:
        """Change what is given."""
        changed = service.update_document(
            self.store,
            collection=self.collection,
            document_id=document_id,
            fields=self.body(),
            now_us=now_us(),
        )
        return Response(self.shown([changed])[0])

    def destroy(self, request: Request, document_id: str) -> Response:
        """Remove one."""
        service.delete_document(
            self.store, collection=self.collection, document_id=document_id
        )
        # Not 204: the web UI reads a body from every JSON answer.
        return Response({"status": "OK"})


def _head(document: Document, moment: Callable[[int], Any]) -> dict[str, Any]:
    return {
        "id": document.document_id,
        "created_at": moment(document.created_us),
        "updated_at": moment(document.updated_us),
    }


Shape = type[serializers.Serializer[Any]]


def _described(row: Shape, create: Shape, update: Shape) -> Any:
    """Return the decorator that describes a document viewset in the OpenAPI schema."""
    one: dict[str, Any] = {"parameters": [DOCUMENT_ID]}
    found = {200: row, 404: schema.NOT_FOUND}
    return extend_schema_view(
        list=extend_schema(responses=row(many=True)),
        create=extend_schema(request=create, responses={201: row, 422: schema.INVALID}),
        retrieve=extend_schema(**one, responses=found),
        update=extend_schema(**one, request=update, responses=found),
        destroy=extend_schema(
            **one, responses={200: StatusSerializer, 404: schema.NOT_FOUND}
        ),
    )


@_described(DashboardSerializer, DashboardCreateSerializer, DashboardUpdateSerializer)
class DashboardViewSet(DocumentViewSet):
    """Bookmarks."""

    collection = DASHBOARDS
    body_serializers: ClassVar[Any] = {
        "create": DashboardCreateSerializer,
        "update": DashboardUpdateSerializer,
    }

    @override
    def shown(self, found: list[Document]) -> list[dict[str, Any]]:
        apps = service.list_documents(self.store, collection=APPS)
        types = {app.document_id: app.fields.get("type") for app in apps}
        return [
            {
                **_head(one, seconds),
                "name": one.fields["name"],
                "description": one.fields.get("description"),
                "app_id": one.fields.get("app_id"),
                "app_type": types.get(one.fields.get("app_id") or ""),
            }
            for one in found
        ]


@_described(AppSerializer, AppCreateSerializer, AppUpdateSerializer)
class AppViewSet(DocumentViewSet):
    """Saved states of explorers."""

    collection = APPS
    body_serializers: ClassVar[Any] = {
        "create": AppCreateSerializer,
        "update": AppUpdateSerializer,
    }

    @override
    def shown(self, found: list[Document]) -> list[dict[str, Any]]:
        return [
            {
                **_head(one, seconds),
                "type": one.fields["type"],
                "state": one.fields["state"],
            }
            for one in found
        ]


@_described(ReportSerializer, ReportCreateSerializer, ReportUpdateSerializer)
class ReportViewSet(DocumentViewSet):
    """Reports; their times are ISO-8601, which browsers read as dates."""

    collection = REPORTS
    body_serializers: ClassVar[Any] = {
        "create": ReportCreateSerializer,
        "update": ReportUpdateSerializer,
    }

    @override
    def shown(self, found: list[Document]) -> list[dict[str, Any]]:
        return [
            {
                **_head(one, iso_text),
                "name": one.fields["name"],
                "code": one.fields.get("code"),
                "description": one.fields.get("description"),
            }
            for one in found
        ]


class PinnedSequencesViewSet(StoreViewSet):
    """The series the web UI keeps in view."""

    body_serializers: ClassVar[Any] = {"create": PinnedSequencesSerializer}

    @extend_schema(responses=PinnedSequencesSerializer)
    def retrieve(self, request: Request) -> Response:
        """Return the pinned series."""
        return Response({"sequences": service.get_pinned_sequences(self.store)})

    @extend_schema(
        request=PinnedSequencesSerializer,
        responses={200: PinnedSequencesSerializer, 422: schema.INVALID},
    )
    def create(self, request: Request) -> Response:
        """Replace the pinned series."""
        sequences = [dict(one) for one in self.body()["sequences"]]
        stored = service.set_pinned_sequences(self.store, sequences=sequences)
        return Response({"sequences": stored})

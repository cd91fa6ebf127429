"""Notes: texts on runs and on experiments."""

from __future__ import annotations

from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework.request import Request
from rest_framework.response import Response
from typing_extensions import override

from backend.api import schema
from backend.api.serializers.base import StatusSerializer
from backend.api.serializers.entities import (
    ExperimentNoteSerializer,
    NoteContentSerializer,
    NoteCreatedSerializer,
    NoteSerializer,
    NoteUpdatedSerializer,
    RunNoteSerializer,
)
from backend.api.viewsets.base import StoreViewSet, now_us
from backend.domain.entities import Note
from backend.services import notes as service

NOTE_ID = schema.path_param("note_id", "The note's id.")


class NoteViewSet(StoreViewSet):
    """List, read, write, change and remove the notes of one owner."""

    lookup_field = "note_id"
    owner_kind: ClassVar[str]
    row_serializer: ClassVar[type[NoteSerializer]]
    body_serializers: ClassVar[Any] = {
        "create": NoteContentSerializer,
        "update": NoteContentSerializer,
    }

    @override
    def get_queryset(self) -> Any:
        return service.list_notes(
            self.store, owner_kind=self.owner_kind, owner_id=self.kwargs["owner_id"]
        )

    @override
    def get_object(self) -> Note:
        return service.get_note(
            self.store,
            owner_kind=self.owner_kind,
            owner_id=self.kwargs["owner_id"],
            note_id=self.kwargs["note_id"],
        )

    def list(self, request: Request, owner_id: str) -> Response:
        """List the notes, oldest first."""
        return Response(self.row_serializer(self.get_queryset(), many=True).data)

    def create(self, request: Request, owner_id: str) -> Response:
        """Write a note."""
        note = service.create_note(
            self.store,
            owner_kind=self.owner_kind,
            owner_id=owner_id,
            content=self.body()["content"],
            now_us=now_us(),
        )
        return Response(NoteCreatedSerializer(note).data, status=201)

    def retrieve(self, request: Request, owner_id: str, note_id: str) -> Response:
        """Read a note."""
        return Response(NoteUpdatedSerializer(self.get_object()).data)

    def update(self, request: Request, owner_id: str, note_id: str) -> Response:
        """Replace what a note says."""
        note = service.update_note(
            self.store,
            owner_kind=self.owner_kind,
            owner_id=owner_id,
            note_id=note_id,
            content=self.body()["content"],
            now_us=now_us(),
        )
        return Response(NoteUpdatedSerializer(note).data)

    def destroy(self, request: Request, owner_id: str, note_id: str) -> Response:
        """Remove a note."""
        service.delete_note(
            self.store, owner_kind=self.owner_kind, owner_id=owner_id, note_id=note_id
        )
        return Response({"status": "OK"})


def _described(owner: str, row: type[NoteSerializer]) -> Any:
    """Return the decorator that describes a note viewset in the OpenAPI schema."""
    owner_id = schema.path_param("owner_id", f"The {owner}'s id.")
    one = [owner_id, NOTE_ID]
    return extend_schema_view(
        list=extend_schema(
            parameters=[owner_id],
            responses={200: row(many=True), 404: schema.NOT_FOUND},
        ),
        create=extend_schema(
            parameters=[owner_id],
            request=NoteContentSerializer,
            responses={201: NoteCreatedSerializer, 404: schema.NOT_FOUND},
        ),
        retrieve=extend_schema(
            parameters=one,
            responses={200: NoteUpdatedSerializer, 404: schema.NOT_FOUND},
        ),
        update=extend_schema(
            parameters=one,
            request=NoteContentSerializer,
            responses={200: NoteUpdatedSerializer, 404: schema.NOT_FOUND},
        ),
        destroy=extend_schema(
            parameters=one, responses={200: StatusSerializer, 404: schema.NOT_FOUND}
        ),
    )


@_described("run", RunNoteSerializer)
class RunNoteViewSet(NoteViewSet):
    """The notes of a run."""

    owner_kind = "run"
    row_serializer = RunNoteSerializer


@_described("experiment", ExperimentNoteSerializer)
class ExperimentNoteViewSet(NoteViewSet):
    """The notes of an experiment."""

    owner_kind = "experiment"
    row_serializer = ExperimentNoteSerializer

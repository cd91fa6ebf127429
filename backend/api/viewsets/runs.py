"""Runs one by one and in batches: what is known about them, and changes to them."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from typing_extensions import override

from backend import runtime
from backend.api import schema
from backend.api.fields import read_params
from backend.api.serializers.base import IdStatusSerializer, StatusSerializer
from backend.api.serializers.runs import (
    ArchiveParams,
    DurableParams,
    DurableSerializer,
    InfoParams,
    RunInfoSerializer,
    RunUpdateSerializer,
    TagAttachedSerializer,
    TagNameSerializer,
    TagRemovedSerializer,
    convert_body,
)
from backend.api.trees import (
    SEQUENCE_KINDS,
    artifact_tree,
    info_traces,
    params_tree,
    props_tree,
)
from backend.api.viewsets.base import StoreViewSet, now_us
from backend.domain.runs import Run
from backend.errors import BlobKeyError, BlobStoreError
from backend.services import runs as service
from backend.services import tags
from backend.storage.engine.base import ReadTransaction
from backend.storage.repositories.run_state import find_writer

_HASHES: Final = {
    "application/json": {"type": "array", "items": {"type": "string"}},
}
_OK: Final = {"status": "OK"}


class RunViewSet(StoreViewSet):
    """One run: read, change, delete, tag."""

    lookup_field = "run_id"
    body_serializers: ClassVar[Any] = {
        "update": RunUpdateSerializer,
        "new_tag": TagNameSerializer,
    }

    @override
    def get_object(self) -> Run:
        run_id = self.kwargs["run_id"]
        return self.read(lambda tr: self.store.runs.get(tr, run_id))

    @extend_schema(
        parameters=[schema.RUN_ID, InfoParams],
        responses={200: RunInfoSerializer, 404: schema.NOT_FOUND},
    )
    @action(detail=True)
    def info(self, request: Request, run_id: str) -> Response:
        """Return all there is to know about a run but its points."""
        params = read_params(request, InfoParams)
        wanted = [kind for kind in SEQUENCE_KINDS if kind in params["sequence"]]
        kinds = wanted if params["sequence"] else list(SEQUENCE_KINDS)
        return Response(
            self.read(
                lambda tr: self._info(
                    tr, run_id, kinds=kinds, skip_system=params["skip_system"]
                )
            )
        )

    def _info(
        self, tr: ReadTransaction, run_id: str, *, kinds: list[str], skip_system: bool
    ) -> dict[str, Any]:
        store = self.store
        run = store.runs.get(tr, run_id)
        experiment = (
            store.experiments.find(tr, run.experiment_id) if run.experiment_id else None
        )
        props = props_tree(
            run, experiment=experiment, tags=store.tags.get_many(tr, run.tag_ids)
        )
        notes = store.notes.count(tr, owner_kind="run", owner_id=run_id)
        return {
            "params": params_tree(
                store.attributes.get(tr, run.number), skip_system=skip_system
            ),
            "traces": info_traces(
                store.series.list(tr, run.number, kinds=kinds), kinds=kinds
            ),
            "props": {**props, "notes": notes},
            "artifacts": [
                artifact_tree(artifact, uri=_display_uri(artifact.key))
                for artifact in store.artifacts.list_all(tr, run.number)
            ],
        }

    @extend_schema(
        parameters=[schema.RUN_ID],
        request=RunUpdateSerializer,
        responses={200: IdStatusSerializer, 404: schema.NOT_FOUND},
    )
    def update(self, request: Request, run_id: str) -> Response:
        """Change what is given; `active: false` finishes the run now."""
        service.update_run(self.store, run_id=run_id, now_us=now_us(), **self.body())
        return Response({"id": run_id, **_OK})

    @extend_schema(
        parameters=[schema.RUN_ID],
        responses={200: IdStatusSerializer, 404: schema.NOT_FOUND},
    )
    def destroy(self, request: Request, run_id: str) -> Response:
        """Delete the run: it is gone at once, its data is cleared afterwards."""
        service.delete_run(self.store, run_id=run_id, now_us=now_us())
        return Response({"id": run_id, **_OK})

    @extend_schema(
        parameters=[schema.RUN_ID], request=None, responses={200: StatusSerializer}
    )
    @action(detail=True, methods=["post"], url_path="clear-tombstone")
    def clear_tombstone(self, request: Request, run_id: str) -> Response:
        """Let records for a deleted run in again."""
        service.clear_tombstone(self.store, run_id=run_id)
        return Response(_OK)

    @extend_schema(
        parameters=[schema.RUN_ID],
        request=TagNameSerializer,
        responses={200: TagAttachedSerializer, 404: schema.NOT_FOUND},
    )
    @action(detail=True, methods=["post"], url_path="tags/new")
    def new_tag(self, request: Request, run_id: str) -> Response:
        """Attach a tag by name; it is made when missing."""
        tag = tags.add_tag(
            self.store,
            run_id=run_id,
            tag_name=self.body()["tag_name"],
            now_us=now_us(),
        )
        return Response({"id": run_id, "tag_id": tag.tag_id, **_OK})

    @extend_schema(
        parameters=[schema.RUN_ID, schema.path_param("tag_id", "The tag's id.")],
        responses={200: TagRemovedSerializer, 404: schema.NOT_FOUND},
    )
    @action(detail=True, methods=["delete"], url_path=r"tags/(?P<tag_id>[^/]+)")
    def remove_tag(self, request: Request, run_id: str, tag_id: str) -> Response:
        """Detach a tag; one that is not attached is fine."""
        tags.remove_tag(self.store, run_id=run_id, tag_id=tag_id)
        return Response({"id": run_id, "removed": True, **_OK})

    @extend_schema(
        parameters=[schema.RUN_ID, DurableParams],
        responses={200: DurableSerializer, 404: schema.NOT_FOUND},
    )
    @action(detail=True)
    def durable(self, request: Request, run_id: str) -> Response:
        """Return how far a writer's frames have reached the store; 0 for not at all.

        Of a deleted run nothing has, and nothing will while its tombstone stands.
        """
        writer = read_params(request, DurableParams)["writer"]
        return Response(self.read(lambda tr: self._durable(tr, run_id, writer)))

    def _durable(
        self, tr: ReadTransaction, run_id: str, writer: str
    ) -> dict[str, int | None]:
        deleted_us = self.store.runs.find_tombstone(tr, run_id)
        if deleted_us is not None:
            return {"epoch": 0, "seq": 0, "part": None, "deleted_us": deleted_us}
        run = self.store.runs.get(tr, run_id)
        state = find_writer(tr, run.number, writer)
        whole = state.durable(writer) if state else None
        begun = state.part if state and not state.last_part else None
        return {
            "epoch": whole.epoch if whole else 0,
            "seq": whole.seq if whole else 0,
            "part": begun,
            "deleted_us": None,
        }


def _display_uri(key: str) -> str:
    """Return where a blob is; shown to people, so a failing store fails nothing."""
    try:
        return runtime.get_blobs().display_uri(key)
    except (BlobStoreError, BlobKeyError):
        return f"blob://{key}"


class RunBatchViewSet(StoreViewSet):
    """The same change to many runs; unknown ones are ignored."""

    def _run_ids(self) -> list[str]:
        found: list[str] = convert_body(self.request.data, list[str])
        return found

    @extend_schema(request=_HASHES, responses=StatusSerializer)
    @action(detail=False, methods=["post"], url_path="delete-batch")
    def delete_batch(self, request: Request) -> Response:
        """Delete runs."""
        service.delete_runs(self.store, run_ids=self._run_ids(), now_us=now_us())
        return Response(_OK)

    @extend_schema(
        parameters=[ArchiveParams], request=_HASHES, responses=StatusSerializer
    )
    @action(detail=False, methods=["post"], url_path="archive-batch")
    def archive_batch(self, request: Request) -> Response:
        """Archive runs, or bring them back with `archive=false`."""
        service.archive_runs(
            self.store,
            run_ids=self._run_ids(),
            archived=read_params(request, ArchiveParams)["archive"],
            now_us=now_us(),
        )
        return Response(_OK)

    @extend_schema(request=_HASHES, responses=StatusSerializer)
    @action(detail=False, methods=["post"], url_path="finish-batch")
    def finish_batch(self, request: Request) -> Response:
        """Finish runs that are still active."""
        service.finish_runs(self.store, run_ids=self._run_ids(), now_us=now_us())
        return Response(_OK)

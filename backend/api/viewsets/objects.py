"""Images, texts, distributions, audio and figures: searches, batches, single steps.

The bytes of images and audio are no part of these answers but of `get-batch` without a
run, which takes the URIs that the others hand out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from django.http import StreamingHttpResponse
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request

from backend import runtime
from backend.api import schema
from backend.api.blob_frames import BlobReader
from backend.api.fields import read_params, tz_offset_min
from backend.api.object_frames import (
    ObjectRequest,
    batch_frames,
    search_frames,
    step_frames,
)
from backend.api.object_trees import OBJECT_KINDS, Items
from backend.api.serializers.runs import (
    ObjectParams,
    ObjectRef,
    ObjectSearchParams,
    ObjectStepParams,
    TraceRefSerializer,
    convert_body,
)
from backend.api.series_refs import find_series
from backend.api.streaming import (
    BLOB_POOL,
    Progress,
    join_frames,
    stream_response,
)
from backend.api.viewsets.base import StoreViewSet, now_us
from backend.domain.runs import Run
from backend.domain.series import Series
from backend.services.search import search_series
from backend.storage.query.parser import compile_query

_KIND: Final = rf"(?P<kind>{'|'.join(OBJECT_KINDS)})"
_KIND_PARAM: Final = OpenApiParameter(
    "kind", str, OpenApiParameter.PATH, enum=OBJECT_KINDS
)
_BLOB_KIND: Final = "(?P<kind>images|audios)"
_BLOB_KIND_PARAM: Final = OpenApiParameter(
    "kind", str, OpenApiParameter.PATH, enum=("images", "audios")
)


class ObjectSearchViewSet(StoreViewSet):
    """Searches over runs and their objects, and the bytes of those."""

    @extend_schema(
        parameters=[_KIND_PARAM, ObjectSearchParams, schema.TIMEZONE],
        responses={**schema.STREAMED, **schema.REFUSED},
    )
    @action(detail=False, url_path=f"search/{_KIND}")
    def search_objects(self, request: Request, kind: str) -> StreamingHttpResponse:
        """Stream the runs with objects that match, and those objects.

        `record_range` cuts the series before it is sampled, `index_range` the list of
        each step; an item keeps its index in the list as it was logged.
        """
        params = read_params(request, ObjectSearchParams)
        query = compile_query(
            params["q"],
            names=frozenset({"run", kind}),
            tz_offset_min=tz_offset_min(request),
        )
        steps = search_series(self.store, query, now_us=now_us())
        progress = Progress(wanted=params["report_progress"])
        return stream_response(
            request,
            search_frames(
                _object_request(kind, params),
                steps,
                progress,
                skip_system=params["skip_system"],
            ),
        )

    @extend_schema(
        parameters=[_BLOB_KIND_PARAM],
        request=serializers.ListSerializer(child=serializers.CharField()),
        responses={**schema.STREAMED, **schema.REFUSED},
    )
    @action(detail=False, methods=["post"], url_path=f"{_BLOB_KIND}/get-batch")
    def get_blobs(self, request: Request, kind: str) -> StreamingHttpResponse:
        """Stream `{uri: bytes}` for the URIs in the body, in their order.

        URIs not handed out by this server are left out; what has not arrived is empty.
        """
        uris: list[str] = convert_body(request.data, list[str])
        reader = BlobReader(self.store, runtime.get_blobs(), runtime.get_blob_uris())
        frames = join_frames(reader.frames(uris))
        return stream_response(request, frames, pool=BLOB_POOL)


class RunObjectViewSet(StoreViewSet):
    """Objects of one run."""

    lookup_field = "run_id"

    @extend_schema(
        parameters=[schema.RUN_ID, _KIND_PARAM, ObjectParams],
        request=TraceRefSerializer(many=True),
        responses={
            **schema.STREAMED,
            404: schema.NOT_FOUND,
            **schema.REFUSED,
        },
    )
    @action(detail=True, methods=["post"], url_path=f"{_KIND}/get-batch")
    def get_objects(
        self, request: Request, run_id: str, kind: str
    ) -> StreamingHttpResponse:
        """Stream the objects of the series named in the body, in its order.

        One tree without the run's key for each series; unknown ones are left out.
        """
        params = read_params(request, ObjectParams)
        run, series = self._find(run_id, kind)
        frames = batch_frames(_object_request(kind, params), run, series)
        return stream_response(request, frames)

    @extend_schema(
        parameters=[schema.RUN_ID, _KIND_PARAM, ObjectStepParams],
        request=TraceRefSerializer(many=True),
        responses={
            **schema.STREAMED,
            404: schema.NOT_FOUND,
            **schema.REFUSED,
        },
    )
    @action(detail=True, methods=["post"], url_path=f"{_KIND}/get-step")
    def get_step(
        self, request: Request, run_id: str, kind: str
    ) -> StreamingHttpResponse:
        """Stream the objects of one step of the series named in the body.

        Series that have no such step are left out.
        """
        params = read_params(request, ObjectStepParams)
        run, series = self._find(run_id, kind)
        frames = step_frames(
            _object_request(kind, params), run, series, step=params["record_step"]
        )
        return stream_response(request, frames)

    def _find(self, run_id: str, kind: str) -> tuple[Run, Sequence[Series]]:
        refs: list[ObjectRef] = convert_body(self.request.data, list[ObjectRef])
        names = [(ref.name, ref.context) for ref in refs]
        run = self.read(lambda tr: self.store.runs.get(tr, run_id))
        found = self.read(
            lambda tr: find_series(self.store, tr, run.number, kind=kind, names=names)
        )
        return run, [one for one in found if one is not None]


def _object_request(kind: str, params: dict[str, Any]) -> ObjectRequest:
    """Return what the parameters of any of the endpoints ask for."""
    return ObjectRequest(
        store=runtime.get_store(),
        uris=runtime.get_blob_uris(),
        kind=kind,
        steps=params.get("record_range", (None, None)),
        density=params.get("record_density", 0),
        items=Items(params["index_range"], params["index_density"]),
    )

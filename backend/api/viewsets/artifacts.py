"""Files of a run: one, or all of them in an archive."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.http import HttpResponse
from django.http.response import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request

from backend import runtime
from backend.api import schema
from backend.api.downloads import attachment_headers, read_range, safe_content_type
from backend.api.fields import read_params
from backend.api.serializers.runs import ArtifactParams
from backend.api.streaming import BLOB_POOL, stream_response
from backend.api.viewsets.base import StoreViewSet
from backend.api.zip_frames import ZipMember, zip_frames
from backend.blobs.base import BlobStat
from backend.errors import ArtifactNotFoundError
from backend.services.blobs import (
    StoredArtifact,
    get_artifact,
    list_artifacts,
    open_first,
    stat_artifact,
)

_FILE = OpenApiResponse(OpenApiTypes.BINARY, description="The file, or a part of it.")
_RANGE = OpenApiParameter("Range", str, OpenApiParameter.HEADER, description="One.")


class ArtifactViewSet(StoreViewSet):
    """Artifacts of a run."""

    lookup_field = "run_id"

    @extend_schema(
        parameters=[schema.RUN_ID, ArtifactParams, _RANGE],
        responses={200: _FILE, 206: _FILE, 404: schema.NOT_FOUND},
    )
    @action(detail=True, url_path="artifacts/download")
    def download(self, request: Request, run_id: str) -> HttpResponseBase:
        """Send an artifact, or the range of it that is asked for.

        404 as well when it is listed but its bytes never arrived.
        """
        path = read_params(request, ArtifactParams)["path"]
        stored = get_artifact(self.store, run_id=run_id, path=path)
        blobs = runtime.get_blobs()
        key, stat = stat_artifact(blobs, stored)
        etag = _etag(key, stat)
        wanted = read_range(request.headers, size=stat.size, etag=etag)
        start, stop = wanted or (0, stat.size)
        content_type = safe_content_type(stored.artifact.content_type)
        response: HttpResponseBase
        if request.method == "HEAD":
            response = HttpResponse(content_type=content_type)
        else:
            response = stream_response(
                request,
                blobs.open(key, start=start, stop=stop),
                pool=BLOB_POOL,
                content_type=content_type,
            )
        if wanted is not None:
            response.status_code = 206
            response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{stat.size}"
        response.headers["Content-Length"] = str(stop - start)
        response.headers["Accept-Ranges"] = "bytes"
        response.headers["ETag"] = etag
        _add(response, attachment_headers(stored.artifact.path.rsplit("/", 1)[-1]))
        return response

    @extend_schema(
        parameters=[schema.RUN_ID],
        responses={
            (200, "application/zip"): OpenApiTypes.BINARY,
            404: schema.NOT_FOUND,
        },
    )
    @action(detail=True, url_path="artifacts/download-all")
    def download_all(self, request: Request, run_id: str) -> HttpResponseBase:
        """Send all artifacts as a zip archive, made while it is sent.

        Those whose bytes never arrived are left out.
        """
        listed = list_artifacts(self.store, run_id=run_id)
        if not listed:
            raise ArtifactNotFoundError(run_id=run_id, path="")
        response: HttpResponseBase
        if request.method == "HEAD":
            response = HttpResponse(content_type="application/zip")
        else:
            response = stream_response(
                request,
                zip_frames(map(_member, listed)),
                pool=BLOB_POOL,
                content_type="application/zip",
            )
        _add(response, attachment_headers(f"{run_id}-artifacts.zip"))
        return response


def _member(stored: StoredArtifact) -> ZipMember:
    artifact = stored.artifact
    return ZipMember(
        artifact.path,
        artifact.created_us,
        partial(open_first, runtime.get_blobs(), stored.keys),
    )


def _etag(key: str, stat: BlobStat) -> str:
    tag = stat.checksum or key.rsplit("/", 1)[-1]
    return f'"{tag}"'


def _add(response: Any, headers: dict[str, str]) -> None:
    for name, value in headers.items():
        response.headers[name] = value

"""Searches over all runs: streams of runs with their attributes, metrics or points.

The query is compiled, and the search begun, before the response starts: a bad query is
a 400 with its place, not a broken stream.
"""

from __future__ import annotations

from django.http import StreamingHttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request

from backend.api import schema
from backend.api.align_frames import align_frames
from backend.api.fields import read_params, tz_offset_min
from backend.api.search_frames import MetricSearch, active_frames, run_frames
from backend.api.serializers.runs import (
    ActiveParams,
    Align,
    AlignSerializer,
    MetricSearchParams,
    RunSearchParams,
    convert_body,
)
from backend.api.streaming import Progress, join_frames, stream_response
from backend.api.viewsets.base import StoreViewSet, now_us
from backend.services.run_order import parse_order
from backend.services.search import search_runs, search_series
from backend.storage.query.parser import Query, compile_query
from matyan_wire.batch import METRIC

_ACTIVE = "run.active == True"


class RunSearchViewSet(StoreViewSet):
    """Searches over runs and their metrics."""

    def _compile(self, text: str, *kinds: str) -> Query:
        return compile_query(
            text,
            names=frozenset({"run", *kinds}),
            tz_offset_min=tz_offset_min(self.request),
        )

    @extend_schema(
        parameters=[RunSearchParams, schema.TIMEZONE],
        responses={**schema.STREAMED, **schema.REFUSED},
    )
    @action(detail=False, url_path="search/run")
    def search_run(self, request: Request) -> StreamingHttpResponse:
        """Stream the runs that match, newest first unless `sort` says otherwise."""
        params = read_params(request, RunSearchParams)
        steps = search_runs(
            self.store,
            self._compile(params["q"]),
            order=parse_order(params["sort"]),
            offset_run_id=params["offset"],
            limit=params["limit"],
            with_attributes=not params["exclude_params"],
            series_kinds=() if params["exclude_traces"] else (METRIC,),
            now_us=now_us(),
        )
        progress = Progress(wanted=params["report_progress"])
        return stream_response(
            request, run_frames(steps, progress, skip_system=params["skip_system"])
        )

    @extend_schema(
        parameters=[MetricSearchParams, schema.TIMEZONE],
        responses={**schema.STREAMED, **schema.REFUSED},
    )
    @action(detail=False, url_path="search/metric")
    def search_metric(self, request: Request) -> StreamingHttpResponse:
        """Stream the runs with metrics that match, and those metrics' points."""
        params = read_params(request, MetricSearchParams)
        search = MetricSearch(
            store=self.store,
            max_points=params["p"],
            x_axis=params["x_axis"],
            skip_system=params["skip_system"],
        )
        steps = search_series(
            self.store, self._compile(params["q"], METRIC), now_us=now_us()
        )
        progress = Progress(wanted=params["report_progress"])
        return stream_response(request, search.frames(steps, progress))

    @extend_schema(
        request=AlignSerializer,
        responses={**schema.STREAMED, **schema.REFUSED},
    )
    @action(detail=False, methods=["post"], url_path="search/metric/align")
    def align(self, request: Request) -> StreamingHttpResponse:
        """Stream the metric to align by, for each trace that has it."""
        body: Align = convert_body(request.data, Align)
        frames = align_frames(self.store, align_by=body.align_by, runs=body.runs)
        return stream_response(request, join_frames(frames))

    @extend_schema(
        parameters=[ActiveParams],
        responses={**schema.STREAMED, **schema.REFUSED},
    )
    @action(detail=False)
    def active(self, request: Request) -> StreamingHttpResponse:
        """Stream the runs being written now, with the last point of each metric."""
        params = read_params(request, ActiveParams)
        steps = search_runs(
            self.store, self._compile(_ACTIVE), with_attributes=False, now_us=now_us()
        )
        progress = Progress(wanted=params["report_progress"])
        return stream_response(request, active_frames(steps, progress))

"""Points of a run's metrics, many series in one request."""

from __future__ import annotations

from django.http import StreamingHttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request

from backend.api import schema
from backend.api.batch_frames import batch_frames
from backend.api.fields import read_params
from backend.api.point_groups import Sampling, check_answer
from backend.api.serializers.runs import (
    MAX_BATCH_POINTS,
    BatchParams,
    TracePointsSerializer,
    TraceRef,
    TraceRefSerializer,
    convert_body,
)
from backend.api.series_refs import find_series
from backend.api.streaming import join_frames, stream_response
from backend.api.viewsets.base import StoreViewSet


class MetricBatchViewSet(StoreViewSet):
    """Metrics of one run."""

    lookup_field = "run_id"

    @extend_schema(
        parameters=[schema.RUN_ID, BatchParams],
        request=TraceRefSerializer(many=True),
        responses={
            200: TracePointsSerializer(many=True),
            404: schema.NOT_FOUND,
            **schema.REFUSED,
        },
    )
    @action(detail=True, methods=["post"], url_path="metric/get-batch")
    def get_batch(self, request: Request, run_id: str) -> StreamingHttpResponse:
        """Return the points of the series named in the body, in its order.

        Unknown series are left out. Sampling keeps the first and the last point. A
        value that is no finite number is null: JSON has no word for it. The list is
        sent while it is made.
        """
        params = read_params(request, BatchParams)
        refs: list[TraceRef] = convert_body(request.data, list[TraceRef])
        names = [(ref.name, ref.context) for ref in refs]
        run = self.read(lambda tr: self.store.runs.get(tr, run_id))
        series = self.read(
            lambda tr: find_series(
                self.store, tr, run.number, kind="metric", names=names
            )
        )
        wanted = [
            (ref, one) for ref, one in zip(refs, series, strict=True) if one is not None
        ]
        density = params["record_density"] or MAX_BATCH_POINTS
        sampling = Sampling(density, *params["record_range"])
        check_answer(sum(sampling.points_of(one) for _, one in wanted))
        frames = batch_frames(self.store, run.number, wanted, sampling=sampling)
        return stream_response(
            request, join_frames(frames), content_type="application/json"
        )

"""Points of a run's metrics, many series in one request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request

from backend.api import schema
from backend.api.fields import Range, read_params
from backend.api.renderers import encode_json
from backend.api.serializers.runs import (
    MAX_BATCH_POINTS,
    BatchParams,
    TracePointsSerializer,
    TraceRef,
    TraceRefSerializer,
    convert_body,
)
from backend.api.series_refs import find_series
from backend.api.viewsets.base import StoreViewSet
from backend.domain.series import Points, Series

GROUP_SERIES: Final = 10_000
GROUP_POINTS: Final = 4_000_000
"""Series and stored points read in one transaction, at most, if one series is less:
well within the time a transaction has."""


class MetricBatchViewSet(StoreViewSet):
    """Metrics of one run."""

    lookup_field = "run_id"

    @extend_schema(
        parameters=[schema.RUN_ID, BatchParams],
        request=TraceRefSerializer(many=True),
        responses={200: TracePointsSerializer(many=True), 404: schema.NOT_FOUND},
    )
    @action(detail=True, methods=["post"], url_path="metric/get-batch")
    def get_batch(self, request: Request, run_id: str) -> HttpResponse:
        """Return the points of the series named in the body, in its order.

        Unknown series are left out. Sampling keeps the first and the last point. A
        value that is no finite number is null: JSON has no word for it.
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
        points = self._points(
            run.number,
            [one for one in series if one is not None],
            steps=params["record_range"],
            density=params["record_density"] or MAX_BATCH_POINTS,
        )
        answer = [
            _trace(ref, points[one.number])
            for ref, one in zip(refs, series, strict=True)
            if one is not None
        ]
        return HttpResponse(encode_json(answer), content_type="application/json")

    def _points(
        self,
        run_number: int,
        series: Sequence[Series],
        *,
        steps: Range,
        density: int,
    ) -> dict[int, Points]:
        start, stop = steps
        found: dict[int, Points] = {}
        for group in _groups(series):
            found |= self.read(
                lambda tr, group=group: self.store.series.sample_points(  # type: ignore[misc]  # bound now
                    tr, run_number, group, max_points=density, start=start, stop=stop
                )
            )
        return found


def _groups(series: Sequence[Series]) -> Iterator[list[int]]:
    """Yield the series' numbers in ascending groups for one transaction each."""
    counts = {one.number: one.summary.count if one.summary else 0 for one in series}
    group: list[int] = []
    points = 0
    for number in sorted(counts):
        points += counts[number]
        if group and (len(group) == GROUP_SERIES or points > GROUP_POINTS):
            yield group
            group, points = [], counts[number]
        group.append(number)
    if group:
        yield group


def _trace(ref: TraceRef, points: Points) -> dict[str, Any]:
    return {
        "name": ref.name,
        "context": ref.context or {},
        "iters": points.steps.tolist(),
        "values": points.values.tolist(),
    }

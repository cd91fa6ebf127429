"""What the backend counts, and the Prometheus page that shows it.

Metrics are declared here once, with unit and meaning. Labels are bounded: routes are
URL patterns, never paths.

Design note: docs/subsystems/api.md#metrics
"""

from __future__ import annotations

from typing import Final

import prometheus_client
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_GET
from prometheus_client import Counter, Gauge, Histogram

from backend.api import lag_metrics

_REQUESTS: Final = Counter(
    "matyan_backend_http_requests_total",
    "HTTP requests answered; streams count when they start.",
    ["method", "route", "status"],
)
_SECONDS: Final = Histogram(
    "matyan_backend_http_request_seconds",
    "Seconds from a request's arrival to its response's headers.",
    ["method", "route"],
    buckets=(0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
STREAMS_OPEN: Final = Gauge(
    "matyan_backend_streams_open", "Streaming responses being sent right now."
)
STREAMS_CUT: Final = Counter(
    "matyan_backend_streams_cut_total",
    "Streaming responses that ended early.",
    ["reason"],
)
_METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
)


def count_request(*, method: str, route: str, status: int, seconds: float) -> None:
    """Count one answered request.

    Args:
        method: As sent; unknown ones are counted as "other".
        route: The URL pattern that matched, "" for none.
        status: Of the response.
        seconds: Until the response's headers were ready.
    """
    method = method if method in _METHODS else "other"
    route = route or "unmatched"
    _REQUESTS.labels(method, route, str(status)).inc()
    _SECONDS.labels(method, route).observe(seconds)


@require_GET
def metrics_view(request: HttpRequest) -> HttpResponse:
    """Answer Prometheus with everything this process counts."""
    lag_metrics.refresh()
    return HttpResponse(
        prometheus_client.generate_latest(),
        content_type=prometheus_client.CONTENT_TYPE_LATEST,
    )

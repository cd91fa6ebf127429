"""Health, version and metrics of the gateway."""

from __future__ import annotations

import prometheus_client
from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from frontier import blob_store
from frontier.gateway import LogHealth, get_gateway


@require_safe
def live(request: HttpRequest) -> JsonResponse:
    """Answer that the process runs."""
    return JsonResponse({"status": "ok"})


@require_safe
def ready(request: HttpRequest) -> JsonResponse:
    """Answer whether the gateway takes connections; 503 names what is missing.

    The event log is checked under the name "kafka" whatever it is: the name is part of
    the public contract. A failing blob store is told of, but metrics can still be
    taken.
    """
    failure = LogHealth.check()
    checks = {"kafka": "ok" if failure is None else failure}
    if get_gateway().draining:
        checks["gateway"] = "draining"
    fine = all(text == "ok" for text in checks.values())
    checks["blob"] = blob_store.health.verdict()
    body = {"status": "ok" if fine else "degraded", "checks": checks}
    return JsonResponse(body, status=200 if fine else 503)


@require_safe
def version(request: HttpRequest) -> JsonResponse:
    """Answer which version runs here."""
    return JsonResponse({"version": settings.MATYAN_VERSION, "component": "frontier"})


@require_safe
def prometheus(request: HttpRequest) -> HttpResponse:
    """Answer what the process counts, in Prometheus' text format."""
    return HttpResponse(
        prometheus_client.generate_latest(),
        content_type=prometheus_client.CONTENT_TYPE_LATEST,
    )

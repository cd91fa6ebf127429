"""The service itself: who answers, and whether it can.

Health answers never wait long: both checks give up after about a second.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from django.conf import settings
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from backend import runtime
from backend.api.serializers.service import (
    LiveSerializer,
    ReadySerializer,
    VersionSerializer,
)
from backend.api.viewsets.base import ApiViewSet
from backend.errors import MatyanError

FDB_API_VERSION: Final = 730

logger = logging.getLogger(__name__)


class VersionViewSet(ApiViewSet):
    """Which version answers, and where its gateway is."""

    @extend_schema(responses=VersionSerializer)
    def retrieve(self, request: Request) -> Response:
        """Return the version and the gateway's address."""
        return Response(
            {
                "version": settings.MATYAN_VERSION,
                "component": "backend",
                "fdb_api_version": FDB_API_VERSION,
                "gateway": {
                    "same_origin": settings.MATYAN_GATEWAY_SAME_ORIGIN,
                    "port": settings.MATYAN_FRONTIER_PORT,
                },
            }
        )


class HealthViewSet(ApiViewSet):
    """What probes ask; open to everybody, always."""

    permission_classes = ()
    authentication_classes = ()

    @extend_schema(responses=LiveSerializer)
    def live(self, request: Request) -> Response:
        """Answer while the process runs."""
        return Response({"status": "ok"})

    @extend_schema(
        responses={
            200: ReadySerializer,
            503: OpenApiResponse(ReadySerializer, description="`degraded`."),
        }
    )
    def ready(self, request: Request) -> Response:
        """Answer whether the store and the event log can serve."""
        store = _verdict(_check_store)
        log = _verdict(_check_event_log)
        # `fdb` and `kafka` are what probes written for other servers look at.
        checks = {
            "store": store,
            "event_log": log,
            "fdb": store,
            "kafka": {
                "control_producer": log == "ok",
                "ingestion_producer": log == "ok",
            },
        }
        healthy = store == "ok" and log == "ok"
        return Response(
            {"status": "ok" if healthy else "degraded", "checks": checks},
            status=200 if healthy else 503,
        )


def _check_store() -> None:
    runtime.get_store().engine.check()


def _check_event_log() -> None:
    runtime.get_event_log().check()


def _verdict(check: Callable[[], None]) -> str:
    try:
        check()
    except MatyanError as error:
        # Anybody may ask: what has a path or an address in it goes to the log.
        logger.warning("health.not_ready", extra={"reason": str(error)})
        return error.message
    return "ok"

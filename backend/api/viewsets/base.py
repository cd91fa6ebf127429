"""What every viewset over the store has in common.

The queryset slot carries what a repository answered: DRF's own hooks, permissions and
browsable pages work through it, and no SQL is involved. Views read through
repositories, write through services, and catch nothing.

Design note: docs/subsystems/api.md
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar, cast

from rest_framework import serializers
from rest_framework.renderers import BrowsableAPIRenderer
from rest_framework.viewsets import GenericViewSet
from typing_extensions import override

from backend import runtime
from backend.api.renderers import JsonParser, JsonRenderer, LenientNegotiation
from backend.storage.engine.base import ReadTransaction
from backend.storage.factory import Store

T = TypeVar("T")


class ApiViewSet(GenericViewSet[Any]):
    """JSON in, JSON out, whatever the caller's `Accept` says."""

    renderer_classes = (JsonRenderer, BrowsableAPIRenderer)
    parser_classes = (JsonParser,)
    content_negotiation_class = LenientNegotiation
    lookup_value_regex = "[^/]+"
    filter_backends = ()
    pagination_class = None
    body_serializers: ClassVar[dict[str, type[serializers.BaseSerializer[Any]]]] = {}
    """Action name to the serializer of its request body."""

    @override
    def get_serializer_class(self) -> type[serializers.BaseSerializer[Any]]:
        return self.body_serializers.get(self.action or "", serializers.Serializer)

    @override
    def get_queryset(self) -> Any:
        return ()

    def body(self) -> dict[str, Any]:
        """Return the request's body, validated by the action's serializer.

        Raises:
            ValidationError: If it does not fit.
        """
        serializer = self.get_serializer(data=self.request.data)
        serializer.is_valid(raise_exception=True)
        return cast("dict[str, Any]", serializer.validated_data)


class StoreViewSet(ApiViewSet):
    """A viewset over the store."""

    @property
    def store(self) -> Store:
        """The process's store."""
        return runtime.get_store()

    def read(self, fn: Callable[[ReadTransaction], T]) -> T:
        """Return what `fn` reads at one version of the store."""
        return self.store.engine.read(fn)


def now_us() -> int:
    """Return the server's clock, microseconds since the epoch."""
    return time.time_ns() // 1000

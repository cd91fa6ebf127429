"""Every address of the backend; each works with and without its trailing slash.

Nothing redirects. The order matters: `runs/search/…` and `runs/active` come before
`runs/{run_id}/…`, so a run named like one of them cannot be reached by its address.

Design note: docs/subsystems/api.md#addresses
"""

from __future__ import annotations

from django.urls import include, re_path
from drf_spectacular.views import SpectacularAPIView
from rest_framework.routers import DefaultRouter

from backend.api import handlers, observability, sign_in
from backend.api.viewsets.artifacts import ArtifactViewSet
from backend.api.viewsets.documents import (
    AppViewSet,
    DashboardViewSet,
    PinnedSequencesViewSet,
    ReportViewSet,
)
from backend.api.viewsets.experiments import ExperimentViewSet
from backend.api.viewsets.metrics import MetricBatchViewSet
from backend.api.viewsets.notes import ExperimentNoteViewSet, RunNoteViewSet
from backend.api.viewsets.objects import ObjectSearchViewSet, RunObjectViewSet
from backend.api.viewsets.projects import ProjectViewSet
from backend.api.viewsets.run_logs import RunLogViewSet
from backend.api.viewsets.run_search import RunSearchViewSet
from backend.api.viewsets.runs import RunBatchViewSet, RunViewSet
from backend.api.viewsets.service import HealthViewSet, VersionViewSet
from backend.api.viewsets.tags import TagViewSet
from backend.api.web_ui import views as web_ui


class OptionalSlashRouter(DefaultRouter):
    """Routes that end in a slash or do not, without format suffixes."""

    include_format_suffixes = False

    def __init__(self) -> None:
        super().__init__()
        self.trailing_slash = "/?"


router = OptionalSlashRouter()
router.register("runs", RunSearchViewSet, basename="run-search")
router.register("runs", ObjectSearchViewSet, basename="object-search")
router.register("runs", RunBatchViewSet, basename="run-batch")
router.register(r"runs/(?P<owner_id>[^/]+)/note", RunNoteViewSet, basename="run-note")
router.register("runs", MetricBatchViewSet, basename="run-metric")
router.register("runs", RunObjectViewSet, basename="run-object")
router.register("runs", RunLogViewSet, basename="run-log")
router.register("runs", ArtifactViewSet, basename="run-artifact")
router.register("runs", RunViewSet, basename="run")
router.register(
    r"experiments/(?P<owner_id>[^/]+)/note",
    ExperimentNoteViewSet,
    basename="experiment-note",
)
router.register("experiments", ExperimentViewSet, basename="experiment")
router.register("tags", TagViewSet, basename="tag")
router.register("projects", ProjectViewSet, basename="project")
router.register("dashboards", DashboardViewSet, basename="dashboard")
router.register("apps", AppViewSet, basename="app")
router.register("reports", ReportViewSet, basename="report")

_singles = [
    re_path(r"^version/?$", VersionViewSet.as_view({"get": "retrieve"})),
    re_path(
        r"^projects/pinned-sequences/?$",
        PinnedSequencesViewSet.as_view({"get": "retrieve", "post": "create"}),
    ),
]

urlpatterns = [
    re_path(r"^api/v1/rest/", include([*_singles, *router.urls])),
    re_path(r"^api/v1/rest$", router.get_api_root_view(router.urls)),
    re_path(r"^api/v1/schema/?$", SpectacularAPIView.as_view(), name="schema"),
    re_path(r"^api/metrics/?$", observability.metrics_view),
    re_path(r"^metrics/?$", web_ui.metrics),
    re_path(r"^health/live/?$", HealthViewSet.as_view({"get": "live"})),
    re_path(r"^health/ready/?$", HealthViewSet.as_view({"get": "ready"})),
    re_path(r"^api/auth/refresh/?$", sign_in.refresh),
    re_path(r"^api(/.*)?$", handlers.not_found),
    re_path(r"^sign-in/?$", sign_in.SignInView.as_view()),
    re_path(r"^sign-out/?$", sign_in.sign_out),
    re_path(r"^favicon\.ico$", web_ui.favicon),
    re_path(r"^", web_ui.page),
]

"""HTTP routes of a gateway that runs on its own; both slash forms are answered."""

from __future__ import annotations

from django.urls import re_path

from frontier import views

urlpatterns = [
    re_path(r"^api/v1/rest/version/?$", views.version),
    re_path(r"^version/?$", views.version),
    re_path(r"^health/live/?$", views.live),
    re_path(r"^health/ready/?$", views.ready),
    re_path(r"^metrics/?$", views.prometheus),
]

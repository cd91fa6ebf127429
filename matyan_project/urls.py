"""Every route of this process, by its role."""

from __future__ import annotations

from django.conf import settings
from django.contrib import admin
from django.urls import include, path

if settings.MATYAN_ROLE == "frontier":
    urlpatterns = [path("", include("frontier.urls"))]
else:
    urlpatterns = [
        path("admin/", admin.site.urls),
        path("", include("backend.api.urls")),
    ]

"""Every route of this process, by its role."""

from __future__ import annotations

from django.conf import settings
from django.contrib import admin
from django.urls import include, path

# Where Django looks for them: what no view answers is JSON too.
handler400 = "backend.api.handlers.bad_request"
handler403 = "backend.api.handlers.permission_denied"
handler404 = "backend.api.handlers.not_found"
handler500 = "backend.api.handlers.server_error"

if settings.MATYAN_ROLE == "frontier":
    urlpatterns = [path("", include("frontier.urls"))]
else:
    urlpatterns = [
        path("admin/", admin.site.urls),
        path("", include("backend.api.urls")),
    ]

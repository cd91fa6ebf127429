"""The composition root is an app for the sake of its commands."""

from django.apps import AppConfig


class MatyanProjectConfig(AppConfig):
    """Holds `up`, `serve` and `demo`."""

    name = "matyan_project"

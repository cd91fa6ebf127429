"""The gateway as a Django app."""

from django.apps import AppConfig


class FrontierConfig(AppConfig):
    """Takes what training code sends, and answers when it is durable."""

    name = "frontier"

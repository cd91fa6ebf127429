"""One machine: the default of every command."""

from matyan_project.settings.base import *  # noqa: F403 - settings are layered

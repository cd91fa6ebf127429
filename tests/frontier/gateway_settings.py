"""Settings of a gateway process started by a test; the test gives them as JSON."""

import json
import os

from matyan_project.settings.base import *  # noqa: F403 - settings are layered

globals().update(json.loads(os.environ["GATEWAY_TEST_SETTINGS"]))

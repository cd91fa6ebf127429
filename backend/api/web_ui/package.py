"""Where the web UI's static build is: inside the installed package `matyan-ui`.

The package's Python is never imported: only its files are of use here. `make setup`
installs it; the server runs without it.

Design note: docs/subsystems/web-ui.md
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

NAME: Final = "matyan-ui"
VERSION: Final = "0.3.2"
_MODULE: Final = "matyan_ui"
_TEMPLATE: Final = "index-template.html"


def find_root() -> Path | None:
    """Return the directory of the static build, None if it is not installed."""
    spec = importlib.util.find_spec(_MODULE)  # a top-level name: found, not imported
    places = spec.submodule_search_locations if spec else None
    for place in places or ():
        root = Path(place) / "static"
        if (root / _TEMPLATE).is_file():
            return root
    return None


def read_template(root: Path) -> str:
    """Return the page every address of the UI begins with, to be filled in.

    Raises:
        OSError: If it cannot be read.
    """
    return (root / _TEMPLATE).read_text(encoding="utf-8")

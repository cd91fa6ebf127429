"""How Django writes times: unmistakable, sortable, and with their zone."""

from __future__ import annotations

from typing import Final

DATETIME_FORMAT: Final = "Y-m-d H:i:s e"
DATE_FORMAT: Final = "Y-m-d"

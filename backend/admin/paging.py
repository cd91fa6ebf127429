"""Searching and paging what the data layer returns whole: entities, one run's series.

Design note: docs/admin.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.http import HttpRequest

from backend.admin.base import PAGE, StoreAdmin
from backend.admin.cells import Table


class Paged:
    """The page a request asks for (`q`, `after`) of items in their order.

    The cursor is the key of the last item seen. When that has gone meanwhile the page
    is the first one again.

    Args:
        request: What asks.
        rows: Of every item its key, the text searched in, and itself.

    Attributes:
        search: What was searched for.
        items: The items of the page.
        after: The cursor of the next page, "" on the last.
        matching: How many items the search finds.
        total: How many there are.
    """

    def __init__(
        self, request: HttpRequest, rows: Sequence[tuple[str, str, Any]]
    ) -> None:
        self.search = request.GET.get("q", "").strip()
        words = self.search.lower().split()
        found = [
            (key, item)
            for key, text, item in rows
            if all(word in text.lower() for word in words)
        ]
        keys = [key for key, _ in found]
        given = request.GET.get("after", "")
        start = keys.index(given) + 1 if given in keys else 0
        page = found[start : start + PAGE]
        self.items = [item for _, item in page]
        self.after = page[-1][0] if start + PAGE < len(found) else ""
        self.matching = len(found)
        self.total = len(rows)

    @property
    def nothing(self) -> str:
        """What an empty page says."""
        return "Nothing is called like that." if self.total else "None yet."

    def context(self, admin: StoreAdmin, table: Table) -> Mapping[str, Any]:
        """Return the context of a list of these."""
        if self.after:
            table.next_url = admin.url("changelist", q=self.search, after=self.after)
        return {
            "tables": [table],
            "search": self.search,
            "search_help": f"A part of a name; {self.matching:,} of {self.total:,}.",
        }

"""The embedded engine, unavailable while a file exists."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from typing_extensions import override

from backend.errors import StoreUnavailableError
from backend.storage.engine.base import ReadTransaction, Transaction
from backend.storage.engine.embedded import EmbeddedEngine

T = TypeVar("T")


class UnavailableEngine(EmbeddedEngine):
    """Fails before a transaction, or in its middle, once `outage_file` is there."""

    def __init__(self, path: str, *, outage_file: str, **options: Any) -> None:
        super().__init__(path, **options)
        self._outage = Path(outage_file)

    @override
    def transact(self, fn: Callable[[Transaction], T], *, timeout_s: float = 30.0) -> T:
        self._check_there()

        def attempt(tr: Transaction) -> T:
            result = fn(tr)
            self._check_there()
            return result

        return super().transact(attempt, timeout_s=timeout_s)

    @override
    def read(self, fn: Callable[[ReadTransaction], T], *, timeout_s: float = 30.0) -> T:
        self._check_there()
        return super().read(fn, timeout_s=timeout_s)

    def _check_there(self) -> None:
        if self._outage.exists():
            raise StoreUnavailableError(reason="the test's outage")

"""Engines around an engine, for tests of what goes wrong on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from typing_extensions import override

from backend.storage.engine.base import Engine, ReadTransaction, Transaction

T = TypeVar("T")


class EngineAround(Engine):
    """Hands everything to another engine; subclasses interfere."""

    def __init__(self, inner: Engine) -> None:
        self.limits = inner.limits
        self._inner = inner

    @override
    def transact(self, fn: Callable[[Transaction], T], *, timeout_s: float = 30.0) -> T:
        return self._inner.transact(fn, timeout_s=timeout_s)

    @override
    def read(self, fn: Callable[[ReadTransaction], T], *, timeout_s: float = 30.0) -> T:
        return self._inner.read(fn, timeout_s=timeout_s)

    @override
    def check(self) -> None:
        self._inner.check()

    @override
    def size_bytes(self) -> int:
        return self._inner.size_bytes()

    @override
    def close(self) -> None:
        self._inner.close()


class CountingEngine(EngineAround):
    """Counts transactions."""

    transactions = 0

    @override
    def transact(self, fn: Callable[[Transaction], T], *, timeout_s: float = 30.0) -> T:
        self.transactions += 1
        return super().transact(fn, timeout_s=timeout_s)

"""An iterator of chunks as a file to read, for libraries that want one."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

from typing_extensions import override

from backend.errors import BlobTooLargeError


class ChunkFile(io.RawIOBase):
    """Reads chunks one after the other; holds one at a time.

    Args:
        chunks: The content.
        max_bytes: Most bytes there may be, None for no bound.

    Raises:
        BlobTooLargeError: On reading past `max_bytes`.
    """

    def __init__(
        self, chunks: Iterable[bytes], *, max_bytes: int | None = None
    ) -> None:
        super().__init__()
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")
        self._left = max_bytes

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._count(len(chunk))
            self._rest = memoryview(chunk)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def _count(self, size: int) -> None:
        if self._left is not None:
            if size > self._left:
                raise BlobTooLargeError(limit=self._left)
            self._left -= size

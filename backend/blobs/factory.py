"""Opens the blob store that settings name.

Design note: docs/subsystems/blobs.md
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from backend.blobs.base import BlobStore
from backend.errors import BlobStoreError


def open_blob_store(*, engine: str, options: Mapping[str, Any]) -> BlobStore:
    """Return the blob store of class `engine`, opened with `options`.

    Args:
        engine: Dotted path of a `BlobStore` class, for example
            "backend.blobs.filesystem.FilesystemBlobStore".
        options: Keyword arguments of that class.

    Raises:
        BlobStoreError: If there is no such class, it does not take these options, or
            the store cannot be opened.
    """
    module_name, _, class_name = engine.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        reason = f"no such blob store class: {error}"
        raise BlobStoreError(engine=engine, reason=reason) from error
    if not (isinstance(found, type) and issubclass(found, BlobStore)):
        raise BlobStoreError(engine=engine, reason="not a blob store class")
    try:
        return found(**options)
    except TypeError as error:
        raise BlobStoreError(engine=engine, reason=str(error)) from error

"""Paths of blobs within a run: what a client may call an artifact or a picture.

Design note: docs/subsystems/blobs.md#keys
"""

from __future__ import annotations

import unicodedata

from matyan_wire import limits


def normal_blob_path(path: str) -> str:
    """Return `path` without empty and "." components.

    Raises:
        ValueError: If it cannot name a blob; the text tells why.
    """
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        reason = "must be valid Unicode"
        raise ValueError(reason) from None
    if not 1 <= size <= limits.MAX_BLOB_PATH_BYTES:
        reason = f"must be 1 to {limits.MAX_BLOB_PATH_BYTES} bytes"
        raise ValueError(reason)
    if path.startswith("/") or any(map(_is_control, path)):
        reason = "must be relative, without control characters"
        raise ValueError(reason)
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if not parts or ".." in parts:
        reason = "must not have '..' components" if parts else "must name something"
        raise ValueError(reason)
    return "/".join(parts)


def path_of_key(key: str, *, run_id: str) -> str | None:
    """Return the path within the run that an object's `s3_key` means, None if none."""
    prefix = f"{run_id}/"
    if not key.startswith(prefix):
        return None
    try:
        return normal_blob_path(key[len(prefix) :])
    except ValueError:
        return None


def blob_path_problem(path: str) -> str | None:
    """Return why `path` cannot name an artifact as it is, None if it can."""
    if any(part in {"", ".", ".."} for part in path.strip("/").split("/")):
        return "must not have empty, '.' or '..' components"
    try:
        normal = normal_blob_path(path)
    except ValueError as error:
        return str(error)
    return None if normal == path else "must not end in '/'"


def _is_control(character: str) -> bool:
    return unicodedata.category(character) == "Cc"

"""Artifacts: files of a run, what they are called, and getting them back.

A path within a run has "/" between its components, no "." or "..", and at most 1,024
bytes, whatever the file was called on the disk.
"""

from __future__ import annotations

import contextlib
import mimetypes
import os
import re
import secrets
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Final, TypeVar

from matyan_client import console
from matyan_client.rest import NotFoundError, RestClient
from matyan_wire.blob_paths import normal_blob_path

DEFAULT_CONTENT_TYPE: Final = "application/octet-stream"

_SAFE: Final = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
)
_MAX_SLUG: Final = 80
_NOT_ON_WINDOWS: Final = re.compile(r'[<>:"|?*\x00-\x1f]')
_DEVICES: Final = frozenset(
    {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"}
    | {f"{port}{number}" for port in ("COM", "LPT") for number in "0123456789¹²³"}
)

_AnyPath = TypeVar("_AnyPath", bound=PurePath)


def artifact_path(name: object) -> str:
    """Return the path within the run of an artifact called `name`.

    Raises:
        TypeError: If it is no text.
        ValueError: If it cannot be one; the text tells why.
    """
    if not isinstance(name, str):
        msg = f"an artifact's name is text, not {type(name).__name__}"
        raise TypeError(msg)
    try:
        return normal_blob_path(name)
    except ValueError as error:
        msg = f"{name[:200]!r} cannot be an artifact's name: it {error}"
        raise ValueError(msg) from error


def guess_content_type(path: str) -> str:
    """Return the content type a file's name suggests."""
    return mimetypes.guess_type(path, strict=False)[0] or DEFAULT_CONTENT_TYPE


def iter_files(directory: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files below a directory with their relative paths, sorted.

    Links to files are followed, links to directories are not.
    """
    for folder, folders, names in os.walk(directory):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_file():
                yield path.relative_to(directory).as_posix(), path


def object_path(
    name: str, context: str, *, kind: str, step: int | None, file_format: str
) -> str:
    """Return a path for an object's bytes that no other object has.

    The context is in it, as a hash, and a random part: steps that are tracked again,
    by this process or another, have bytes of their own.
    """
    slug = "".join(sign if sign in _SAFE else "_" for sign in name)[:_MAX_SLUG]
    digest = blake2b(f"{kind}\0{name}\0{context}".encode(), digest_size=8).hexdigest()
    place = "" if step is None else f"{step}-"
    suffix = "".join(sign for sign in file_format if sign.isalnum())[:16] or "bin"
    folder = slug.strip(".") or "_"
    return f"seq/{folder}/{digest}/{place}{secrets.token_hex(8)}.{suffix}"


def local_path(directory: _AnyPath, path: str) -> _AnyPath:
    """Return where the artifact `path` goes below `directory`, never outside of it.

    On Windows a backslash separates too, and what a file's name cannot have there
    becomes "_": "C:" would be another disk, "a:b" a stream of "a", "NUL" a device.

    Raises:
        ValueError: If the path leads elsewhere.
    """
    is_windows = isinstance(directory, PureWindowsPath)
    text = path.replace("\\", "/") if is_windows else path
    parts = PurePosixPath(text).parts
    leads_out = text.startswith("/") or ".." in parts or "\0" in text
    if parts and not leads_out:
        found = directory.joinpath(
            *(map(_windows_name, parts) if is_windows else parts)
        )
        if found.is_relative_to(directory) and ".." not in found.parts:
            return found
    msg = f"the artifact's path {path!r} leads outside of {directory}"
    raise ValueError(msg)


def _windows_name(name: str) -> str:
    # Dots and spaces at the end are dropped there: ".. " would lead up.
    plain = _NOT_ON_WINDOWS.sub("_", name)
    if plain != plain.rstrip(". "):
        plain = plain.rstrip(". ") + "_"
    is_device = plain.split(".", 1)[0].strip().upper() in _DEVICES
    return f"_{plain}" if is_device else plain


def download(client: RestClient, run_id: str, path: str, target: Path) -> Path:
    """Write an artifact to `target`, whole or not at all; memory stays bounded.

    Raises:
        ServerError, NotFoundError: As their names say.
        OSError: If it cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    line = console.ProgressLine()
    got = 0
    try:
        with partial.open("xb") as file:
            for chunk in iter_artifact(client, run_id, path):
                file.write(chunk)
                got += len(chunk)
                line.show(f"downloading {path}: {console.size_text(got)}")
        partial.replace(target)
    finally:
        line.clear()
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return target


def iter_artifact(client: RestClient, run_id: str, path: str) -> Iterator[bytes]:
    """Yield an artifact's bytes.

    Raises:
        ServerError: If the server cannot be asked, or stops in the middle.
        NotFoundError: If the run has no such artifact.
    """
    try:
        yield from client.iter_bytes(
            f"runs/{run_id}/artifacts/download/", {"path": path}
        )
    except NotFoundError as error:
        msg = f"run {run_id} has no artifact {path!r} on the server (yet): {error}"
        raise NotFoundError(msg) from error

"""Static files: of the admin and the browsable API, and of the web UI.

WhiteNoise knows the files, their types, twins, validators and ranges; this module lets
it run inside ASGI: files are opened and read in threads, a block at a time, and only
by requests for a file. What may be served is listed once, when the process starts, so
no path can lead out of the directories, and what is not in the list is not found.

Of the web UI, `static/` is immutable (its addresses carry a version); the rest is asked
for again after `UI_MAX_AGE_S`. A trailing slash after its files means nothing: the
loader of its Python runtime adds one.

Design note: docs/subsystems/web-ui.md#files
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import IO, Any, Final, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from typing_extensions import override
from whitenoise.base import WhiteNoise
from whitenoise.middleware import WhiteNoiseMiddleware
from whitenoise.responders import StaticFile

from backend.api.web_ui import package

UI_PREFIX: Final = "/static-files/"
UI_MAX_AGE_S: Final = 600
BLOCK_BYTES: Final = 256 * 1024
_YEAR_S: Final = 365 * 24 * 3600
_HIDDEN: Final = ("/__pycache__/", "/index.html", "/index-template.html")

GetResponse = Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]


class UiFiles(WhiteNoise):  # type: ignore[misc]  # untyped
    """The files of the web UI by their addresses."""

    FOREVER = _YEAR_S

    def __init__(self, root: Path) -> None:
        super().__init__(
            None,
            max_age=UI_MAX_AGE_S,
            allow_all_origins=False,
            mimetypes={".py": "text/x-python"},
        )
        self.add_files(str(root), prefix=UI_PREFIX)

    @override
    def add_file_to_dictionary(
        self, url: str, path: str, stat_cache: dict[str, Any] | None = None
    ) -> None:
        if not any(part in url for part in _HIDDEN):
            super().add_file_to_dictionary(url, path, stat_cache=stat_cache)

    @override
    def immutable_file_test(self, path: str, url: str) -> bool:
        """Return whether the address changes whenever the file does."""
        return url.startswith(f"{UI_PREFIX}static/")


class StaticFilesMiddleware(WhiteNoiseMiddleware):  # type: ignore[misc]  # untyped
    """Answers requests for static files, on WSGI and ASGI, without a thread hop."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        super().__init__(get_response)
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)
        if settings.MATYAN_ROLE != "frontier":
            root = package.find_root()
            if root is not None:
                self.files |= UiFiles(root).files

    @override
    def __call__(self, request: HttpRequest) -> Any:
        if self.is_async:
            return self._call_async(request)
        file = self._find(request)
        return self.get_response(request) if file is None else self.serve(file, request)

    async def _call_async(self, request: HttpRequest) -> HttpResponseBase:
        file = self._find(request)
        if file is None:
            return await cast("Awaitable[HttpResponseBase]", self.get_response(request))
        return await asyncio.to_thread(_serve_async, file, request)

    def _find(self, request: HttpRequest) -> StaticFile | None:
        path = request.path_info
        if path.startswith(UI_PREFIX):
            path = path.removesuffix("/")
        return cast("StaticFile | None", self.files.get(path))


def _serve_async(file: StaticFile, request: HttpRequest) -> HttpResponseBase:
    """Return the answer with the file's first block read: all of most files."""
    found = file.get_response(request.method or "", request.META)
    response: HttpResponseBase
    block = found.file.read(BLOCK_BYTES) if found.file else b""
    if len(block) < BLOCK_BYTES:
        if found.file:
            found.file.close()
        response = HttpResponse(block, status=int(found.status))
    else:
        body = _Blocks(block, found.file)
        response = StreamingHttpResponse(body, status=int(found.status))
    del response.headers["Content-Type"]
    for name, value in found.headers:
        response.headers[name] = value
    return response


class _Blocks:
    """The rest of a file as an asynchronous iterator; one block in memory."""

    def __init__(self, first: bytes, file: IO[bytes]) -> None:
        self._block = first
        self._file = file

    def __aiter__(self) -> _Blocks:
        return self

    async def __anext__(self) -> bytes:
        block = self._block
        if not block:
            raise StopAsyncIteration
        self._block = await asyncio.to_thread(self._file.read, BLOCK_BYTES)
        return block

    def close(self) -> None:
        """Close the file; Django calls this in any ending."""
        self._file.close()

"""The HTTP side of uploads: asks the gateway where bytes go, and puts them there.

    POST …/artifacts/presign               one PUT, or an upload in parts
    POST …/artifacts/multipart/sign        one part's address
    POST …/artifacts/multipart/parts       which parts have arrived
    POST …/artifacts/multipart/complete    make them the blob

Every wait is bounded, and every failure says whether trying again can help.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any, Final, TypeVar, cast

import httpx
import msgspec

from matyan_client import tls
from matyan_client.delivery.gateway import find_gateway
from matyan_client.urls import BaseUrl

CONNECT_TIMEOUT_S: Final = 10.0
PRESIGN_TIMEOUT_S: Final = 30.0
PUT_TIMEOUT_S: Final = 120.0
"""How long a PUT may stand still, in sending or before its answer."""

COMPLETE_TIMEOUT_S: Final = 600.0
"""Some stores copy all parts before they answer."""

_T = TypeVar("_T")

# 409: what the server still takes for the same upload, going on, ends by itself.
_FOR_LATER: Final = frozenset({408, 409, 425, 429})
_CLOSED_DOOR: Final = frozenset({401, 407})
_FOR_GOOD: Final = frozenset({413})


class UploadFailedError(Exception):
    """Trying again later may help.

    Attributes:
        slowly: Whether somebody must change something first.
    """

    def __init__(self, message: str, *, slowly: bool = False) -> None:
        super().__init__(message)
        self.slowly = slowly


class UploadRejectedError(Exception):
    """The address was not good; a new one may be."""


class UploadRefusedError(Exception):
    """The server does not want it; trying again is of no use."""


class Ticket(msgspec.Struct):
    """Where bytes are put with one PUT."""

    upload_url: str
    headers: dict[str, str] | None = None


class Parts(msgspec.Struct):
    """An upload in parts.

    Attributes:
        upload: What names it to the gateway.
        part_bytes: Size of all parts but the last.
        count: How many there are.
    """

    upload: str
    part_bytes: int
    count: int


class Permit(msgspec.Struct):
    """The gateway's answer to a request to upload: one of the two."""

    upload_url: str | None = None
    headers: dict[str, str] | None = None
    multipart: Parts | None = None


class Arrived(msgspec.Struct):
    """Which parts have arrived whole."""

    parts: list[int]
    count: int
    part_bytes: int


class Stored(msgspec.Struct):
    """What a store says of what it took; "" where it does not."""

    checksum: str = ""
    size: int | None = None


class BlobGateway:
    """The gateway of one run's uploads. Thread-safe; connects when it is used.

    Args:
        backend: The backend's address.
        frontier: The gateway's address, None to find it.
    """

    def __init__(self, *, backend: BaseUrl, frontier: BaseUrl | None) -> None:
        self._backend = backend
        self._given = frontier
        self._found: BaseUrl | None = None
        self._client: httpx.Client | None = None
        self._lock = threading.Lock()
        self._looking = threading.Lock()

    @property
    def address(self) -> BaseUrl:
        """The address that is asked."""
        return self._given or self._found or self._backend

    def presign(
        self, run_id: str, path: str, *, content_type: str, size: int, in_parts: bool
    ) -> Permit:
        """Ask to upload a blob; whether in parts is for the gateway to say.

        Raises:
            UploadFailedError, UploadRefusedError: As their names say.
        """
        body = {
            "run_id": run_id,
            "artifact_path": path,
            "content_type": content_type,
            "size": size,
            "multipart": in_parts,
        }
        asked = self._look()
        try:
            permit = self._ask("presign", body, Permit)
        except UploadRejectedError as error:
            if self._look() != asked:
                raise UploadFailedError(str(error)) from error
            raise UploadRefusedError(str(error)) from error
        if permit.upload_url is None and permit.multipart is None:
            msg = f"{self.address} answers without an address to upload to"
            raise UploadRefusedError(msg)
        return permit

    def sign_part(self, upload: str, number: int) -> Ticket:
        """Ask where a part goes.

        Raises:
            UploadFailedError, UploadRejectedError: As their names say.
        """
        return self._ask("multipart/sign", {"upload": upload, "number": number}, Ticket)

    def arrived(self, upload: str) -> Arrived:
        """Ask which parts have arrived.

        Raises:
            UploadFailedError, UploadRejectedError: As their names say.
        """
        return self._ask("multipart/parts", {"upload": upload}, Arrived)

    def complete(self, upload: str) -> Stored:
        """Have the parts made the blob.

        Raises:
            UploadFailedError, UploadRejectedError: As their names say.
        """
        return self._ask(
            "multipart/complete",
            {"upload": upload},
            Stored,
            timeout_s=COMPLETE_TIMEOUT_S,
        )

    def put(
        self,
        url: str,
        headers: dict[str, str] | None,
        chunks: Iterator[bytes],
        *,
        size: int,
        content_type: str,
    ) -> Stored:
        """Put bytes where a ticket leads.

        Raises:
            UploadFailedError, UploadRejectedError, UploadRefusedError: As their names
                say.
        """
        if url.startswith("/"):
            url = f"{self.address}{url}"
        fields = {
            "Content-Type": content_type,
            **(headers or {}),
            "Content-Length": str(size),
        }
        try:
            response = self._http().put(
                url, headers=fields, content=chunks, timeout=_timeout(PUT_TIMEOUT_S)
            )
        except httpx.InvalidURL as error:
            msg = f"the address to upload to is none: {error}"
            raise UploadRefusedError(msg) from error
        except httpx.HTTPError as error:
            raise _failure(_origin(url), error) from error
        _check(response, _origin(url))
        try:
            return msgspec.json.decode(response.content, type=Stored)
        except msgspec.MsgspecError:
            return Stored()  # other stores answer nothing, or XML

    def _ask(
        self,
        route: str,
        body: dict[str, Any],
        kind: type[_T],
        *,
        timeout_s: float | None = None,
    ) -> _T:
        address = self._look()
        url = address.rest(f"artifacts/{route}")
        try:
            response = self._http().post(
                url,
                json=body,
                headers=address.authorization(),
                timeout=_timeout(timeout_s or PRESIGN_TIMEOUT_S),
            )
        except httpx.HTTPError as error:
            self._found = None  # it may come back elsewhere
            raise _failure(str(address), error) from error
        if response.status_code == 404:
            self._found = None
        _check(response, str(address))
        try:
            return msgspec.json.decode(response.content, type=kind)
        except msgspec.MsgspecError as error:
            msg = f"{url} answers something else than an upload's address: {error}"
            raise UploadFailedError(msg, slowly=True) from error

    def _look(self) -> BaseUrl:
        with self._looking:
            if self._given is None and self._found is None:
                self._found = find_gateway(self._backend) or self._backend
            return self.address

    def _http(self) -> httpx.Client:
        with self._lock:
            if self._client is None:
                self._client = httpx.Client(
                    headers={"User-Agent": "matyan-client"},
                    verify=self._backend.tls.context(),
                    trust_env=not self.address.is_loopback,
                    follow_redirects=False,
                )
            return self._client

    def close(self) -> None:
        """Close the connections; they open again when needed."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def abandon(self) -> object:
        """Give the connections up, unclosed: a parent still uses them."""
        client, self._client = self._client, None
        return client


def _is_not_ours(record: logging.LogRecord) -> bool:
    # httpx tells every address it asks: those of uploads let anyone upload.
    return not (record.threadName or "").startswith("matyan-")


logging.getLogger("httpx").addFilter(_is_not_ours)


def _timeout(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=CONNECT_TIMEOUT_S, pool=None)


def _origin(url: str) -> str:
    return "/".join(url.split("/", 3)[:3])


def _failure(where: str, error: httpx.HTTPError) -> UploadFailedError:
    reason = str(error) or type(error).__name__
    text = f"{where} cannot be reached ({reason})"
    remedy = tls.remedy(error)
    return UploadFailedError(f"{text}. {remedy}" if remedy else text)


def _check(response: httpx.Response, where: str) -> None:
    """Raise what an answer that is no success means."""
    status = response.status_code
    if response.is_success:
        return
    text = f"{where} answers HTTP {status}: {_message(response)}"
    if status in _CLOSED_DOOR:
        text += ". Check the token (`token=`, MATYAN_TOKEN, or in the address)."
        raise UploadFailedError(text, slowly=True)
    if status >= 500 or status in _FOR_LATER:
        raise UploadFailedError(text)
    if status in _FOR_GOOD:
        raise UploadRefusedError(text)
    raise UploadRejectedError(text)


def _message(response: httpx.Response) -> str:
    try:
        answer: object = response.json()
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        fields = cast("dict[str, object]", answer)
        found = fields.get("message") or fields.get("detail")
        if found:
            return str(found)[:300]
    return response.text[:200] or response.reason_phrase

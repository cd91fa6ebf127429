"""Blobs in a container of Azure Blob Storage.

Needs `azure-storage-blob` (requirements-azure.txt), which nothing else imports. Clients
upload to Azure itself, with a shared access signature for one blob; Azure has no bound
on an upload's size to sign.

An upload in parts is a block blob whose blocks are not committed: Azure forgets them
after a week.

Design note: docs/subsystems/blobs.md#azure
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from azure.core.exceptions import AzureError, ResourceNotFoundError
from azure.storage.blob import (
    BlobBlock,
    BlobSasPermissions,
    ContainerClient,
    ContentSettings,
    generate_blob_sas,
)
from typing_extensions import override

from backend.blobs.base import (
    DEFAULT_CONTENT_TYPE,
    MAX_PARTS,
    BlobEntry,
    BlobStat,
    BlobStore,
    OpenBlob,
    Part,
    UploadTicket,
    check_parts,
)
from backend.blobs.chunk_file import ChunkFile
from backend.blobs.keys import check_key, check_prefix
from backend.errors import (
    BlobKeyError,
    BlobNotFoundError,
    BlobStoreError,
    BlobStoreUnavailableError,
    MultipartNotFoundError,
)

PIECE_BYTES: Final = 4 << 20
"""What one request brings or takes, and what is held in memory."""

# It would tell of every request.
logging.getLogger("azure.core.pipeline.policies.http_logging_policy").setLevel(
    logging.WARNING
)
_HEADERS: Final = {"x-ms-blob-type": "BlockBlob"}


class AzureBlobStore(BlobStore):
    """Blobs in one container, which must exist.

    Args:
        connection_string: With the account's name and key.
        container: Its name.
        public_url: URL of the account as clients reach it; "" for the same.
        connect_timeout_s: How long connecting may take.
        read_timeout_s: How long the server may send nothing.
        attempts: How often a request is made in all.

    Raises:
        BlobStoreError: If the connection string cannot be used.
    """

    max_single_bytes = 5000 << 20

    def __init__(  # noqa: PLR0913 - the settings of a container
        self,
        *,
        connection_string: str,
        container: str,
        public_url: str = "",
        connect_timeout_s: float = 5.0,
        read_timeout_s: float = 30.0,
        attempts: int = 3,
    ) -> None:
        try:
            self._container: Any = ContainerClient.from_connection_string(
                connection_string,
                container,
                connection_timeout=connect_timeout_s,
                read_timeout=read_timeout_s,
                retry_total=attempts - 1,
                max_block_size=PIECE_BYTES,
                max_single_put_size=PIECE_BYTES,
                max_single_get_size=PIECE_BYTES,
                max_chunk_get_size=PIECE_BYTES,
            )
            self._account_key: str = self._container.credential.account_key
        except (ValueError, AttributeError) as error:
            # The text of the error may quote the connection string.
            reason = "AZURE_CONN_STR needs AccountName, AccountKey and an endpoint"
            raise BlobStoreError(reason=reason) from error
        self._name = container
        base = public_url.rstrip("/")
        self._public_url = f"{base}/{container}" if base else str(self._container.url)

    # --- uploads by clients ----------------------------------------------------------

    @override
    def presign_upload(
        self,
        key: str,
        *,
        max_bytes: int,
        content_type: str,
        expires_s: int,
        exact: bool = False,
    ) -> UploadTicket:
        return UploadTicket(self._signed_url(key, expires_s=expires_s), _HEADERS)

    @override
    def presign_part(
        self, key: str, upload_id: str, number: int, *, size: int, expires_s: int
    ) -> UploadTicket:
        if not 1 <= number <= MAX_PARTS:
            raise BlobKeyError(key=str(number), reason=f"parts are 1 to {MAX_PARTS}")
        url = self._signed_url(key, expires_s=expires_s)
        block = quote(base64.b64encode(_block_id(number).encode()), safe="")
        return UploadTicket(f"{url}&comp=block&blockid={block}")

    @override
    def start_multipart(self, key: str, *, content_type: str) -> str:
        check_key(key)
        # Azure has no name for an upload; this one keeps what completing needs.
        return base64.urlsafe_b64encode(content_type.encode()).decode()

    @override
    def list_parts(self, key: str, upload_id: str) -> list[Part]:
        try:
            with self._translated(key=key) as blob:
                _, blocks = blob.get_block_list("uncommitted")
        except BlobNotFoundError:
            return []
        parts = [Part(int(block.id), block.size) for block in blocks]
        return sorted(parts, key=lambda part: part.number)

    @override
    def complete_multipart(self, key: str, upload_id: str, *, size: int) -> BlobStat:
        try:
            content_type = base64.urlsafe_b64decode(upload_id).decode()
        except (binascii.Error, UnicodeDecodeError, ValueError) as error:
            raise MultipartNotFoundError(upload_id=upload_id[:64]) from error
        known = self.stat(key)
        if known is not None and known.size == size:
            return known
        parts = self.list_parts(key, upload_id)
        check_parts(parts, size=size)
        blocks = [BlobBlock(_block_id(part.number)) for part in parts]
        with self._translated(key=key) as blob:
            settings = ContentSettings(content_type=content_type)
            blob.commit_block_list(blocks, content_settings=settings)
        return self._stat(key)

    @override
    def abort_multipart(self, key: str, upload_id: str) -> None:
        if not self.list_parts(key, upload_id) or self.stat(key) is not None:
            return
        # Committing others is the only way to drop blocks.
        with self._translated(key=key) as blob:
            blob.commit_block_list([])
        self.delete(key)

    # --- this server -----------------------------------------------------------------

    @override
    def put(
        self,
        key: str,
        chunks: Iterable[bytes],
        *,
        content_type: str = DEFAULT_CONTENT_TYPE,
        max_bytes: int | None = None,
    ) -> BlobStat:
        with self._translated(key=key) as blob:
            blob.upload_blob(
                ChunkFile(chunks, max_bytes=max_bytes),
                overwrite=True,
                content_settings=ContentSettings(content_type=content_type),
            )
        return self._stat(key)

    @override
    def stat(self, key: str) -> BlobStat | None:
        try:
            return self._stat(key)
        except BlobNotFoundError:
            return None

    @override
    def open(self, key: str, *, start: int = 0, stop: int | None = None) -> OpenBlob:
        stat = self._stat(key)
        end = stat.size if stop is None else min(max(stop, 0), stat.size)
        begin = min(max(start, 0), end)
        chunks: Iterator[bytes] = iter(())
        if begin < end:
            with self._translated(key=key) as blob:
                found = blob.download_blob(offset=begin, length=end - begin)
            chunks = self._iter_chunks(key, found)
        return OpenBlob(stat, chunks, start=begin, stop=end, close=lambda: None)

    @override
    def delete(self, key: str) -> None:
        with (
            contextlib.suppress(BlobNotFoundError),
            self._translated(key=key) as blob,
        ):
            blob.delete_blob()

    @override
    def iter_entries(self, prefix: str = "") -> Iterator[BlobEntry]:
        check_prefix(prefix)
        with self._translated():
            found = iter(self._container.list_blobs(name_starts_with=prefix or None))
        while True:
            with self._translated():
                item = next(found, None)
            if item is None:
                return
            modified_us = int(item.last_modified.timestamp() * 1e6)
            yield BlobEntry(item.name, item.size, modified_us)

    @override
    def abort_uploads(
        self, prefix: str, *, condemned: Callable[[str], bool] = lambda _key: True
    ) -> int:
        check_prefix(prefix)
        return 0

    @override
    def abort_stale(self, *, older_than_s: float) -> int:
        return 0

    @override
    def check(self) -> None:
        with self._translated():
            self._container.get_container_properties()

    @override
    def display_uri(self, key: str) -> str:
        check_key(key)
        return f"azure://{self._name}/{key}"

    @override
    def close(self) -> None:
        self._container.close()

    # --- inside ----------------------------------------------------------------------

    def _signed_url(self, key: str, *, expires_s: int) -> str:
        check_key(key)
        signature = generate_blob_sas(
            account_name=self._container.account_name,
            container_name=self._name,
            blob_name=key,
            account_key=self._account_key,
            permission=BlobSasPermissions(create=True, write=True),
            expiry=datetime.fromtimestamp(time.time_ns() // 10**9 + expires_s, UTC),
        )
        return f"{self._public_url}/{quote(key)}?{signature}"

    def _stat(self, key: str) -> BlobStat:
        with self._translated(key=key) as blob:
            found = blob.get_blob_properties()
        etag = str(found.etag or "").strip('"')
        content_type = found.content_settings.content_type or DEFAULT_CONTENT_TYPE
        return BlobStat(found.size, f"etag:{etag}" if etag else "", content_type)

    def _iter_chunks(self, key: str, found: Any) -> Iterator[bytes]:
        chunks = found.chunks()
        while True:
            with self._translated(key=key):
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk

    @contextlib.contextmanager
    def _translated(self, *, key: str | None = None) -> Iterator[Any]:
        """Give the client of a blob, and turn what it raises into our errors."""
        if key is not None:
            check_key(key)
        try:
            yield None if key is None else self._container.get_blob_client(key)
        except ResourceNotFoundError as error:
            if key is not None and error.error_code in {None, "BlobNotFound"}:
                raise BlobNotFoundError(key=key) from error
            reason = str(error.error_code or error.message)
            raise BlobStoreUnavailableError(reason=reason) from error
        except AzureError as error:
            raise BlobStoreUnavailableError(reason=str(error.message)) from error


def _block_id(number: int) -> str:
    """Return a block's id as the SDK takes it; on the wire it is in base64."""
    return f"{number:05d}"

"""Blobs in a bucket of S3, or of any server that speaks its protocol.

Clients upload to the server itself, with presigned addresses on `public_endpoint`.
Requests are signed with version 4 and path-style addresses; checksums are sent only
where the protocol demands them, which servers other than AWS need.

Design note: docs/subsystems/blobs.md#s3
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from typing_extensions import override

from backend.blobs.base import (
    CHUNK_BYTES,
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

PART_BYTES: Final = 8 << 20
"""What `put` holds in memory at a time."""

_CONNECTIONS: Final = 32
_ABSENT: Final = frozenset({"404", "NoSuchKey", "NotFound"})
_NO_UPLOAD: Final = frozenset({"NoSuchUpload"})
_NO_BULK: Final = frozenset(
    {"NotImplemented", "InvalidArgument", "InvalidRequest", "MalformedXML", "501"}
)


class S3BlobStore(BlobStore):
    """Blobs in one bucket, which must exist.

    Args:
        bucket: Its name.
        endpoint: URL of the server; "" for AWS.
        public_endpoint: URL of the server as clients reach it; "" for the same.
        access_key: "" for boto3's own chain of credentials.
        secret_key: Belongs to it.
        region: What requests are signed for.
        connect_timeout_s: How long connecting may take.
        read_timeout_s: How long the server may send nothing.
        attempts: How often a request is made in all.

    Raises:
        BlobStoreError: If the options make no client.
    """

    max_single_bytes = 5 << 30

    def __init__(  # noqa: PLR0913 - the settings of a bucket
        self,
        *,
        bucket: str,
        endpoint: str = "",
        public_endpoint: str = "",
        access_key: str = "",
        secret_key: str = "",
        region: str = "us-east-1",
        connect_timeout_s: float = 5.0,
        read_timeout_s: float = 30.0,
        attempts: int = 3,
    ) -> None:
        self._bucket = bucket
        config = Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            connect_timeout=connect_timeout_s,
            read_timeout=read_timeout_s,
            retries={"total_max_attempts": attempts, "mode": "standard"},
            max_pool_connections=_CONNECTIONS,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        options: dict[str, Any] = {
            "region_name": region,
            "aws_access_key_id": access_key or None,
            "aws_secret_access_key": secret_key or None,
            "config": config,
        }
        try:
            session = boto3.session.Session()
            self._client: Any = session.client(
                "s3", endpoint_url=endpoint or None, **options
            )
            # Signs only: it never connects.
            self._signer: Any = session.client(
                "s3", endpoint_url=public_endpoint or endpoint or None, **options
            )
        except (BotoCoreError, ValueError) as error:
            raise BlobStoreError(bucket=bucket, reason=str(error)) from error
        events = self._client.meta.events
        events.register("before-sign.s3.DeleteObjects", _sum_with_md5)
        self._has_bulk_delete = True

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
        check_key(key)
        # With its length signed, an upload of any other is answered 403.
        length = {"ContentLength": max_bytes} if exact else {}
        return self._ticket("put_object", expires_s, Key=key, **length)

    @override
    def presign_part(
        self, key: str, upload_id: str, number: int, *, size: int, expires_s: int
    ) -> UploadTicket:
        check_key(key)
        if not 1 <= number <= MAX_PARTS:
            raise BlobKeyError(key=str(number), reason=f"parts are 1 to {MAX_PARTS}")
        return self._ticket(
            "upload_part",
            expires_s,
            Key=key,
            UploadId=upload_id,
            PartNumber=number,
            ContentLength=size,
        )

    @override
    def start_multipart(self, key: str, *, content_type: str) -> str:
        check_key(key)
        with self._translated():
            answer = self._client.create_multipart_upload(
                Bucket=self._bucket, Key=key, ContentType=content_type
            )
        return str(answer["UploadId"])

    @override
    def list_parts(self, key: str, upload_id: str) -> list[Part]:
        check_key(key)
        return [Part(number, size) for number, size, _ in self._parts(key, upload_id)]

    @override
    def complete_multipart(self, key: str, upload_id: str, *, size: int) -> BlobStat:
        known = self.stat(key)
        if known is not None and known.size == size:
            return known  # an answer that was lost; not every server knows the upload
        found = self._parts(key, upload_id)
        check_parts([Part(number, bytes_) for number, bytes_, _ in found], size=size)
        parts = [{"PartNumber": number, "ETag": etag} for number, _, etag in found]
        with self._translated(upload_id=upload_id):
            self._client.complete_multipart_upload(
                Bucket=self._bucket,
                Key=key,
                UploadId=upload_id,
                MultipartUpload={"Parts": parts},
            )
        return self._stat(key)

    @override
    def abort_multipart(self, key: str, upload_id: str) -> None:
        check_key(key)
        with (
            contextlib.suppress(MultipartNotFoundError),
            self._translated(upload_id=upload_id),
        ):
            self._client.abort_multipart_upload(
                Bucket=self._bucket, Key=key, UploadId=upload_id
            )

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
        check_key(key)
        source = io.BufferedReader(ChunkFile(chunks, max_bytes=max_bytes), CHUNK_BYTES)
        config = TransferConfig(
            multipart_threshold=PART_BYTES,
            multipart_chunksize=PART_BYTES,
            use_threads=False,
        )
        with self._translated():
            self._client.upload_fileobj(
                source,
                self._bucket,
                key,
                ExtraArgs={"ContentType": content_type},
                Config=config,
            )
        return self._stat(key)

    @override
    def stat(self, key: str) -> BlobStat | None:
        check_key(key)
        try:
            return self._stat(key)
        except BlobNotFoundError:
            return None

    @override
    def open(self, key: str, *, start: int = 0, stop: int | None = None) -> OpenBlob:
        check_key(key)
        if start > 0 or stop is not None:
            return self._open_range(key, max(start, 0), stop)
        with self._translated(key=key):
            answer = self._client.get_object(Bucket=self._bucket, Key=key)
        size = answer["ContentLength"]
        return self._opened(answer, _described(answer, size), 0, size)

    @override
    def delete(self, key: str) -> None:
        check_key(key)
        with contextlib.suppress(BlobNotFoundError), self._translated(key=key):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    @override
    def delete_many(self, keys: Iterable[str]) -> None:
        doomed = list(keys)
        for first in range(0, len(doomed), 1000):
            some = doomed[first : first + 1000]
            if not (self._has_bulk_delete and self._delete_bulk(some)):
                super().delete_many(some)

    @override
    def iter_entries(self, prefix: str = "") -> Iterator[BlobEntry]:
        check_prefix(prefix)
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=prefix
        )
        found = iter(pages)
        while True:
            with self._translated():
                page = next(found, None)
            if page is None:
                return
            for item in page.get("Contents", ()):
                if item["Key"].endswith("/"):
                    continue  # a directory, to servers and consoles that have them
                yield BlobEntry(
                    item["Key"],
                    item["Size"],
                    int(item["LastModified"].timestamp() * 1e6),
                )

    @override
    def abort_uploads(
        self, prefix: str, *, condemned: Callable[[str], bool] = lambda _key: True
    ) -> int:
        check_prefix(prefix)
        return self._abort_all(prefix, lambda upload: condemned(upload["Key"]))

    @override
    def abort_stale(self, *, older_than_s: float) -> int:
        limit_s = time.time_ns() / 1e9 - older_than_s
        return self._abort_all("", lambda one: one["Initiated"].timestamp() < limit_s)

    @override
    def check(self) -> None:
        with self._translated():
            self._client.head_bucket(Bucket=self._bucket)

    @override
    def display_uri(self, key: str) -> str:
        check_key(key)
        return f"s3://{self._bucket}/{key}"

    @override
    def close(self) -> None:
        self._client.close()
        self._signer.close()

    # --- inside ----------------------------------------------------------------------

    def _ticket(self, operation: str, expires_s: int, **params: Any) -> UploadTicket:
        try:
            url = self._signer.generate_presigned_url(
                operation,
                Params={"Bucket": self._bucket, **params},
                ExpiresIn=expires_s,
                HttpMethod="PUT",
            )
        except (BotoCoreError, ValueError) as error:
            raise BlobStoreUnavailableError(reason=str(error)) from error
        return UploadTicket(url)

    def _parts(self, key: str, upload_id: str) -> list[tuple[int, int, str]]:
        with self._translated(upload_id=upload_id):
            pages = self._client.get_paginator("list_parts").paginate(
                Bucket=self._bucket, Key=key, UploadId=upload_id
            )
            # Sorted here: some servers list the tenth part before the second.
            return sorted(
                (part["PartNumber"], part["Size"], part["ETag"])
                for page in pages
                for part in page.get("Parts", ())
            )

    def _abort_all(self, prefix: str, wanted: Callable[[Any], bool]) -> int:
        with self._translated():
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=prefix
            )
            found = [
                (upload["Key"], upload["UploadId"])
                for page in pages
                for upload in page.get("Uploads", ())
                if upload["Key"].startswith(prefix) and wanted(upload)
            ]
        for key, upload_id in found:
            self.abort_multipart(key, upload_id)
        return len(found)

    def _stat(self, key: str) -> BlobStat:
        with self._translated(key=key):
            answer = self._client.head_object(Bucket=self._bucket, Key=key)
        return _described(answer, answer["ContentLength"])

    def _open_range(self, key: str, start: int, stop: int | None) -> OpenBlob:
        stat = self._stat(key)
        end = stat.size if stop is None else min(max(stop, 0), stat.size)
        begin = min(start, end)
        if begin == end:
            return OpenBlob(stat, iter(()), start=begin, stop=end, close=lambda: None)
        with self._translated(key=key):
            answer = self._client.get_object(
                Bucket=self._bucket, Key=key, Range=f"bytes={begin}-{end - 1}"
            )
        return self._opened(answer, stat, begin, end)

    def _opened(self, answer: Any, stat: BlobStat, start: int, stop: int) -> OpenBlob:
        body = answer["Body"]
        chunks = self._iter_body(body)
        return OpenBlob(stat, chunks, start=start, stop=stop, close=body.close)

    def _iter_body(self, body: Any) -> Iterator[bytes]:
        while True:
            with self._translated():
                chunk = body.read(CHUNK_BYTES)
            if not chunk:
                return
            yield chunk

    def _delete_bulk(self, keys: list[str]) -> bool:
        """Remove keys in one request; return whether the server can do that."""
        try:
            answer = self._client.delete_objects(
                Bucket=self._bucket,
                Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True},
            )
        except ClientError as error:
            if _code(error) not in _NO_BULK:
                raise _failure(error) from error
            self._has_bulk_delete = False
            return False
        except BotoCoreError as error:
            raise BlobStoreUnavailableError(reason=str(error)) from error
        failed = [e for e in answer.get("Errors", ()) if e.get("Code") not in _ABSENT]
        if failed:
            raise BlobStoreError(count=len(failed), reason=failed[0].get("Message", ""))
        return True

    @contextlib.contextmanager
    def _translated(self, **fields: Any) -> Iterator[None]:
        """Turn what boto3 raises into this layer's errors.

        What is absent is the error that the name in `fields` tells: `key` or
        `upload_id`.
        """
        try:
            yield
        except ClientError as error:
            code = _code(error)
            if "key" in fields and code in _ABSENT:
                raise BlobNotFoundError(**fields) from error
            if "upload_id" in fields and code in _NO_UPLOAD | _ABSENT:
                raise MultipartNotFoundError(**fields) from error
            raise _failure(error) from error
        except (BotoCoreError, boto3.exceptions.Boto3Error, OSError) as error:
            raise BlobStoreUnavailableError(reason=str(error)) from error


def _sum_with_md5(request: Any, **_: Any) -> None:
    """Give a bulk deletion the checksum that every server knows, not boto3's CRC.

    The protocol demands one; servers that do not know the newer ones refuse them.
    """
    for name in list(request.headers):
        if name.lower().startswith(("x-amz-checksum-", "x-amz-sdk-checksum-")):
            del request.headers[name]
    digest = hashlib.md5(request.body, usedforsecurity=False).digest()
    request.headers["Content-MD5"] = base64.b64encode(digest).decode()


def _described(answer: Any, size: int) -> BlobStat:
    etag = answer.get("ETag", "").strip('"')
    return BlobStat(
        size,
        f"etag:{etag}" if etag else "",
        answer.get("ContentType", DEFAULT_CONTENT_TYPE),
    )


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _failure(error: ClientError) -> BlobStoreError:
    """Return what a refusal means: the texts of servers never hold credentials."""
    described = error.response.get("Error", {})
    reason = f"{_code(error)}: {described.get('Message', '')}"
    return BlobStoreUnavailableError(reason=reason)

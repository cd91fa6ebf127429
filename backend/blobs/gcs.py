"""Blobs in a bucket of Google Cloud Storage, through its S3-compatible interface.

The bucket's project needs an HMAC key of a service account ("interoperability");
uploads are then presigned without asking Google, as for S3.

Design note: docs/subsystems/blobs.md#gcs
"""

from __future__ import annotations

from typing import Any, Final

from typing_extensions import override

from backend.blobs.keys import check_key
from backend.blobs.s3 import S3BlobStore

ENDPOINT: Final = "https://storage.googleapis.com"


class GcsBlobStore(S3BlobStore):
    """Blobs in one bucket, which must exist.

    Args:
        bucket: Its name.
        access_key: Id of the HMAC key.
        secret_key: Its secret.
        endpoint: URL of the service.
        options: Further options of `S3BlobStore`: timeouts, attempts.
    """

    max_single_bytes = 5 << 40

    def __init__(
        self,
        *,
        bucket: str,
        access_key: str = "",
        secret_key: str = "",
        endpoint: str = ENDPOINT,
        **options: Any,
    ) -> None:
        super().__init__(
            bucket=bucket,
            endpoint=endpoint,
            access_key=access_key,
            secret_key=secret_key,
            region="auto",
            **options,
        )

    @override
    def display_uri(self, key: str) -> str:
        check_key(key)
        return f"gs://{self._bucket}/{key}"

"""Blob URIs: what searches hand out for images and audio, and batches get back.

A URI is a signed token of (run, path, series, step): nobody can make one for a blob
they were not shown, and the same object has the same URI every time, so that caches
work. It names the object, not an upload: which upload that is gets decided when it is
used (`backend.services.blobs.find_object_keys`), after the caller's rights were
checked.

Design note: docs/subsystems/blobs.md#uris
"""

from __future__ import annotations

from typing import Final

import msgspec

from backend.blobs.signing import Signer
from backend.errors import TokenError
from matyan_wire.blob_paths import path_of_key

_MARK: Final = "b1_"
"""Begins every URI: readers of streams keep "progress…" for themselves."""


class BlobAddress(msgspec.Struct, array_like=True, frozen=True):
    """Which blob is meant.

    Attributes:
        run_id: The run.
        path: The path within the run: the object's `s3_key` after the run id.
        series_number: The object's series.
        step: The object's step.
    """

    run_id: str
    path: str
    series_number: int
    step: int

    @classmethod
    def of_key(
        cls, key: str, *, run_id: str, series_number: int, step: int
    ) -> BlobAddress | None:
        """Return the address of an object's `s3_key`; None if it is not of this run."""
        path = path_of_key(key, run_id=run_id)
        return None if path is None else cls(run_id, path, series_number, step)


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(BlobAddress)


class BlobUris:
    """Makes URIs and reads them. Any thread may use it.

    Args:
        secret: The installation's secret, the same on every server.
    """

    def __init__(self, secret: str) -> None:
        self._signer = Signer(secret, purpose="blob-uri")

    def encode(self, address: BlobAddress) -> str:
        """Return the URI of `address`: letters, digits, "-" and "_"."""
        return _MARK + self._signer.sign(_encoder.encode(address))

    def decode(self, uri: str) -> BlobAddress:
        """Return the address in a URI.

        Raises:
            TokenError: If this installation did not make it.
        """
        if not uri.startswith(_MARK):
            raise TokenError(reason="not a blob URI")
        return _decoder.decode(self._signer.verify(uri[len(_MARK) :]))

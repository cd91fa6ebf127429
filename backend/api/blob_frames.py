"""The bytes of images and audio as frames: one blob in hand, sent as it is read.

Design note: docs/subsystems/api.md#objects
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from backend.blobs.base import BlobStore, OpenBlob
from backend.blobs.uris import BlobAddress, BlobUris
from backend.errors import TokenError
from backend.services.blobs import find_object_keys, open_first
from backend.storage.factory import Store
from matyan_wire.tree_stream import encode_key, encode_tree

LOOKUP_URIS: Final = 256
"""URIs whose uploads are looked up together."""

_U32: Final = struct.Struct("<I")
_BYTES_TAG: Final = b"\x05"
_MAX_BYTES: Final = 2**32 - 2
"""Longest value a pair of the stream can have."""


@dataclass(frozen=True, slots=True)
class BlobReader:
    """Reads the blobs that URIs mean.

    Attributes:
        store: Knows the uploads.
        blobs: Has their bytes.
        uris: Reads URIs.
    """

    store: Store
    blobs: BlobStore
    uris: BlobUris

    def frames(self, uris: Iterable[str]) -> Iterator[bytes]:
        """Yield `{uri: bytes}` in the order of `uris`, each once.

        URIs that this installation did not make are left out. A blob that is not there
        yet, or is too long for the stream (4 GiB), is empty.

        Raises:
            BlobStoreError: If the store fails: an answer that is cut off, not one with
                holes.
        """
        addressed = ((uri, self._address(uri)) for uri in dict.fromkeys(uris))
        known = ((uri, address) for uri, address in addressed if address is not None)
        while batch := list(islice(known, LOOKUP_URIS)):
            keys = find_object_keys(self.store, [address for _, address in batch])
            for uri, address in batch:
                yield from self._blob(uri, keys[address])

    def _address(self, uri: str) -> BlobAddress | None:
        try:
            return self.uris.decode(uri)
        except TokenError:
            return None

    def _blob(self, uri: str, keys: Sequence[str]) -> Iterator[bytes]:
        blob = open_first(self.blobs, keys)
        if blob is None:
            yield encode_tree({uri: b""})
            return
        with blob:
            yield from _pair(uri, blob)


def _pair(uri: str, blob: OpenBlob) -> Iterator[bytes]:
    size = blob.stat.size
    if size > _MAX_BYTES:
        yield encode_tree({uri: b""})
        return
    path = encode_key(uri)
    yield _U32.pack(len(path)) + path + _U32.pack(size + 1) + _BYTES_TAG
    yield from blob

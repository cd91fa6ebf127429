"""Signed tokens: what this server allowed, carried by the client.

A token is `base64url(payload + HMAC-SHA256(key, payload)[:20])`; `key` is derived from
the installation's secret and the purpose, so a token of one purpose is nothing to
another. Compared in constant time.

Design note: docs/subsystems/blobs.md#tokens
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

import msgspec

from backend.errors import TokenError

_MAC_BYTES: Final = 20
MAX_TOKEN_CHARS: Final = 8192


class Signer:
    """Signs and verifies bytes for one purpose.

    Args:
        secret: The installation's secret; not empty.
        purpose: What tokens are for; part of the key.
    """

    def __init__(self, secret: str, *, purpose: str) -> None:
        if not secret:
            msg = "A secret is needed to sign with"
            raise ValueError(msg)
        self._key = hmac.digest(secret.encode(), f"matyan/{purpose}".encode(), "sha256")

    def sign(self, payload: bytes) -> str:
        """Return the token of `payload`; the same one every time."""
        return (
            base64.urlsafe_b64encode(payload + self._mac(payload)).rstrip(b"=").decode()
        )

    def verify(self, token: str) -> bytes:
        """Return the payload of a token.

        Raises:
            TokenError: If this signer did not make it.
        """
        if len(token) > MAX_TOKEN_CHARS or not token.isascii():
            raise TokenError(reason="not a token")
        try:
            padded = token + "=" * (-len(token) % 4)
            raw = base64.b64decode(padded, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise TokenError(reason="not a token") from error
        payload, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(payload)):
            raise TokenError(reason="altered")
        return payload

    def _mac(self, payload: bytes) -> bytes:
        return hmac.digest(self._key, payload, hashlib.sha256)[:_MAC_BYTES]


class UploadGrant(msgspec.Struct, array_like=True, frozen=True):
    """What an upload token allows.

    Attributes:
        key: The blob to be.
        max_bytes: Largest upload.
        expires_us: When it ends, microseconds since the epoch.
        content_type: Stored with the blob.
        exact: Whether the upload has exactly `max_bytes` bytes.
        upload_id: Of an upload in parts, else "".
        part: The part's number, else 0.
    """

    key: str
    max_bytes: int
    expires_us: int
    content_type: str = ""
    exact: bool = False
    upload_id: str = ""
    part: int = 0


class MultipartGrant(msgspec.Struct, array_like=True, frozen=True):
    """An upload in parts that a client has begun.

    Attributes:
        key: The blob to be.
        upload_id: The store's id of the upload.
        size: The blob's bytes.
        part_bytes: Size of all parts but the last.
        expires_us: When no more parts are signed.
    """

    key: str
    upload_id: str
    size: int
    part_bytes: int
    expires_us: int

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return max(1, -(-self.size // self.part_bytes))

    def part_size(self, number: int) -> int:
        """Return the bytes of part `number`, from 1."""
        return min(self.part_bytes, self.size - (number - 1) * self.part_bytes)


_encoder: Final = msgspec.msgpack.Encoder()
_upload_decoder: Final = msgspec.msgpack.Decoder(UploadGrant)
_multipart_decoder: Final = msgspec.msgpack.Decoder(MultipartGrant)


class UploadTokens:
    """Tokens of single PUTs to this server."""

    def __init__(self, secret: str) -> None:
        self._signer = Signer(secret, purpose="upload")

    def encode(self, grant: UploadGrant) -> str:
        """Return the token of `grant`."""
        return self._signer.sign(_encoder.encode(grant))

    def decode(self, token: str, *, now_us: int) -> UploadGrant:
        """Return what `token` allows.

        Raises:
            TokenError: If it is altered or has expired.
        """
        grant = _upload_decoder.decode(self._signer.verify(token))
        _check_time(grant.expires_us, now_us)
        return grant


class MultipartTokens:
    """Tokens of uploads in parts, whichever store they go to."""

    def __init__(self, secret: str) -> None:
        self._signer = Signer(secret, purpose="multipart")

    def encode(self, grant: MultipartGrant) -> str:
        """Return the token of `grant`."""
        return self._signer.sign(_encoder.encode(grant))

    def decode(self, token: str, *, now_us: int) -> MultipartGrant:
        """Return the upload that `token` stands for.

        Raises:
            TokenError: If it is altered or has expired.
        """
        grant = _multipart_decoder.decode(self._signer.verify(token))
        _check_time(grant.expires_us, now_us)
        return grant


def _check_time(expires_us: int, now_us: int) -> None:
    if now_us >= expires_us:
        raise TokenError(reason="expired")

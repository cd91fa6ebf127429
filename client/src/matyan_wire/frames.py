"""Frames of subprotocol `matyan.v2`: one byte of header, then a `Batch`.

Header 0: the batch's MessagePack bytes follow as they are. Header 1: one zstd frame of
them follows, which declares its content size. Other values are reserved.

Acknowledgements are text frames of JSON, one for each frame received, in order:
`{"status": "ok", "seq": n, "epoch": e}` or
`{"status": "error", "seq": n, "epoch": e, "error": "...", "retry": bool}`, with null
for what could not be read. `retry` true: nothing is known to be stored, send the frame
again. `retry` false: sending it again would fail again; what the error does not name
has been stored.

Limits: `limits.MAX_FRAME_BYTES` before and after decompression.
Design note: docs/subsystems/wire.md#binary-frames
"""

from __future__ import annotations

from typing import Final

from matyan_wire import limits

SUBPROTOCOL: Final = "matyan.v2"

PLAIN: Final = 0
ZSTD: Final = 1

WINDOW_FRAMES: Final = 16
"""Frames a gateway lets a connection have unacknowledged before it stops reading. A
client should stay at or below it: a connection that is not read answers no pings."""

WINDOW_BYTES: Final = 16 * 1024 * 1024
"""The same in bytes of uncompressed frames; one larger frame is taken on its own."""

_PLAIN_HEADER: Final = bytes([PLAIN])
_ZSTD_HEADER: Final = bytes([ZSTD])


class FrameError(ValueError):
    """The bytes are not a frame; the text says why."""


def encode_frame(batch: bytes, *, zstd_level: int | None = None) -> bytes:
    """Return the frame around an encoded batch.

    Args:
        batch: What `batch.encode_batch` returned.
        zstd_level: Compress at this level; None leaves the bytes as they are. Needs
            the `zstandard` package.
    """
    if zstd_level is None:
        return _PLAIN_HEADER + batch
    # Imported here: a client which never compresses needs no zstandard.
    import zstandard  # noqa: PLC0415

    return _ZSTD_HEADER + zstandard.ZstdCompressor(level=zstd_level).compress(batch)


def content_bytes(frame: bytes) -> int:
    """Return the size of the batch in `frame` without decompressing it.

    Raises:
        FrameError: If the header is unknown, the zstd frame does not declare its
            content size, or the batch is over `limits.MAX_FRAME_BYTES`.
    """
    if not frame:
        msg = "empty frame"
        raise FrameError(msg)
    if frame[0] == PLAIN:
        return _within_limit(len(frame) - 1)
    if frame[0] == ZSTD:
        return _within_limit(_zstd_content_bytes(frame))
    msg = f"unknown frame header {frame[0]}; this server knows 0 (plain) and 1 (zstd)"
    raise FrameError(msg)


def decode_frame(frame: bytes) -> bytes | memoryview:
    """Return the encoded batch in `frame`, without copying what is not compressed.

    Raises:
        FrameError: As `content_bytes`, or if the zstd frame is damaged.
    """
    size = content_bytes(frame)
    if frame[0] == PLAIN:
        return memoryview(frame)[1:]
    import zstandard  # noqa: PLC0415

    try:
        content = zstandard.ZstdDecompressor(
            max_window_size=limits.MAX_FRAME_BYTES
        ).decompress(memoryview(frame)[1:], max_output_size=size)
    except zstandard.ZstdError as error:
        msg = f"damaged zstd frame: {error}"
        raise FrameError(msg) from error
    return content


def _within_limit(size: int) -> int:
    if size > limits.MAX_FRAME_BYTES:
        msg = f"batch of {size} bytes; the limit is {limits.MAX_FRAME_BYTES}"
        raise FrameError(msg)
    return size


def _zstd_content_bytes(frame: bytes) -> int:
    import zstandard  # noqa: PLC0415

    try:
        size = zstandard.get_frame_parameters(memoryview(frame)[1:]).content_size
    except zstandard.ZstdError as error:
        msg = f"damaged zstd frame: {error}"
        raise FrameError(msg) from error
    # An undeclared size would have to be found out by decompressing, which is what a
    # bound on memory has to avoid.
    if size in {zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR}:
        msg = "zstd frame does not declare its content size"
        raise FrameError(msg)
    return int(size)

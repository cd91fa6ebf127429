"""Image and audio files: what format they are, and files made from arrays.

Arrays become files without any library: PNG from pixels, WAV from samples. Nothing here
decodes a picture; of a file's header only format and size are read.
"""

from __future__ import annotations

import io
import struct
import wave
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Samples = NDArray[np.int16]

MAX_CHANNELS: Final = 32
"""Of audio; the shorter side of a 2-D array, if it is no longer than this."""

_PNG_COLOURS: Final = {1: 0, 2: 4, 3: 2, 4: 6}
_PNG_UP: Final = b"\x02"


class ImageHeader(NamedTuple):
    """What an image file says of itself; None where it is not known."""

    format: str | None
    width: int | None = None
    height: int | None = None


def read_image_header(data: bytes) -> ImageHeader:
    """Return what the first bytes of an image file tell."""
    if data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) >= 24:
        return ImageHeader("png", *struct.unpack_from(">II", data, 16))
    if data[:6] in {b"GIF87a", b"GIF89a"} and len(data) >= 10:
        return ImageHeader("gif", *struct.unpack_from("<HH", data, 6))
    if data.startswith(b"BM") and len(data) >= 26:
        width, height = struct.unpack_from("<ii", data, 18)
        return ImageHeader("bmp", width, abs(height))
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg_header(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp_header(data)
    return ImageHeader(None)


def _jpeg_header(data: bytes) -> ImageHeader:
    """Go from marker to marker until the one that begins a frame."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return ImageHeader("jpeg", width, height)
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return ImageHeader("jpeg")


def _webp_header(data: bytes) -> ImageHeader:
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        return ImageHeader("webp")
    if kind == b"VP8X":
        width = int.from_bytes(body[4:7], "little") + 1
        return ImageHeader("webp", width, int.from_bytes(body[7:10], "little") + 1)
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return ImageHeader("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    width, height = struct.unpack_from("<HH", body, 6)
    return ImageHeader("webp", width & 0x3FFF, height & 0x3FFF)


def audio_format(data: bytes) -> str:
    """Return the format an audio file's first bytes tell, "" if they do not."""
    if data.startswith(b"RIFF") and data[8:12] == b"WAVE":
        return "wav"
    if data.startswith(b"ID3") or (
        len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0
    ):
        return "mp3"
    if data.startswith(b"fLaC"):
        return "flac"
    return "ogg" if data.startswith(b"OggS") else ""


def as_array(value: object) -> NDArray[Any] | None:
    """Return `value` as an array if it is one, or a tensor that can become one.

    None when it is neither. A tensor on another device is copied from there.

    Raises:
        TypeError: If it is one and cannot be read.
    """
    if not hasattr(value, "__array__") and not hasattr(value, "__array_interface__"):
        return None
    import numpy as np  # noqa: PLC0415 - only who has arrays has numpy

    for step in ("detach", "cpu"):  # torch
        method = getattr(value, step, None)
        if callable(method):
            value = method()
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        msg = f"a {type(value).__name__} cannot be read as an array: {error}"
        raise TypeError(msg) from error


def to_pixels(array: NDArray[Any]) -> Pixels:
    """Return the pixels of an array as bytes, (height, width, channels).

    Taken are (height, width), (height, width, channels) and, as torch has it,
    (channels, height, width), with 1 to 4 channels. Booleans are black and white;
    floats are 0…1 unless one is greater than 1, then 0…255; what is outside is cut, NaN
    is black.

    Raises:
        ValueError: If the shape is none of these.
        TypeError: If the values are no numbers.
    """
    import numpy as np  # noqa: PLC0415 - only who has arrays has numpy

    pixels: NDArray[Any] = array[..., np.newaxis] if array.ndim == 2 else array
    if pixels.ndim == 3 and pixels.shape[2] > 4 and 1 <= pixels.shape[0] <= 4:
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4 or not pixels.size:
        msg = (
            f"an array of shape {array.shape} is no image: (height, width), "
            "(height, width, 1 to 4) or (1 to 4, height, width)"
        )
        raise ValueError(msg)
    if pixels.dtype.kind not in "buif":
        msg = f"an array of {pixels.dtype} is no image"
        raise TypeError(msg)
    if pixels.dtype == np.uint8:
        return cast("Pixels", pixels)
    scale = 1
    if pixels.dtype.kind == "f":
        pixels = np.nan_to_num(pixels.astype(np.float64), posinf=255, neginf=0)
        scale = 255 if float(pixels.max()) <= 1 else 1
    elif pixels.dtype.kind == "b":
        scale = 255
    wide: NDArray[np.float64] = np.rint(pixels * np.float64(scale))
    return wide.clip(0, 255).astype(np.uint8)


def encode_png(pixels: Pixels, *, level: int = 6) -> bytes:
    """Return pixels (height, width, channels) as a PNG file."""
    import numpy as np  # noqa: PLC0415 - only who has arrays has numpy

    height, width, channels = pixels.shape
    rows = np.reshape(np.ascontiguousarray(pixels), (height, width * channels))
    # Each row as the difference to the one above: compresses pictures well.
    filtered = np.empty((height, 1 + width * channels), np.uint8)
    filtered[:, 0] = _PNG_UP[0]
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    head = struct.pack(">IIBBBBB", width, height, 8, _PNG_COLOURS[channels], 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _png_chunk(b"IHDR", head),
            _png_chunk(b"IDAT", zlib.compress(filtered.tobytes(), level)),
            _png_chunk(b"IEND", b""),
        )
    )


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(body, zlib.crc32(kind))
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def to_samples(array: NDArray[Any]) -> Samples:
    """Return an array as 16-bit samples, (frames, channels).

    Taken are (frames), (frames, channels) and (channels, frames): the shorter side is
    the channels. Floats are -1…1; louder ones are scaled down to that. Integers keep
    their loudness.

    Raises:
        ValueError: If the shape is none of these.
        TypeError: If the values are no numbers.
    """
    import numpy as np  # noqa: PLC0415 - only who has arrays has numpy

    samples: Any = array[:, np.newaxis] if array.ndim == 1 else array
    if samples.ndim == 2 and samples.shape[0] < samples.shape[1]:
        samples = samples.T
    if samples.ndim != 2 or not 1 <= samples.shape[1] <= MAX_CHANNELS:
        msg = (
            f"an array of shape {array.shape} is no sound: (frames) or two-dimensional"
        )
        raise ValueError(msg)
    kind, bits = samples.dtype.kind, 8 * samples.dtype.itemsize
    if kind == "f":
        samples = np.nan_to_num(samples.astype(np.float64), posinf=1, neginf=-1)
        peak = max(1.0, float(np.abs(samples).max(initial=0)))
        samples = np.rint(samples * (32767 / peak))
    elif kind in "iu":
        centre = 2.0 ** (bits - 1) if kind == "u" else 0.0
        samples = np.floor((samples.astype(np.float64) - centre) * 2.0 ** (16 - bits))
    else:
        msg = f"an array of {array.dtype} is no sound"
        raise TypeError(msg)
    return cast("Samples", samples.clip(-32768, 32767).astype(np.int16))


def encode_wav(samples: Samples, *, rate: int) -> bytes:
    """Return 16-bit samples (frames, channels) as a WAV file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return buffer.getvalue()


def decode_wav(data: bytes) -> tuple[Samples, int]:
    """Return the samples (frames, channels) of a 16-bit WAV file, and its rate.

    Raises:
        ValueError: If it is something else.
    """
    import numpy as np  # noqa: PLC0415 - an extra

    try:
        with wave.open(io.BytesIO(data)) as file:
            channels, width, rate = file.getparams()[:3]
            frames = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        msg = f"not a WAV file: {error}"
        raise ValueError(msg) from error
    if width != 2:
        msg = f"samples of {8 * width} bits; only 16 are read here"
        raise ValueError(msg)
    samples: Samples = np.frombuffer(frames, np.int16)
    return np.reshape(samples, (-1, channels)), rate


def content_type(kind: str, file_format: str) -> str:
    """Return the content type of an image or audio file of a format."""
    return _CONTENT_TYPES.get((kind, file_format.lower()), "application/octet-stream")


def _types(kind: str, prefix: str, names: Sequence[str]) -> dict[tuple[str, str], str]:
    return {(kind, name): f"{prefix}/{name}" for name in names}


_CONTENT_TYPES: Final = {
    **_types("image", "image", ("png", "jpeg", "gif", "bmp", "webp")),
    **_types("audio", "audio", ("wav", "flac", "ogg")),
    ("image", "jpg"): "image/jpeg",
    ("audio", "mp3"): "audio/mpeg",
}

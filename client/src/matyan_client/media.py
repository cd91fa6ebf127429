"""Images and audio: values of `track()` whose bytes are uploaded.

The file is made when the object is; what becomes of the array, path or file object
afterwards does not matter. `track()` keeps the bytes in the local log until they are
uploaded.
"""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Final, cast

from typing_extensions import override

from matyan_client import media_files

MAX_MEDIA_BYTES: Final = 256 * 1024 * 1024
"""Of one image or sound: it is held in memory once. Larger files are artifacts."""

DEFAULT_RATE: Final = 22_050

_PNG: Final = "png"


class Media:
    """An object whose bytes go to the blob store.

    Attributes:
        kind: Which sequence it belongs to, as the REST endpoints name them.
        data: The file's bytes.
        format: Its format in small letters, "" if it is not known.
        caption: What is shown with it.
    """

    kind: ClassVar[str]
    type_name: ClassVar[str]

    def __init__(self, data: bytes, file_format: str, caption: object) -> None:
        if len(data) > MAX_MEDIA_BYTES:
            msg = (
                f"{len(data)} bytes; an object has at most {MAX_MEDIA_BYTES}. Larger "
                "files can be logged as artifacts."
            )
            raise ValueError(msg)
        self.data = data
        self.format = file_format.lower().lstrip(".")
        self.caption = str(caption)

    @property
    def content_type(self) -> str:
        """Content type of `data`."""
        return media_files.content_type(self.type_name, self.format)

    def json(self) -> dict[str, Any]:
        """Return what is stored beside the bytes."""
        return {"type": self.type_name, "format": self.format, "caption": self.caption}


class Image(Media):
    """An image.

    Args:
        image: A file's bytes, path or file object; a PIL image; an array or tensor of
            pixels (height × width, × 1 to 4 channels, or channels first); a matplotlib
            figure. Files are kept as they are.
        caption: Shown with it.
        format_: Of the file made from a PIL image or an array, "png" by default; of
            what is a file already, its format if that cannot be seen. Other formats
            than PNG need Pillow.
        quality: Of formats that lose, 1 to 100.
        optimize: Whether to look longer for a smaller file.

    Raises:
        TypeError: If it is none of those.
        ValueError: If it cannot be an image or is larger than 256 MiB.
        OSError: If the file cannot be read.
    """

    kind: ClassVar[str] = "images"
    type_name: ClassVar[str] = "image"

    def __init__(
        self,
        image: object,
        caption: object = "",
        format_: str | None = None,
        quality: int = 90,
        optimize: bool = False,  # noqa: FBT001, FBT002 - the published signature
    ) -> None:
        wanted = (format_ or "").lower().lstrip(".")
        data = _read_file(image)
        if data is None:
            data = _drawn(image, wanted or _PNG, quality=quality, optimize=optimize)
        header = media_files.read_image_header(data)
        suffix = _suffix(image)
        super().__init__(data, header.format or wanted or suffix or _PNG, caption)
        self.width = header.width
        self.height = header.height

    @override
    def json(self) -> dict[str, Any]:
        """Return what is stored beside the bytes."""
        return {**super().json(), "width": self.width, "height": self.height}

    def to_pil_image(self) -> Any:
        """Return it as a PIL image.

        Raises:
            ImportError: If Pillow is not installed.
        """
        return open_pil_image(self.data)


class Audio(Media):
    """A sound.

    Args:
        data: A file's bytes, path or file object; an array or tensor of samples
            (frames, or frames × channels either way round). Files are kept as they
            are; arrays become 16-bit WAV.
        format_: Format of a file, if that cannot be seen.
        caption: Shown with it.
        rate: Frames per second of an array, 22,050 by default.

    Raises:
        TypeError: If it is none of those.
        ValueError: If it cannot be a sound or is larger than 256 MiB.
        OSError: If the file cannot be read.
    """

    kind: ClassVar[str] = "audios"
    type_name: ClassVar[str] = "audio"

    def __init__(
        self,
        data: object,
        format_: str = "",
        caption: object = "",
        rate: int | None = None,
    ) -> None:
        content = _read_file(data)
        self.rate = rate
        if content is None:
            array = media_files.as_array(data)
            if array is None:
                msg = (
                    f"a {type(data).__name__} is no sound: give bytes, a path, a file "
                    "object or an array of samples"
                )
                raise TypeError(msg)
            self.rate = DEFAULT_RATE if rate is None else int(rate)
            content = media_files.encode_wav(
                media_files.to_samples(array), rate=self.rate
            )
        seen = media_files.audio_format(content)
        super().__init__(content, seen or format_ or _suffix(data), caption)

    @override
    def json(self) -> dict[str, Any]:
        """Return what is stored beside the bytes."""
        return {**super().json(), "rate": self.rate}


def open_pil_image(data: bytes) -> Any:
    """Return an image file as a PIL image.

    Raises:
        ImportError: If Pillow is not installed.
    """
    return _pillow().open(io.BytesIO(data))


def _pillow() -> Any:
    try:
        return importlib.import_module("PIL.Image")
    except ImportError as error:
        msg = "this needs Pillow: pip install pillow"
        raise ImportError(msg) from error


def _read_file(value: object) -> bytes | None:
    """Return the bytes of what is a file; None for what is something else."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(cast("bytes", value))
    if isinstance(value, (str, os.PathLike)):
        return Path(cast("str | os.PathLike[str]", value)).read_bytes()
    read = getattr(value, "read", None)
    if not callable(read):
        return None
    content = cast("Callable[[], object]", read)()
    if not isinstance(content, bytes):
        msg = "the file object gives no bytes; open it in binary mode"
        raise TypeError(msg)
    return content


def _suffix(value: object) -> str:
    if isinstance(value, (str, os.PathLike)):
        return Path(cast("str | os.PathLike[str]", value)).suffix.lstrip(".").lower()
    return ""


def _drawn(image: object, wanted: str, *, quality: int, optimize: bool) -> bytes:
    """Return the file of something that is no file yet."""
    savefig = getattr(image, "savefig", None)
    if callable(savefig):
        buffer = io.BytesIO()
        savefig(buffer, format="jpg" if wanted == "jpeg" else wanted)
        return buffer.getvalue()
    if hasattr(image, "save") and hasattr(image, "getbands"):  # PIL, before arrays
        return _saved(image, wanted, quality=quality, optimize=optimize)
    array = media_files.as_array(image)
    if array is None:
        msg = (
            f"a {type(image).__name__} is no image: give bytes, a path, a file object, "
            "a PIL image, an array of pixels or a matplotlib figure"
        )
        raise TypeError(msg)
    pixels = media_files.to_pixels(array)
    if wanted == _PNG:
        return media_files.encode_png(pixels, level=9 if optimize else 6)
    flat = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    drawn = _pillow().fromarray(flat)
    return _saved(drawn, wanted, quality=quality, optimize=optimize)


def _saved(image: Any, wanted: str, *, quality: int, optimize: bool) -> bytes:
    name = "JPEG" if wanted == "jpg" else wanted.upper()
    if name == "JPEG" and image.mode not in {"L", "RGB", "CMYK"}:
        image = image.convert("RGB")
    buffer = io.BytesIO()
    try:
        image.save(buffer, format=name, quality=quality, optimize=optimize)
    except (KeyError, OSError) as error:
        msg = f"the image cannot be saved as {name}: {error}"
        raise ValueError(msg) from error
    return buffer.getvalue()

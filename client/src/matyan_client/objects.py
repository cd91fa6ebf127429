"""Values of `track()` that travel inline: texts, distributions, figures.

Each becomes the dict the server stores. Images and audio are in `media`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Final, Protocol, cast

from matyan_client import attributes
from matyan_wire.limits import MAX_OBJECT_BYTES
from matyan_wire.payloads import encode_bounded

MAX_BINS: Final = 512


class TrackedObject(Protocol):
    """A value that is stored whole.

    Attributes:
        kind: Which sequence it belongs to, as the REST endpoints name them.
    """

    kind: ClassVar[str]

    def json(self) -> dict[str, Any]:
        """Return what is stored."""
        ...


class Text:
    """A text; anything else is turned into one."""

    kind: ClassVar[str] = "texts"

    def __init__(self, text: object) -> None:
        self.data = str(text)

    def json(self) -> dict[str, Any]:
        """Return what is stored."""
        return {"type": "text", "data": self.data}


class Distribution:
    """A histogram.

    Args:
        samples: Numbers to count; NaN and infinities are left out.
        bin_count: Bins to count them into, 1 to 512.
        hist: Counts of a histogram made elsewhere, in place of `samples`.
        bin_range: Its lowest and highest edge.

    Raises:
        TypeError: If neither samples nor a histogram is given, or both.
        ValueError: If the bins or the range make no sense.
    """

    kind: ClassVar[str] = "distributions"

    def __init__(
        self,
        samples: Iterable[Any] | None = None,
        bin_count: int = 64,
        *,
        hist: Iterable[Any] | None = None,
        bin_range: Sequence[float] | None = None,
    ) -> None:
        if (samples is None) == (hist is None):
            msg = "give either samples or hist= with bin_range="
            raise TypeError(msg)
        if hist is not None:
            self.weights = _numbers(hist)
            if bin_range is None or len(bin_range) != 2 or not self.weights:
                msg = "hist= needs at least one bin and bin_range=(low, high)"
                raise ValueError(msg)
            self.bin_range = (float(bin_range[0]), float(bin_range[1]))
        else:
            if not 1 <= bin_count <= MAX_BINS:
                msg = f"bin_count is {bin_count}, it must be 1 to {MAX_BINS}"
                raise ValueError(msg)
            numbers = _numbers(cast("Iterable[Any]", samples))
            self.weights, self.bin_range = _histogram(numbers, bin_count)

    @classmethod
    def from_samples(cls, samples: Iterable[Any], bin_count: int = 64) -> Distribution:
        """Return the histogram of `samples`."""
        return cls(samples, bin_count)

    @classmethod
    def from_histogram(
        cls, hist: Iterable[Any], bin_range: Sequence[float]
    ) -> Distribution:
        """Return a histogram made elsewhere."""
        return cls(hist=hist, bin_range=bin_range)

    @property
    def bin_count(self) -> int:
        """Number of bins."""
        return len(self.weights)

    def json(self) -> dict[str, Any]:
        """Return what is stored."""
        return {
            "type": "distribution",
            "bin_count": self.bin_count,
            "range": list(self.bin_range),
            "data": self.weights,
        }


class Figure:
    """A Plotly figure: the figure itself, a matplotlib one, or its dict.

    Raises:
        TypeError: If it is none of those.
    """

    kind: ClassVar[str] = "figures"

    def __init__(self, figure: object) -> None:
        self.data = _figure_dict(figure)

    def json(self) -> dict[str, Any]:
        """Return what is stored."""
        return {"type": "figure", "data": self.data}


def encode_object(value: TrackedObject) -> bytes:
    """Return the wire bytes of an object.

    Raises:
        ValueError: If it is too large.
    """
    try:
        return encode_stored(value.json())
    except (ValueError, TypeError) as error:
        msg = f"the {type(value).__name__} cannot be stored: {error}"
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(msg) from error


def encode_stored(value: Any) -> bytes:
    """Return the wire bytes of what is stored of an object, or of a list of them.

    Raises:
        ValueError: If it is too large.
        TypeError: If something in it cannot be stored.
    """
    return encode_bounded(value, max_bytes=MAX_OBJECT_BYTES)


WRAPPERS: Final = {
    "plotly": "Figure(fig)",
    "matplotlib": "Figure(fig), or Image(fig) for a picture",
    "PIL": "Image(picture)",
}
"""Top-level module of an object -> how it is tracked."""


def how_to_wrap(value: object) -> str | None:
    """Return what to say of an object that is tracked once it is wrapped."""
    module = type(value).__module__
    wrapped = WRAPPERS.get(module.partition(".")[0])
    if wrapped is None:
        return None
    return f"a {module}.{type(value).__qualname__} is tracked as {wrapped}; wrap it"


def _numbers(values: Iterable[Any]) -> list[float]:
    flat = getattr(values, "flatten", None)  # numpy, torch: any shape
    tolist = getattr(flat() if callable(flat) else values, "tolist", None)
    plain = cast("Iterable[Any]", tolist() if callable(tolist) else values)
    return [float(value) for value in plain]


def _histogram(
    samples: list[float], bin_count: int
) -> tuple[list[float], tuple[float, float]]:
    finite = [value for value in samples if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    weights = [0.0] * bin_count
    scale = bin_count / (high - low)
    for value in finite:
        place = int((value - low) * scale)
        weights[min(place, bin_count - 1)] += 1
    return weights, (low, high)


def _figure_dict(figure: object) -> dict[str, Any]:
    if isinstance(figure, dict):
        # Plotly's own dicts hold numpy arrays.
        plain = attributes.to_plain(cast("object", figure), where="figure")
        return cast("dict[str, Any]", plain)
    to_json = cast("Callable[[], str] | None", getattr(figure, "to_json", None))
    if to_json is None and hasattr(figure, "savefig"):
        try:
            from plotly.tools import mpl_to_plotly  # type: ignore[import-not-found, import-untyped, unused-ignore] # noqa: PLC0415
        except ImportError as error:
            msg = "a matplotlib figure needs plotly: pip install plotly"
            raise TypeError(msg) from error
        convert = cast("Callable[[object], Any]", mpl_to_plotly)
        to_json = convert(figure).to_json
    if to_json is None:
        msg = f"a {type(figure).__name__} is no Plotly figure"
        raise TypeError(msg)
    return cast("dict[str, Any]", json.loads(to_json()))

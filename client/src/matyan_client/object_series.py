"""Objects as a search gives them back: images and audio with their bytes.

Design note: docs/subsystems/sdk.md#repo
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from matyan_client import media, media_files
from matyan_client.rest import RestClient

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOBS_PER_REQUEST: Final = 50

T = TypeVar("T")
Tree = Mapping[str, Any]
"""What a search gives of a run."""


@dataclass(frozen=True)
class StoredImage:
    """An image.

    Attributes:
        data: The file's bytes; empty while they have not arrived.
        format: Of the file.
        caption: As it was logged.
        width: Pixels, 0 if that is not known.
        height: Pixels, 0 if that is not known.
        index: Its place in the list of its step.
    """

    data: bytes
    format: str
    caption: str
    width: int
    height: int
    index: int

    def to_pil_image(self) -> Any:
        """Return it as a PIL image.

        Raises:
            ImportError: If Pillow is not installed.
        """
        return media.open_pil_image(self.data)

    def numpy(self) -> NDArray[np.uint8]:
        """Return the pixels, (height, width) or (height, width, channels).

        Raises:
            ImportError: If Pillow or numpy is not installed.
        """
        import numpy as np  # noqa: PLC0415 - an extra

        return np.asarray(self.to_pil_image())


@dataclass(frozen=True)
class StoredAudio:
    """A sound.

    Attributes:
        data: The file's bytes; empty while they have not arrived.
        format: Of the file.
        caption: As it was logged.
        index: Its place in the list of its step.
    """

    data: bytes
    format: str
    caption: str
    index: int

    def numpy(self) -> tuple[NDArray[np.int16], int]:
        """Return the samples of a WAV file, (frames, channels), and its rate.

        Raises:
            ValueError: If it is no WAV file of 16 bits.
            ImportError: If numpy is not installed.
        """
        return media_files.decode_wav(self.data)


@dataclass(frozen=True)
class StoredDistribution:
    """A histogram.

    Attributes:
        weights: Of each bin, a float64 array.
        bin_range: Lowest and highest edge.
    """

    weights: Sequence[float]
    bin_range: tuple[float, float]


@dataclass(frozen=True)
class ObjectSeries(Generic[T]):
    """One series of objects of one run, as a search found it, ascending by step.

    Attributes:
        run: The run's id.
        name: The series.
        context: The series.
        values: What was logged at each step; lists where steps have lists.
        steps: The steps.
        epochs: None where a step has no epoch.
        times: Seconds since the epoch, on the training process's clock.
        params: The run's attributes.
        props: The run's properties.
    """

    run: str
    name: str
    context: Tree
    values: Sequence[T]
    steps: Sequence[int]
    epochs: Sequence[float | None]
    times: Sequence[float]
    params: Tree
    props: Tree

    def __len__(self) -> int:
        return len(self.values)


def iter_series(
    trees: Iterator[dict[str, Any]], convert: Callable[[list[Any]], list[T]]
) -> Iterator[ObjectSeries[T]]:
    """Yield the series in a search's trees.

    Args:
        trees: Of the runs, with their ids as "hash".
        convert: Turns the values of all steps of a series into what is given out.
    """
    for tree in trees:
        for trace in cast("list[dict[str, Any]]", tree.get("traces") or []):
            yield ObjectSeries(
                run=tree["hash"],
                name=trace["name"],
                context=trace.get("context") or {},
                values=convert(trace.get("values") or []),
                steps=trace.get("iters") or [],
                epochs=trace.get("epochs") or [],
                times=trace.get("timestamps") or [],
                params=tree.get("params") or {},
                props=tree.get("props") or {},
            )


def fetch_blobs(client: RestClient, kind: str, uris: Sequence[str]) -> dict[str, bytes]:
    """Return the bytes behind URIs; empty where they have not arrived.

    Raises:
        ServerError: If the server cannot be asked.
    """
    found = dict.fromkeys(uris, b"")
    for start in range(0, len(uris), BLOBS_PER_REQUEST):
        body = list(uris[start : start + BLOBS_PER_REQUEST])
        for uri, data in client.iter_trees(f"runs/{kind}/get-batch/", body=body):
            if uri in found and isinstance(data, bytes):
                found[uri] = data
    return found


def with_blobs(
    client: RestClient, kind: str, steps: list[list[dict[str, Any]]]
) -> list[list[dict[str, Any]]]:
    """Return the items of all steps, each with its bytes as "blob".

    Raises:
        ServerError: If the server cannot be asked.
    """
    uris = [str(item["blob_uri"]) for items in steps for item in items]
    blobs = fetch_blobs(client, kind, uris)
    return [
        [{**item, "blob": blobs[str(item["blob_uri"])]} for item in items]
        for items in steps
    ]


def images(client: RestClient, steps: list[Any]) -> list[list[StoredImage]]:
    """Return the images of all steps of a series."""
    return [
        [
            StoredImage(
                data=item["blob"],
                format=item["format"],
                caption=item["caption"],
                width=item["width"],
                height=item["height"],
                index=item["index"],
            )
            for item in items
        ]
        for items in with_blobs(client, "images", steps)
    ]


def audios(client: RestClient, steps: list[Any]) -> list[list[StoredAudio]]:
    """Return the sounds of all steps of a series."""
    return [
        [
            StoredAudio(
                data=item["blob"],
                format=item["format"],
                caption=item["caption"],
                index=item["index"],
            )
            for item in items
        ]
        for items in with_blobs(client, "audios", steps)
    ]


def texts(steps: list[Any]) -> list[list[str]]:
    """Return the texts of all steps of a series."""
    return [[str(item["data"]) for item in items] for items in steps]


def distributions(steps: list[Any]) -> list[StoredDistribution]:
    """Return the histograms of all steps of a series."""
    return [
        StoredDistribution(step["data"], (step["range"][0], step["range"][1]))
        for step in steps
    ]


def figures(steps: list[Any]) -> list[dict[str, Any]]:
    """Return the Plotly dicts of all steps of a series."""
    return [cast("dict[str, Any]", json.loads(step["data"])) for step in steps]

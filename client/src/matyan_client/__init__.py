"""Matyan's SDK: track runs from training code, ask questions about them.

from matyan_client import Run

with Run(repo="http://localhost:53800") as run:
    run["hparams"] = {"lr": 0.001}
    run.track(0.5, name="loss", step=0, context={"subset": "train"})
"""

from matyan_client.media import Audio, Image
from matyan_client.object_series import (
    ObjectSeries,
    StoredAudio,
    StoredDistribution,
    StoredImage,
)
from matyan_client.objects import Distribution, Figure, Text
from matyan_client.outlet import Delivery
from matyan_client.repo import Repo, Series
from matyan_client.rest import NotFoundError, QueryError, ServerError
from matyan_client.run import Run

__all__ = [
    "Audio",
    "Delivery",
    "Distribution",
    "Figure",
    "Image",
    "NotFoundError",
    "ObjectSeries",
    "QueryError",
    "Repo",
    "Run",
    "Series",
    "ServerError",
    "StoredAudio",
    "StoredDistribution",
    "StoredImage",
    "Text",
]

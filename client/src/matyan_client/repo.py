"""`Repo`: questions to a server about its runs.

Unlike `Run`, a `Repo` raises when the server cannot be asked: an empty list would look
like an answer.

Design note: docs/subsystems/sdk.md#repo
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from typing_extensions import override

from matyan_client import object_series
from matyan_client.access import choose_endpoints
from matyan_client.object_series import (
    ObjectSeries,
    StoredAudio,
    StoredDistribution,
    StoredImage,
    iter_series,
)
from matyan_client.rest import NotFoundError, RestClient, ServerError
from matyan_client.run import Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SEQUENCE_TYPES: Final = (
    "metric",
    "images",
    "figures",
    "texts",
    "audios",
    "distributions",
)

RunDict = dict[str, Any]
Floats = Sequence[float]


@dataclass(frozen=True)
class Series:
    """One metric series of one run, as a search found it.

    The columns are float64 arrays of one length (`numpy.ndarray` where numpy is
    installed, else `array.array`), ascending by step.

    Attributes:
        run: The run's id.
        name, context: The series.
        values, steps, epochs: NaN where a point has no epoch.
        times: Seconds since the epoch, on the training process's clock.
        params: The run's attributes.
        props: The run's properties.
    """

    run: str
    name: str
    context: Mapping[str, Any]
    values: Floats
    steps: Floats
    epochs: Floats
    times: Floats
    params: Mapping[str, Any]
    props: Mapping[str, Any]

    def numpy(self) -> dict[str, NDArray[np.float64]]:
        """Return the columns by name as numpy arrays.

        Raises:
            ImportError: If numpy is not installed.
        """
        import numpy as np  # noqa: PLC0415 - an extra

        columns = {
            "values": self.values,
            "steps": self.steps,
            "epochs": self.epochs,
            "times": self.times,
        }
        return {name: np.asarray(column) for name, column in columns.items()}

    def __len__(self) -> int:
        return len(self.values)


class Repo:
    """A server's runs. Thread-safe.

    Args:
        url: Address of the server; else MATYAN_BACKEND_URL, else localhost.
        token: Lets one in where the server asks for it; else the address's own, else
            MATYAN_TOKEN.
        ca_bundle: PEM file of certificates to trust besides the usual; else
            MATYAN_CA_BUNDLE.
        verify: Whether the server's certificate is checked; else MATYAN_TLS_VERIFY.

    Attributes:
        url: The address, without credentials.
        endpoints: The address with them; not to be printed.

    Raises:
        ValueError: If an address, a token or a file cannot be used.
    """

    is_remote_repo: Final = True

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        ca_bundle: str | None = None,
        verify: bool | None = None,
    ) -> None:
        self.endpoints = choose_endpoints(
            url, token=token, ca_bundle=ca_bundle, verify=verify
        )
        self.url = str(self.endpoints.backend)
        self._rest = RestClient(self.endpoints.backend)

    @classmethod
    def default_repo(cls) -> Repo:
        """Return the server of the environment, or the local one."""
        return cls()

    @classmethod
    def from_path(cls, url: str) -> Repo:
        """Return the server at `url`."""
        return cls(url)

    @staticmethod
    def is_remote_path(path: str) -> bool:
        """Return whether `path` is a server's address."""
        return path.startswith(("http://", "https://", "ws://", "wss://"))

    # Runs.

    def get_run(self, run_hash: str) -> Run | None:
        """Return the run, to be read only; None if the server does not have it.

        Raises:
            ServerError: If the server cannot be asked.
        """
        return self._reading(run_hash) if self.run_exists(run_hash) else None

    def run_exists(self, run_hash: str) -> bool:
        """Return whether the server has the run.

        Raises:
            ServerError: If the server cannot be asked.
        """
        try:
            self._rest.get(f"runs/{run_hash}/info/", sequence="metric")
        except NotFoundError:
            return False
        return True

    def iter_runs(self) -> Iterator[Run]:
        """Yield the runs that are not archived, newest first, to be read only.

        Raises:
            ServerError: If the server cannot be asked.
        """
        for run_hash in self.list_all_runs():
            yield self._reading(run_hash)

    def _reading(self, run_hash: str) -> Run:
        return Run(run_hash, repo=self, read_only=True)

    def list_all_runs(self) -> list[str]:
        """Return the ids of the runs that are not archived, newest first.

        Raises:
            ServerError: If the server cannot be asked.
        """
        return self._hashes("")

    def list_active_runs(self) -> list[str]:
        """Return the ids of the active runs, newest first.

        Raises:
            ServerError: If the server cannot be asked.
        """
        return self._hashes("run.active == True")

    def total_runs_count(self) -> int:
        """Return how many runs are not archived.

        Raises:
            ServerError: If the server cannot be asked.
        """
        return len(self._hashes(""))

    def _hashes(self, query: str) -> list[str]:
        trees = self._search("run", query, exclude_params="true", exclude_traces="true")
        return [tree["hash"] for tree in trees]

    def query_runs(
        self,
        query: str = "",
        paginated: bool = False,  # noqa: FBT001, FBT002 - the published signature
        offset: str | None = None,
        limit: int = 50,
    ) -> list[RunDict] | Iterator[list[RunDict]]:
        """Return the runs matching `query`, newest first.

        Each is a dict of `hash`, `params`, `traces` and `props`; lists are lists.

        Args:
            query: MatyanQL, e.g. `run.hparams.lr < 0.01`.
            paginated: Whether to return an iterator of pages, rather than all at once.
            offset: Id of the run after which the first page begins.
            limit: Runs of a page.

        Raises:
            QueryError: If the query cannot be understood.
            ServerError: If the server cannot be asked.
        """
        if paginated:
            return self._pages(query, offset, limit)
        return list(self._search("run", query))

    def _pages(
        self, query: str, offset: str | None, limit: int
    ) -> Iterator[list[RunDict]]:
        while True:
            page = list(self._search("run", query, limit=limit, offset=offset or ""))
            if page:
                yield page
            if len(page) < limit:
                return
            offset = page[-1]["hash"]

    # Sequences.

    def metrics(self, query: str = "", *, points: int = 500) -> Iterator[Series]:
        """Yield the metric series matching `query`, as they arrive.

        Args:
            query: MatyanQL, e.g. `metric.name == "loss" and run.hparams.lr < 0.01`.
            points: At most so many points of a series, the first and last always.

        Raises:
            QueryError: If the query cannot be understood.
            ServerError: If the server cannot be asked.
        """
        for tree in self._search("metric", query, p=points):
            traces = cast("list[RunDict]", tree.get("traces") or [])
            for trace in traces:
                yield _series(tree, trace)

    def query_metrics(self, query: str = "") -> list[RunDict]:
        """Return the runs with metric series matching `query`, as the server says it.

        Raises:
            QueryError: If the query cannot be understood.
            ServerError: If the server cannot be asked.
        """
        return list(self._search("metric", query))

    def query_images(self, query: str = "", *, blobs: bool = False) -> list[RunDict]:
        """Return the runs with image series matching `query`, as the server says it.

        Args:
            query: MatyanQL, e.g. `images.name == "samples"`.
            blobs: Whether each image also gets its bytes, as "blob".

        Raises:
            QueryError: If the query cannot be understood.
            ServerError: If the server cannot be asked.
        """
        return self._media("images", query, blobs=blobs)

    def query_audios(self, query: str = "", *, blobs: bool = False) -> list[RunDict]:
        """Return the runs with audio series matching `query`; see `query_images`."""
        return self._media("audios", query, blobs=blobs)

    def _media(self, kind: str, query: str, *, blobs: bool) -> list[RunDict]:
        trees = list(self._search(kind, query))
        if blobs:
            for tree in trees:
                for trace in cast("list[RunDict]", tree.get("traces") or []):
                    trace["values"] = object_series.with_blobs(
                        self._rest, kind, trace["values"]
                    )
        return trees

    def query_figure_objects(self, query: str = "") -> list[RunDict]:
        """Return the runs with figure series matching `query`; see `query_metrics`."""
        return list(self._search("figures", query))

    def query_distributions(self, query: str = "") -> list[RunDict]:
        """Return the runs with distributions matching `query`; see `query_metrics`."""
        return list(self._search("distributions", query))

    def query_texts(self, query: str = "") -> list[RunDict]:
        """Return the runs with text series matching `query`; see `query_metrics`."""
        return list(self._search("texts", query))

    def images(
        self, query: str = "", *, steps: int = 50
    ) -> Iterator[ObjectSeries[list[StoredImage]]]:
        """Yield the image series matching `query` with their bytes, as they arrive.

        One series is in memory at a time.

        Args:
            query: MatyanQL, e.g. `images.name == "samples" and images.context.subset ==
                "val"`.
            steps: At most about so many steps of a series; 0 for all.

        Raises:
            QueryError: If the query cannot be understood.
            ServerError: If the server cannot be asked.
        """
        return iter_series(
            self._objects("images", query, steps),
            lambda values: object_series.images(self._rest, values),
        )

    def audios(
        self, query: str = "", *, steps: int = 50
    ) -> Iterator[ObjectSeries[list[StoredAudio]]]:
        """Yield the audio series matching `query` with their bytes; see `images`."""
        return iter_series(
            self._objects("audios", query, steps),
            lambda values: object_series.audios(self._rest, values),
        )

    def texts(
        self, query: str = "", *, steps: int = 50
    ) -> Iterator[ObjectSeries[list[str]]]:
        """Yield the text series matching `query`; see `images`."""
        found = self._objects("texts", query, steps)
        return iter_series(found, object_series.texts)

    def distributions(
        self, query: str = "", *, steps: int = 50
    ) -> Iterator[ObjectSeries[StoredDistribution]]:
        """Yield the series of histograms matching `query`; see `images`."""
        found = self._objects("distributions", query, steps)
        return iter_series(found, object_series.distributions)

    def figures(
        self, query: str = "", *, steps: int = 50
    ) -> Iterator[ObjectSeries[dict[str, Any]]]:
        """Yield the figure series matching `query`, Plotly dicts; see `images`."""
        found = self._objects("figures", query, steps)
        return iter_series(found, object_series.figures)

    def _objects(self, kind: str, query: str, steps: int) -> Iterator[RunDict]:
        return self._search(kind, query, record_density=steps, index_density=0)

    def _search(self, kind: str, query: str, **params: Any) -> Iterator[RunDict]:
        trees = self._rest.iter_trees(
            f"runs/search/{kind}/", q=query, report_progress="false", **params
        )
        for run_hash, tree in trees:
            yield {**cast("RunDict", tree), "hash": run_hash}

    def collect_sequence_info(
        self, sequence_types: Sequence[str] = ("metric",)
    ) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """Return every run's series by sequence type.

        Raises:
            ServerError: If the server cannot be asked.
        """
        return {
            run_hash: self._rest.get(
                f"runs/{run_hash}/info/", sequence=list(sequence_types)
            )["traces"]
            for run_hash in self.list_all_runs()
        }

    def collect_params_info(self) -> dict[str, dict[str, Any]]:
        """Return every run's attributes.

        Raises:
            ServerError: If the server cannot be asked.
        """
        trees = self._search("run", "", exclude_traces="true", skip_system="false")
        return {tree["hash"]: tree["params"] for tree in trees}

    def available_sequence_types(self) -> list[str]:
        """Return the sequence types there are."""
        return list(SEQUENCE_TYPES)

    # Deleting.

    def delete_run(self, run_hash: str) -> bool:
        """Delete a run for good; return whether the server did.

        Raises:
            ServerError: If the server cannot be asked.
        """
        return self._delete(f"runs/{run_hash}/")

    def delete_runs(self, run_hashes: Sequence[str]) -> tuple[bool, list[str]]:
        """Delete runs for good; return whether all went, and those that did not."""
        failed: list[str] = []
        for run_hash in run_hashes:
            try:
                deleted = self.delete_run(run_hash)
            except ServerError:
                deleted = False
            if not deleted:
                failed.append(run_hash)
        return not failed, failed

    def delete_experiment(self, experiment_id: str) -> bool:
        """Delete an experiment, not its runs; return whether the server did.

        Raises:
            ServerError: If the server cannot be asked.
        """
        return self._delete(f"experiments/{experiment_id}/")

    def _delete(self, path: str) -> bool:
        try:
            self._rest.delete(path)
        except NotFoundError:
            return False
        return True

    def close(self) -> None:
        """Close the connections."""
        self._rest.close()

    def __enter__(self) -> Repo:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @override
    def __repr__(self) -> str:
        return f"Repo({str(self._rest.backend)!r})"


def _series(tree: RunDict, trace: Mapping[str, Any]) -> Series:
    empty = array("d")
    return Series(
        run=tree["hash"],
        name=trace["name"],
        context=trace.get("context") or {},
        values=trace.get("values", empty),
        steps=trace.get("iters", empty),
        epochs=trace.get("epochs", empty),
        times=trace.get("timestamps", empty),
        params=tree.get("params") or {},
        props=tree.get("props") or {},
    )

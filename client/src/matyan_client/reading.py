"""What a run reads back from the server.

Used inside training code: a server that cannot be asked is said once on stderr and
answers as if it knew nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from matyan_client import artifacts, console
from matyan_client.rest import NotFoundError, RestClient, ServerError
from matyan_client.urls import BaseUrl


class RunReader:
    """Reads one run. Thread-safe; connects at the first read."""

    def __init__(self, run_id: str, backend: BaseUrl) -> None:
        self.backend = backend
        self._run_id = run_id
        self._client: RestClient | None = None

    def _rest(self) -> RestClient:
        if self._client is None:
            self._client = RestClient(self.backend)
        return self._client

    def _info(self, **params: Any) -> dict[str, Any]:
        try:
            found = self._rest().get(f"runs/{self._run_id}/info/", **params)
        except NotFoundError:
            return {}
        except ServerError as error:
            console.warn(f"run {self._run_id} cannot be read back: {error}")
            return {}
        return cast("dict[str, Any]", found)

    def params(self) -> dict[str, Any]:
        """Return the attributes."""
        return self._info(sequence="metric").get("params") or {}

    def props(self) -> dict[str, Any]:
        """Return the properties."""
        return self._info(sequence="metric").get("props") or {}

    def artifacts(self) -> list[dict[str, Any]]:
        """Return the artifacts."""
        return self._info(sequence="metric").get("artifacts") or []

    def iter_artifact(self, path: str) -> Iterator[bytes]:
        """Yield an artifact's bytes.

        Raises:
            ServerError, NotFoundError: As their names say.
        """
        return artifacts.iter_artifact(self._rest(), self._run_id, path)

    def download(self, path: str, target: Path) -> Path:
        """Write an artifact to `target`; return that.

        Raises:
            ServerError, NotFoundError: As their names say.
            OSError: If it cannot be written.
        """
        return artifacts.download(self._rest(), self._run_id, path, target)

    def list_artifacts(self) -> list[str]:
        """Return the paths of the artifacts.

        Raises:
            ServerError, NotFoundError: As their names say.
        """
        path = f"runs/{self._run_id}/info/"
        info = cast("dict[str, Any]", self._rest().get(path, sequence="metric"))
        found = cast("list[dict[str, Any]]", info.get("artifacts") or [])
        return [str(artifact["path"]) for artifact in found]

    def traces(self, kind: str) -> list[dict[str, Any]]:
        """Return the series of one sequence type."""
        return self.all_traces((kind,)).get(kind) or []

    def all_traces(self, kinds: tuple[str, ...]) -> dict[str, Any]:
        """Return the series by sequence type; of all types when none is named."""
        return self._info(sequence=list(kinds)).get("traces") or {}

    def durable(self, writer: str) -> tuple[int, int] | None:
        """Return (epoch, seq) the store holds of a writer, None if it does not say."""
        try:
            found = self._rest().get(f"runs/{self._run_id}/durable", writer=writer)
            return int(found["epoch"]), int(found["seq"])
        except (NotFoundError, ServerError, KeyError, TypeError, ValueError):
            return None

    def close(self) -> None:
        """Close the connections; they open again when needed."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

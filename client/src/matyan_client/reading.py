"""What a run reads back from the server.

Used inside training code: a server that cannot be asked is said once on stderr and
answers as if it knew nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

from matyan_client import artifacts, console
from matyan_client.rest import TIMEOUT_S, NotFoundError, RestClient, ServerError
from matyan_client.urls import BaseUrl


class Watermark(NamedTuple):
    """How far a writer's frames have reached the store.

    Attributes:
        epoch, seq: Every frame up to this position is stored.
        deleted_us: When the run was deleted, microseconds since the epoch; then nothing
            of it is stored, and what is sent is dropped. None for a run that is there.
    """

    epoch: int
    seq: int
    deleted_us: int | None = None


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

    def watermark(
        self, writer: str, *, timeout_s: float = TIMEOUT_S
    ) -> Watermark | None:
        """Return what the store says of a writer's data, None if it does not say.

        Args:
            writer: The writer's id.
            timeout_s: How long each step of asking may take.
        """
        path = f"runs/{self._run_id}/durable"
        try:
            found = self._rest().get(path, timeout_s=timeout_s, writer=writer)
            deleted_us = found.get("deleted_us")
            return Watermark(
                int(found["epoch"]),
                int(found["seq"]),
                None if deleted_us is None else int(deleted_us),
            )
        except (OSError, LookupError, TypeError, ValueError, AttributeError):
            return None

    def close(self) -> None:
        """Close the connections; they open again when needed."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

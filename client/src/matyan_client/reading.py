"""What a run reads back from the server.

Used inside training code: a server that cannot be asked is said once on stderr and
answers as if it knew nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

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


_NOTHING: Final = Watermark(0, 0)
_FIRST_PAUSE_S: Final = 0.01
_LONGEST_PAUSE_S: Final = 0.1


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
        try:
            return self._stored(writer, timeout_s=timeout_s)
        except OSError:
            return None

    def _stored(self, writer: str, *, timeout_s: float) -> Watermark | None:
        """Return what the store says, None from a server that does not tell.

        Raises:
            ServerError: If the server cannot be asked.
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
        except NotFoundError as error:
            return _NOTHING if error.code else None  # the run is not stored yet
        except (LookupError, TypeError, ValueError, AttributeError):
            return None

    def wait_stored(
        self, position: tuple[str, int, int], *, budget_s: float, patient: bool = False
    ) -> Watermark | None:
        """Wait until the store holds a writer's frames; return how far it does.

        Args:
            position: The writer, and epoch and seq of its last frame.
            budget_s: Seconds this may take.
            patient: Whether to go on asking a server that cannot be reached.

        Returns:
            What the store said last: less than asked for when the time is over or the
            run was deleted. None if the server does not tell, or cannot be asked.
        """
        writer, *wanted = position
        if not writer:
            return None  # nothing was sent
        deadline = time.monotonic() + budget_s
        found: Watermark | None = None
        pause_s = _FIRST_PAUSE_S
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                # Connecting and the answer may take so long each.
                found = self._stored(writer, timeout_s=left_s / 2)
            except ServerError:
                found = _NOTHING if patient else None
            if found is None or found.deleted_us is not None:
                break
            if found[:2] >= tuple(wanted):
                break
            time.sleep(max(0.0, min(pause_s, deadline - time.monotonic())))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return found

    def close(self) -> None:
        """Close the connections; they open again when needed."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

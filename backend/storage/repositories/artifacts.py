"""Artifact repository: files logged to a run, by path.

Keys:   ARTIFACT (run number, hash of the path) -> record

Blobs of sequences (images, audio) are stored under paths that begin with `seq/`; they
are artifacts for clean-up and hidden from lists.

Design note: docs/subsystems/metadata.md#artifacts
"""

from __future__ import annotations

from typing import Final

from backend.domain.entities import Artifact
from backend.errors import ArtifactNotFoundError
from backend.storage.codecs.records import decode_artifact, encode_artifact
from backend.storage.engine.base import ReadTransaction, Transaction
from backend.storage.keyspace import Subspace, pack_artifact, run_range

SEQUENCE_PREFIX: Final = "seq/"


class ArtifactRepository:
    """Artifacts of runs."""

    def list_all(
        self, tr: ReadTransaction, run_number: int, *, with_sequences: bool = False
    ) -> list[Artifact]:
        """Return the run's artifacts ordered by path, in one range read."""
        rows = tr.get_range(*run_range(Subspace.ARTIFACT, run_number), snapshot=True)
        found = [decode_artifact(value, key=key) for key, value in rows]
        if not with_sequences:
            found = [a for a in found if not a.path.startswith(SEQUENCE_PREFIX)]
        found.sort(key=lambda artifact: artifact.path)
        return found

    def find(self, tr: ReadTransaction, run_number: int, path: str) -> Artifact | None:
        """Return the artifact of this path, or None."""
        key = pack_artifact(run_number, path)
        value = tr.get(key)
        return None if value is None else decode_artifact(value, key=key)

    def get(self, tr: ReadTransaction, run_number: int, path: str) -> Artifact:
        """Return the artifact of this path.

        Raises:
            ArtifactNotFoundError: If the run has none.
        """
        found = self.find(tr, run_number, path)
        if found is None:
            raise ArtifactNotFoundError(path=path)
        return found

    def put(self, tr: Transaction, run_number: int, artifact: Artifact) -> None:
        """Store an artifact in place of any other of its path."""
        tr.set(pack_artifact(run_number, artifact.path), encode_artifact(artifact))

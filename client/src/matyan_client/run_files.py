"""A run's artifacts: uploaded in the background, downloaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matyan_client import artifacts
from matyan_client.run_base import RunBase
from matyan_client.writing import RunWriter

BLOCK_STALL_S: Final = 120.0
"""How long nothing may get on while somebody waits for an upload."""


class FilesPart(RunBase):
    """Uploads and downloads artifacts."""

    def log_artifact(
        self,
        path: str | os.PathLike[str],
        name: str | None = None,
        block: bool = False,  # noqa: FBT001, FBT002 - as Aim has it
    ) -> bool:
        """Upload a file as an artifact of the run, in the background.

        What is uploaded is the file as it is now, if it is at most 64 MB
        (`MATYAN_UPLOAD_COPY_MAX_BYTES`) or the file system can clone it: then the local
        log has a copy. A larger one is uploaded from where it is, and must stay as it
        is until it is uploaded: if it is changed, it is not uploaded, which is said
        and counted in `delivery.dropped`. It may be renamed or deleted, if the local
        log is on the same file system.

        The upload outlives the process, as points do. Logging a name again replaces
        the artifact.

        Args:
            path: The file.
            name: What it is called in the run, "/" between components; the file's own
                name by default.
            block: Whether to wait until it can be read from the server, or nothing
                has got on for two minutes.

        Returns:
            Without `block`, whether the local log took it; with it, whether the server
            has it.

        Raises:
            TypeError, ValueError: If the name cannot be used.
            OSError: If there is no such file, or it cannot be read.
            RuntimeError: If the run is closed or read-only.
        """
        source = Path(path)
        writing = self._writing()
        target = artifacts.artifact_path(source.name if name is None else name)
        if source.is_dir():
            msg = f"{source} is a directory; use log_artifacts()"
            raise IsADirectoryError(msg)
        indices = self._log_files(writing, [(target, source)])
        if not block:
            return bool(indices)
        uploaded = writing.wait_uploaded(indices, stall_s=BLOCK_STALL_S)
        return bool(uploaded) and self._wait_readable(writing)

    def _wait_readable(self, writing: RunWriter) -> bool:
        if not writing.flush(timeout_s=BLOCK_STALL_S, uploads=False):
            return False
        position = writing.position()
        found = self._reader.wait_stored(position, budget_s=BLOCK_STALL_S, patient=True)
        if found is None:
            return True  # it does not tell, and has accepted it
        writing.note_watermark(found)
        return found[:2] >= position[1:]

    def log_artifacts(
        self,
        path: str | os.PathLike[str],
        name: str | None = None,
        block: bool = False,  # noqa: FBT001, FBT002 - as Aim has it
    ) -> int:
        """Upload the files below a directory, as `log_artifact` does each.

        Args:
            path: The directory.
            name: Put before the files' relative paths.
            block: Whether to wait until they can be read from the server.

        Returns:
            How many were taken, or with `block` uploaded; 0 if that is not known.

        Raises:
            TypeError, ValueError: If a name cannot be used; then nothing is uploaded.
            OSError: If there is no such directory, or a file cannot be read.
            RuntimeError: If the run is closed or read-only.
        """
        directory = Path(path)
        writing = self._writing()
        if not directory.is_dir():
            msg = f"{directory} is no directory"
            raise NotADirectoryError(msg)
        prefix = "" if name is None else f"{artifacts.artifact_path(name)}/"
        found = [
            (artifacts.artifact_path(prefix + relative), file)
            for relative, file in artifacts.iter_files(directory)
        ]
        indices = self._log_files(writing, found)
        if not block:
            return len(indices)
        uploaded = writing.wait_uploaded(indices, stall_s=BLOCK_STALL_S)
        return uploaded if self._wait_readable(writing) else 0

    def _log_files(
        self, writing: RunWriter, files: Sequence[tuple[str, Path]]
    ) -> list[int]:
        indices: list[int] = []
        for target, source in files:
            kind = artifacts.guess_content_type(target)
            index = writing.write_file(target, source, content_type=kind)
            if index is not None:
                indices.append(index)
        return indices

    def get_artifact(self, name: str) -> bytes:
        """Return an artifact's bytes. For large ones there is `download_artifact`.

        Raises:
            NotFoundError: If the server does not have it (yet).
            ServerError: If the server cannot be asked.
        """
        return b"".join(self._reader.iter_artifact(artifacts.artifact_path(name)))

    def download_artifact(self, name: str, dest: str | os.PathLike[str]) -> Path:
        """Write an artifact to a file, whole or not at all; return its path.

        Args:
            name: The artifact.
            dest: The file, or a directory that is there already: then the artifact's
                last component names the file.

        Raises:
            NotFoundError: If the server does not have it (yet).
            ServerError: If the server cannot be asked, or stops in the middle.
            ValueError: If the artifact's name leads out of the directory.
            OSError: If the file cannot be written.
        """
        path = artifacts.artifact_path(name)
        target = Path(dest)
        if target.is_dir():
            target = artifacts.local_path(target, path.rpartition("/")[2])
        return self._reader.download(path, target)

    def download_artifacts(self, dest_dir: str | os.PathLike[str]) -> list[Path]:
        """Write all artifacts below a directory; return the files' paths.

        Raises:
            NotFoundError: If the server does not have the run.
            ServerError: If the server cannot be asked, or stops in the middle.
            ValueError: If an artifact's path leads out of the directory.
            OSError: If a file cannot be written.
        """
        directory = Path(dest_dir)
        paths = self._reader.list_artifacts()
        targets = [artifacts.local_path(directory, path) for path in paths]
        return [
            self._reader.download(path, target)
            for path, target in zip(paths, targets, strict=True)
        ]

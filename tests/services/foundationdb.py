"""A throw-away FoundationDB node on 127.0.0.1.

Found in `FDB_HOME` or on the PATH: `fdbserver`, `fdbcli`, and `libfdb_c.so` in the same
directory or where the loader looks. `MATYAN_TEST_FDB_CLUSTER_FILE` names a running
cluster instead.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from tests.services.requirements import require
from tests.services.server_process import START_TIMEOUT_S, ServerProcess

BUGGIFY = "MATYAN_TEST_FDB_BUGGIFY"
"""Set: the client makes requests fail, in every process of the tests."""


def _program(name: str) -> str | None:
    home = os.environ.get("FDB_HOME")
    if home:
        path = Path(home) / name
        return str(path) if path.exists() else None
    return shutil.which(name)


def library() -> str | None:
    """Return the client library's path or loadable name, None if there is none."""
    home = os.environ.get("FDB_HOME")
    candidates = [str(Path(home) / "libfdb_c.so")] if home else []
    server = shutil.which("fdbserver")
    if server:
        candidates.append(str(Path(server).resolve().parent / "libfdb_c.so"))
    candidates.append("libfdb_c.so")
    for candidate in candidates:
        try:
            ctypes.CDLL(candidate)
        except OSError:
            continue
        return candidate
    return None


def missing() -> str:
    """Return why no cluster can be had here, "" if one can."""
    absent = [] if library() else ["libfdb_c.so"]
    if not os.environ.get("MATYAN_TEST_FDB_CLUSTER_FILE"):
        absent += [n for n in ("fdbserver", "fdbcli") if _program(n) is None]
    return f"{', '.join(absent)} not found" if absent else ""


class FoundationDbNode(ServerProcess):
    """One node, made a database of one process."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._external = os.environ.get("MATYAN_TEST_FDB_CLUSTER_FILE", "")

    @property
    def cluster_file(self) -> str:
        return self._external or str(self.directory / "fdb.cluster")

    @property
    def can_be_killed(self) -> bool:
        return not self._external

    @override
    def prepare(self) -> None:
        for name in ("data", "trace"):
            (self.directory / name).mkdir(exist_ok=True)
        Path(self.cluster_file).write_text(f"test:test@127.0.0.1:{self.port}\n")

    @override
    def command(self) -> list[str]:
        return [
            _program("fdbserver") or "fdbserver",
            f"--cluster-file={self.cluster_file}",
            f"--public-address=127.0.0.1:{self.port}",
            f"--datadir={self.directory / 'data'}",
            f"--logdir={self.directory / 'trace'}",
            "--knob_disable_posix_kernel_aio=1",
        ]

    def configure(self) -> None:
        """Make it a new database and wait until it is available."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            # Fails harmlessly when an earlier turn has made the database.
            self.cli("configure new single ssd")
            if "is available" in self.cli("status minimal"):
                return
            if time.monotonic() > deadline:
                raise RuntimeError(self.output.read_text()[-4000:])
            time.sleep(0.3)

    def cli(self, command: str) -> str:
        """Return what `fdbcli --exec command` prints."""
        done = subprocess.run(
            [
                _program("fdbcli") or "fdbcli",
                *("-C", self.cluster_file),
                *("--exec", command),
                *("--timeout", "10"),
            ],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done.stdout

    @override
    def __enter__(self) -> FoundationDbNode:
        if not self._external:
            super().__enter__()
            self.configure()
        return self


@contextmanager
def clean_cluster(required: frozenset[str]) -> Iterator[dict[str, Any]]:
    """Yield the engine's options for an empty store on the session's one node.

    Where there is none, see `requirements.require`.
    """
    require("fdb", missing(), required)
    options = {
        "cluster_file": session_node().cluster_file,
        "library": library_path(),
        "buggify": BUGGIFY in os.environ,
    }
    _empty(options)
    yield options


@cache
def session_node() -> FoundationDbNode:
    """Return the node of this process, started with its first use.

    Ends with the process.
    """
    directory = tempfile.TemporaryDirectory(prefix="fdb-", dir=_fast_directory())
    node = FoundationDbNode(Path(directory.name))
    atexit.register(_stop, node, directory)
    node.__enter__()
    if not node.can_be_killed:
        _require_empty(node)
    return node


def library_path() -> str | None:
    """Return what to give the engine as `library`."""
    found = library()
    return found if found is not None and "/" in found else None


def _stop(node: FoundationDbNode, directory: tempfile.TemporaryDirectory[str]) -> None:
    node.__exit__(None, None, None)
    directory.cleanup()


def _fast_directory() -> str | None:
    # The disk's own speed is no part of what is tested, and the node is thrown away.
    shared_memory = Path("/dev/shm")  # noqa: S108 - a file system, no file name
    return str(shared_memory) if shared_memory.is_dir() else None


def _require_empty(node: FoundationDbNode) -> None:
    from backend.storage.engine.fdb import FdbEngine

    engine = FdbEngine(node.cluster_file, library=library_path())
    if engine.read(lambda tr: tr.get_range(b"", b"\xff", limit=1)):
        pytest.fail("The tests clear the cluster they use, and this one holds data")


def _empty(options: dict[str, Any]) -> None:
    from backend.storage.engine.fdb import FdbEngine

    FdbEngine(**options).transact(lambda tr: tr.clear_range(b"", b"\xff"))

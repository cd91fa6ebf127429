"""A throw-away FoundationDB node on 127.0.0.1.

Found in `FDB_HOME` or on the PATH: `fdbserver`, `fdbcli`, and `libfdb_c.so` in the same
directory or where the loader looks. `MATYAN_TEST_FDB_CLUSTER_FILE` names a running
cluster instead.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType

from matyan_project.local_server import free_port


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


class FoundationDbNode:
    """One node in a directory of its own. Use as a context manager."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._external = os.environ.get("MATYAN_TEST_FDB_CLUSTER_FILE", "")
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def cluster_file(self) -> str:
        return self._external or str(self._directory / "fdb.cluster")

    @property
    def can_be_killed(self) -> bool:
        return not self._external

    def start(self) -> None:
        """Start the server process."""
        log = (self._directory / "node.out").open("ab")
        self._process = subprocess.Popen(
            [
                _program("fdbserver") or "fdbserver",
                f"--cluster-file={self.cluster_file}",
                f"--public-address=127.0.0.1:{self._port}",
                f"--datadir={self._directory / 'data'}",
                f"--logdir={self._directory / 'trace'}",
                "--knob_disable_posix_kernel_aio=1",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        log.close()

    def configure(self, *, timeout_s: float = 60.0) -> None:
        """Make it a new database and wait until it is available."""
        deadline = time.monotonic() + timeout_s
        while "available" not in self.cli("configure new single ssd; status minimal"):
            if time.monotonic() > deadline:
                raise RuntimeError((self._directory / "node.out").read_text()[-4000:])
            time.sleep(0.3)

    def cli(self, command: str) -> str:
        """Return what `fdbcli --exec command` prints."""
        done = subprocess.run(
            [
                _program("fdbcli") or "fdbcli",
                f"-C{self.cluster_file}",
                f"--exec={command}",
                "--timeout=10",
            ],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done.stdout

    def kill(self) -> None:
        """Kill -9 the node; `start` brings it back with its data."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None

    def pause(self) -> None:
        """Make it unavailable without ending it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> FoundationDbNode:
        if not self._external:
            (self._directory / "data").mkdir(parents=True, exist_ok=True)
            (self._directory / "trace").mkdir(exist_ok=True)
            Path(self.cluster_file).write_text(f"test:test@127.0.0.1:{self._port}\n")
            self.start()
            self.configure()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.resume()
        self.kill()

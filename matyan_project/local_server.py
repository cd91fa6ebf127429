"""A `manage.py up` as a child process: for the demo, benchmarks and tests."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from matyan_project import env
from matyan_project.supervisor import answers


def free_port() -> int:
    """Return a TCP port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LocalServer:
    """`manage.py up` in a directory of its own, on ports of its own.

    Use as a context manager: entering waits until it is ready, leaving stops it and
    every process it started.

    Args:
        data_dir: Where it keeps its data; also gets `up.out`, what it printed.
        options: More options of `manage.py up`.
        environ: Variables for the server processes.
        ports: Backend's and gateway's port; free ones if not given.

    Raises:
        RuntimeError: On entering, if it is not ready in time; tells what it printed.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        options: Sequence[str] = (),
        environ: dict[str, str] | None = None,
        ports: tuple[int, int] | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.backend_port, self.frontier_port = ports or (free_port(), free_port())
        scheme = (
            "https" if any("--tls-cert" in option for option in options) else "http"
        )
        self.url = f"{scheme}://127.0.0.1:{self.backend_port}"
        self.frontier_url = f"{scheme}://127.0.0.1:{self.frontier_port}"
        self.output = data_dir / "up.out"
        self.seconds_to_ready = 0.0
        self._options = options
        # A test run's own settings would give each process another data directory.
        self._environ = {
            "DJANGO_SETTINGS_MODULE": "matyan_project.settings.dev",
            **(environ or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the supervisor."""
        if self._process is None:
            msg = "not started"
            raise RuntimeError(msg)
        return self._process.pid

    def start(self, *, timeout_s: float = 60.0) -> None:
        """Start it and wait until both ports are ready."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            str(env.BASE_DIR / "manage.py"),
            "up",
            f"--data-dir={self.data_dir}",
            f"--backend-port={self.backend_port}",
            f"--frontier-port={self.frontier_port}",
            *self._options,
        ]
        started = time.monotonic()
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own command line
                command,
                env=env.child_environ(**self._environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.wait_ready(timeout_s=timeout_s)
        self.seconds_to_ready = time.monotonic() - started

    def wait_ready(self, *, timeout_s: float = 60.0) -> None:
        """Wait until every URL answers that it is ready."""
        urls = [f"{self.url}/health/ready/"]
        if "--single-port" not in self._options:
            urls.append(f"{self.frontier_url}/health/ready/")
        deadline = time.monotonic() + timeout_s
        while not all(answers(url, timeout_s=2.0) for url in urls):
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.stop()
                msg = f"the server is not ready; it printed:\n{self.printed()}"
                raise RuntimeError(msg)
            time.sleep(0.02)

    def stop(self, *, number: signal.Signals = signal.SIGINT) -> int | None:
        """Stop it as Ctrl-C would; return its exit status."""
        if self._process is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)
        try:
            return self._process.wait(40.0)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            return self._process.wait(5.0)

    def printed(self) -> str:
        """Return what it and its children have printed."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def __enter__(self) -> LocalServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

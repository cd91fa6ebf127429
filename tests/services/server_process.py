"""A throw-away server: one process, in a directory of its own, on 127.0.0.1.

Use as a context manager. `kill` and `start` take it down and up with its data; `pause`
makes it hang.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

from matyan_project.local_server import free_port

START_TIMEOUT_S = 60.0


class ServerProcess(ABC):
    """Keeps one server running.

    Args:
        directory: Where it keeps everything; made if it is not there.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Return the program and its arguments."""

    def environ(self) -> dict[str, str] | None:
        """Return the process's environment; None: this process's own."""
        return None

    def prepare(self) -> None:  # noqa: B027 - many need nothing
        """Make what the server needs before its first start."""

    def answers(self) -> bool:
        """Return whether the server takes requests."""
        return listens(self.port)

    @property
    def output(self) -> Path:
        """What the server has printed."""
        return self.directory / "server.out"

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            RuntimeError: If it ends, or does not answer in time; tells its output.
        """
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                self.command(),
                env=self.environ(),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(self.output.read_text(errors="replace")[-4000:])
            time.sleep(0.05)

    def ensure_running(self) -> None:
        """Start it if it is down."""
        if self._process is None or self._process.poll() is not None:
            self.start()

    def kill(self) -> None:
        """Kill -9 the server and all it started."""
        if self._process is not None:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(20)
            self._process = None

    def pause(self) -> None:
        """Make it hang: connections are taken, nothing is answered."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGSTOP)
            # Every thread of it has stopped.
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.prepare()
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


def listens(port: int) -> bool:
    """Return whether somebody takes connections on a port of this machine."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def not_found(*programs: str) -> str:
    """Return which programs are missing, "" if none is."""
    absent = [name for name in programs if shutil.which(name) is None]
    return f"{' and '.join(absent)} not found" if absent else ""

"""The services of compose.yaml as processes of this machine.

Each runs the command line, the variables and the health check that compose.yaml gives
it. Only addresses differ: real servers on 127.0.0.1 stand where the containers'
neighbours would be. As containers do, each service has a data directory of its own; on
the embedded store, which compose.yaml does not use, they share one.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from matyan_project import env
from matyan_project.local_server import free_port
from tests import compose

START_S = 90.0
STOP_S = 40.0
ONCE = "prepare"
SCALED = {"backend": 2, "frontier": 2, "worker-ingestion": 2}
"""How many of each there are; one of the others."""

SECRETS = {
    "MATYAN_SECRET_KEY": "of the distributed test, long enough to be taken for one",
    "POSTGRES_PASSWORD": "not-used",
    "S3_ACCESS_KEY": "not-used",
    "S3_SECRET_KEY": "not-used",
}


@dataclass
class ServiceProcess:
    """One container's worth.

    Attributes:
        name: Its service's, with a number.
        service: As compose.yaml knows it.
        environ: Of its process.
        directory: Its own.
        started: How often it was started.
    """

    name: str
    service: str
    environ: Mapping[str, str]
    directory: Path
    started: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        key = "FRONTIER" if self.service == "frontier" else "BACKEND"
        return f"http://127.0.0.1:{self.environ[f'MATYAN_{key}_PORT']}"

    def start(self) -> None:
        (words,) = compose.command_lines(self.service)
        with (self.directory / f"{self.name}.out").open("ab") as output:
            self.process = subprocess.Popen(
                _manage(*words),
                env=dict(self.environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started += 1

    def kill(self) -> None:
        """Kill -9 it and start it again, as `restart: unless-stopped` does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(20)
        self.start()

    def health(self) -> tuple[int, str]:
        """Return its health check's exit status and words."""
        words = compose.health_check(self.service)
        assert words is not None
        return run_manage(words, self.environ)

    def printed(self) -> str:
        return (self.directory / f"{self.name}.out").read_text(errors="replace")


class Distributed:
    """Everything that compose.yaml starts. Use as a context manager.

    Args:
        directory: Where the services keep their data.
        addresses: Variables that say where the neighbours are.
        shares_data: Whether the services have one data directory.
    """

    def __init__(
        self,
        directory: Path,
        addresses: Mapping[str, str],
        *,
        shares_data: bool = False,
    ) -> None:
        self.directory = directory
        self._addresses = addresses
        self._shares_data = shares_data
        self._gateway_port = free_port()
        self.services = list(self._make())

    def of(self, service: str) -> list[ServiceProcess]:
        """Return the processes of a service."""
        return [one for one in self.services if one.service == service]

    def manage(self, *words: str) -> str:
        """Return what a `manage.py` command prints, run beside the first backend.

        Raises:
            AssertionError: If it fails.
        """
        status, printed = run_manage(words, self.of("backend")[0].environ)
        assert status == 0, printed
        return printed

    def start(self) -> None:
        """Do what runs once, then start everything and wait until it is healthy."""
        for words in compose.command_lines(ONCE):
            self.manage(*words)
        for service in self.services:
            service.start()
        self.wait_healthy()

    def wait_healthy(self) -> None:
        """Wait until every service's own health check passes."""
        deadline = time.monotonic() + START_S
        waiting = self.services
        while waiting:
            failing = [one for one in waiting if one.health()[0] != 0]
            if failing and time.monotonic() > deadline:
                told = [f"{one.name}: {one.printed()[-1500:]}" for one in failing]
                raise AssertionError("\n".join(told))
            waiting = failing

    def stop(self) -> dict[str, int | None]:
        """Stop everything politely; return exit statuses, None where it had to be -9.

        Workers and servers end at once, in no order, as `docker compose down` does.
        """
        running = [one for one in self.services if one.process is not None]
        for one in running:
            assert one.process is not None
            one.process.send_signal(signal.SIGTERM)
        return {one.name: self._end(one) for one in running}

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @staticmethod
    def _end(one: ServiceProcess) -> int | None:
        assert one.process is not None
        process, one.process = one.process, None
        try:
            return process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)
            return None

    def _make(self) -> Iterator[ServiceProcess]:
        for service in compose.OURS:
            if service == ONCE:
                continue
            for number in range(1, SCALED.get(service, 1) + 1):
                yield self._service(service, number)

    def _service(self, service: str, number: int) -> ServiceProcess:
        name = f"{service}-{number}"
        own = self.directory / ("shared" if self._shares_data else name)
        own.mkdir(parents=True, exist_ok=True)
        is_first_gateway = (service, number) == ("frontier", 1)
        is_gateway = service == "frontier" and not is_first_gateway
        environ: dict[str, Any] = {
            **compose.variables(service, SECRETS),
            **self._addresses,
            "MATYAN_DATA_DIR": own,
            "MATYAN_HOST": "127.0.0.1",
            "MATYAN_LOG_FORMAT": "json",
            "MATYAN_BACKEND_PORT": free_port(),
            # Backends tell clients this one; a second gateway needs its own.
            "MATYAN_FRONTIER_PORT": free_port() if is_gateway else self._gateway_port,
        }
        values = {key: str(value) for key, value in environ.items()}
        return ServiceProcess(
            name, service, env.child_environ(**values), self.directory
        )


def _manage(*words: str) -> list[str]:
    return [sys.executable, str(env.BASE_DIR / "manage.py"), *words]


def run_manage(words: Sequence[str], environ: Mapping[str, str]) -> tuple[int, str]:
    """Run a `manage.py` command to its end; return its exit status and output."""
    done = subprocess.run(
        _manage(*words),
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout

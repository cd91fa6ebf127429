"""`manage.py up`: the whole pipeline on this machine, in the foreground."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from typing_extensions import override

from backend.access.addresses import is_loopback
from matyan_project import access, env
from matyan_project.data_dir import DataDirInUseError, DataDirLock
from matyan_project.supervisor import Service, Supervisor

READY_TIMEOUT_S = 60.0
ORPHANS_TIMEOUT_S = 25.0
"""Children that lost their parent end within 20 s (`matyan_project.lifeline`)."""


class Command(BaseCommand):
    help = "Run everything on this machine: gateway, backend and workers."
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's declaration

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--data-dir", help="where data is kept (MATYAN_DATA_DIR)")
        parser.add_argument("--host", help="address to listen on (127.0.0.1)")
        parser.add_argument("--tls-cert", help="certificate of both ports, PEM")
        parser.add_argument("--tls-key", help="the certificate's key, PEM")
        parser.add_argument("--backend-port", type=_port, help="(53800)")
        parser.add_argument("--frontier-port", type=_port, help="(53801)")
        parser.add_argument(
            "--single-port",
            action="store_true",
            help="serve the gateway on the backend's port only",
        )
        parser.add_argument(
            "--workers", type=_count, default=1, help="ingestion workers (1)"
        )

    @override
    def handle(self, **options: Any) -> None:
        started = time.monotonic()
        _restart_if_settings_differ(options)
        host, port = settings.MATYAN_HOST, settings.MATYAN_BACKEND_PORT
        gateway_port = None if options["single_port"] else settings.MATYAN_FRONTIER_PORT
        if gateway_port == port:
            msg = (
                f"Backend and gateway are both to listen on port {port}. To serve both "
                "there use --single-port."
            )
            raise CommandError(msg)
        try:
            access.require_safe_host(host, required=settings.MATYAN_AUTH_REQUIRED)
            access.tls_options(settings.MATYAN_TLS_CERT, settings.MATYAN_TLS_KEY)
        except access.UnsafeListenError as error:
            raise CommandError(str(error)) from None
        try:
            lock = DataDirLock(
                settings.DATA_DIR, patience_s=ORPHANS_TIMEOUT_S, say=self._say
            )
        except DataDirInUseError as error:
            raise CommandError(str(error)) from None
        except OSError as error:
            msg = (
                f"Cannot use the data directory {settings.DATA_DIR}: {error.strerror}."
            )
            raise CommandError(msg) from None
        with lock:
            _require_free(host, port, option="--backend-port")
            if gateway_port is not None:
                _require_free(host, gateway_port, option="--frontier-port")
            call_command("migrate", verbosity=0, interactive=False)
            self._tell_access(host)
            services = _services(host, port, gateway_port, workers=options["workers"])
            # The children keep the lock: killed -9, this process leaves them to finish,
            # and the next one has to wait for the ports and partitions they hold.
            supervisor = Supervisor(
                services, say=self._say, kept_open=[lock.descriptor]
            )
            self._run(supervisor, services, started)

    def _run(
        self, supervisor: Supervisor, services: list[Service], started: float
    ) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: supervisor.request_stop())
        try:
            supervisor.start()
            late = supervisor.wait_ready(timeout_s=READY_TIMEOUT_S)
            if late:
                self._say(f"not ready yet: {', '.join(late)}; see the log lines above")
            else:
                self._announce(services, time.monotonic() - started)
            supervisor.run()
        finally:
            supervisor.stop()
        self._say("stopped")

    def _tell_access(self, host: str) -> None:
        if not settings.MATYAN_AUTH_REQUIRED:
            self._say(access.OPEN)
            return
        default = Path(env.default("MATYAN_DATA_DIR"))
        self._say(access.restricted(settings.DATA_DIR, default=default))
        if not settings.MATYAN_TLS_CERT and not is_loopback(host):
            self._say(access.IN_CLEAR)

    def _announce(self, services: list[Service], seconds: float) -> None:
        for service in services:
            self._say(f"{service.name:<20} {service.url or 'running'}")
        self._say(f"data in {settings.DATA_DIR}")
        self._say(f"ready in {seconds:.1f} s; Ctrl-C stops everything")

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


def _port(text: str) -> int:
    return _whole_number(text, "a port", greatest=65_535)


def _count(text: str) -> int:
    return _whole_number(text, "a number of workers", greatest=64)


def _whole_number(text: str, what: str, *, greatest: int) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= greatest:
        msg = f"{text!r} is not {what}, 1 to {greatest}"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def _restart_if_settings_differ(options: dict[str, Any]) -> None:
    """Start over with the options in the environment, where settings are read from.

    Settings are fixed once Django is set up, which is before a command sees its
    options; the children need the same values in any case.
    """
    wanted = {
        "MATYAN_DATA_DIR": _absolute(options["data_dir"]),
        "MATYAN_HOST": options["host"],
        "MATYAN_TLS_CERT": _absolute(options["tls_cert"]),
        "MATYAN_TLS_KEY": _absolute(options["tls_key"]),
        "MATYAN_BACKEND_PORT": options["backend_port"],
        "MATYAN_FRONTIER_PORT": options["frontier_port"],
    }
    current = env.read()
    changed = {
        name: str(value)
        for name, value in wanted.items()
        if value is not None and str(value) != str(current[name])
    }
    if changed:
        env.restart(sys.argv, changed)


def _absolute(path: str | None) -> str | None:
    return path and str(Path(path).absolute())


def _require_free(host: str, port: int, *, option: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            msg = (
                f"Cannot listen on {host}:{port}: {error.strerror}. "
                f"Choose another port with {option} or another address with --host."
            )
            raise CommandError(msg) from None


def _services(
    host: str, port: int, gateway_port: int | None, *, workers: int
) -> list[Service]:
    manage = [sys.executable, str(env.BASE_DIR / "manage.py")]
    scheme = "https" if settings.MATYAN_TLS_CERT else "http"
    shown = {"0.0.0.0": "localhost", "127.0.0.1": "localhost", "::": "localhost"}.get(  # noqa: S104 - compared, not bound
        host, host
    )
    services = [
        Service(
            name="backend",
            command=[*manage, "serve"],
            environ={"MATYAN_ROLE": "all"},
            url=f"{scheme}://{shown}:{port}",
            ready_url=f"{scheme}://{shown}:{port}/health/ready/",
        )
    ]
    if gateway_port is not None:
        services.append(
            Service(
                name="frontier",
                command=[*manage, "serve"],
                environ={"MATYAN_ROLE": "frontier"},
                url=f"{scheme}://{shown}:{gateway_port}",
                ready_url=f"{scheme}://{shown}:{gateway_port}/health/ready/",
            )
        )
    for number in range(1, workers + 1):
        # Its own name each: the name is also where a worker reports its health.
        name = "ingestion" if workers == 1 else f"ingestion-{number}"
        command = [*manage, "runworker", "ingestion", f"--name={name}"]
        services.append(Service(name=f"worker {name}", command=command, stop_order=1))
    services.append(
        Service(
            name="worker control",
            command=[*manage, "runworker", "control"],
            stop_order=1,
        )
    )
    services.append(
        Service(
            name="worker tasks",
            command=[*manage, "taskworker", "--beat"],
            stop_order=1,
            late=True,
        )
    )
    return services

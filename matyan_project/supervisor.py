"""Runs a set of child processes in the foreground: start, watch, restart, stop.

Every child gets its own session, so that a Ctrl-C on the terminal reaches only the
supervisor and the order of stopping is its own; and a lifeline
(`matyan_project.lifeline`), so that none outlives it. A child that ends by itself is
named and started again, with a growing pause while it keeps failing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from matyan_project import env

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
STEADY_AFTER_S = 20.0
"""A child that lived this long had started well: its next pause is the first again."""


@dataclass(frozen=True, slots=True)
class Service:
    """One child process to keep running.

    Attributes:
        name: Shown to people.
        command: Program and arguments.
        environ: Variables added to the supervisor's own.
        url: Where it can be reached, "" if nowhere.
        ready_url: Answers 200 when it is ready, "" if being alive is enough.
        stop_order: Lower ones are stopped first.
        late: Whether it starts only when the others are ready, to leave them the CPU.
    """

    name: str
    command: Sequence[str]
    environ: dict[str, str] = field(default_factory=dict)
    url: str = ""
    ready_url: str = ""
    stop_order: int = 0
    late: bool = False


@dataclass(slots=True)
class _Child:
    service: Service
    process: subprocess.Popen[bytes]
    started: float
    pause_s: float = FIRST_PAUSE_S
    restart_at: float | None = None
    restarts: int = 0


class Supervisor:
    """Keeps services running until told to stop.

    Args:
        services: What to run, in the order of starting.
        say: Takes one line of text for people.
        stop_timeout_s: Bound on each stopping group before kill -9.
        kept_open: Descriptors every child inherits.
    """

    def __init__(
        self,
        services: Sequence[Service],
        *,
        say: Callable[[str], None],
        stop_timeout_s: float = 15.0,
        kept_open: Sequence[int] = (),
    ) -> None:
        self._services = services
        self._say = say
        self._stop_timeout_s = stop_timeout_s
        self._kept_open = kept_open
        self._children: list[_Child] = []
        self._stopping = threading.Event()
        self._read_end, self._write_end = os.pipe()

    def start(self) -> None:
        """Start every service but those that are to be late."""
        self._start([s for s in self._services if not s.late])

    def wait_ready(self, *, timeout_s: float) -> list[str]:
        """Wait until every service is ready, and start the late ones.

        Returns:
            The names of those that are not ready in time.
        """
        deadline = time.monotonic() + timeout_s
        waiting = [s for s in self._services if s.ready_url]
        while waiting and time.monotonic() < deadline and not self._stopping.is_set():
            waiting = [s for s in waiting if not answers(s.ready_url)]
            self.tend()
            if waiting:
                self._stopping.wait(0.05)
        if not self._stopping.is_set():
            self._start([s for s in self._services if s.late])
        return [service.name for service in waiting]

    def run(self) -> None:
        """Watch the children until `request_stop`, then stop them all."""
        try:
            while not self._stopping.is_set():
                self.tend()
                self._stopping.wait(0.1)
        finally:
            self.stop()

    def request_stop(self) -> None:
        """Make `run` return. May be called from a signal handler."""
        self._stopping.set()

    def tend(self) -> None:
        """Look after each child once: notice what ended, start what is due."""
        for child in self._children:
            self._tend(child, now=time.monotonic())

    def stop(self) -> None:
        """Stop every child, in order, politely first; leave none behind."""
        self._stopping.set()
        orders = sorted({child.service.stop_order for child in self._children})
        for order in orders:
            group = [c for c in self._children if c.service.stop_order == order]
            self._stop_group(group)
        with contextlib.suppress(OSError):
            os.close(self._write_end)
            os.close(self._read_end)

    def pids(self) -> dict[str, int]:
        """Return each service's current process id."""
        return {c.service.name: c.process.pid for c in self._children}

    def _start(self, services: Sequence[Service]) -> None:
        for service in services:
            process = self._spawn(service)
            self._children.append(_Child(service, process, time.monotonic()))

    def _spawn(self, service: Service) -> subprocess.Popen[bytes]:
        environ = env.child_environ(
            **service.environ, MATYAN_LIFELINE_FD=str(self._read_end)
        )
        return subprocess.Popen(  # noqa: S603 - our own command lines
            service.command,
            env=environ,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(self._read_end, *self._kept_open),
        )

    def _tend(self, child: _Child, *, now: float) -> None:
        status = child.process.poll()
        if status is None or self._stopping.is_set():
            return
        if child.restart_at is None:
            if now - child.started > STEADY_AFTER_S:
                child.pause_s = FIRST_PAUSE_S
            self._say(
                f"{child.service.name} ended ({_reason(status)}); "
                f"starting it again in {child.pause_s:.1f} s"
            )
            child.restart_at = now + child.pause_s
            child.pause_s = min(child.pause_s * 2, LONGEST_PAUSE_S)
        elif now >= child.restart_at:
            child.process = self._spawn(child.service)
            child.started, child.restart_at = now, None
            child.restarts += 1

    def _stop_group(self, group: list[_Child]) -> None:
        for child in group:
            _signal(child.process, signal.SIGTERM)
        deadline = time.monotonic() + self._stop_timeout_s
        for child in group:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._say(f"{child.service.name} did not stop in time; killing it")
        for child in group:
            # The whole session: a child's own children go with it.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(5.0)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def _reason(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    return f"killed by {signal.Signals(-status).name}"


def answers(url: str, *, timeout_s: float = 1.0) -> bool:
    """Return whether a server of our own answers 200; its certificate may be any."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with urllib.request.urlopen(url, timeout=timeout_s, context=context) as answer:  # noqa: S310 - our own URL
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False

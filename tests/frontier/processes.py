"""Starts gateway processes and looks at them from outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matyan_project.local_server import free_port

REPOSITORY = Path(__file__).resolve().parents[2]


class GatewayProcess:
    """A running gateway."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, output: Path):
        self.process = process
        self.port = port
        self.output = output
        self.url = f"http://127.0.0.1:{port}"

    def run_url(self, run_id: str) -> str:
        return f"ws://127.0.0.1:{self.port}/api/v1/ws/runs/{run_id}"

    def get(self, path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def peak_rss_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(li for li in status.splitlines() if li.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)


@contextlib.contextmanager
def running_gateway(directory: Path, **settings: Any) -> Iterator[GatewayProcess]:
    """Run a gateway with these Django settings until the block ends."""
    port = free_port()
    output = directory / "gateway.out"
    given = {"ROOT_URLCONF": "frontier.urls", "ALLOWED_HOSTS": ["*"], **settings}
    environ = {
        **os.environ,
        "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'client' / 'src'}",
        "DJANGO_SETTINGS_MODULE": "tests.frontier.gateway_settings",
        "GATEWAY_TEST_SETTINGS": json.dumps(given),
        "MATYAN_ROLE": "frontier",
        "MATYAN_DATA_DIR": str(directory),
    }
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.frontier.gateway_process", str(port)],
            cwd=REPOSITORY,
            env=environ,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    gateway = GatewayProcess(process, port, output)
    try:
        _wait_live(gateway)
        yield gateway
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait(10)


def _wait_live(gateway: GatewayProcess) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and gateway.process.poll() is None:
        with contextlib.suppress(OSError):
            if gateway.get("/health/live/")[0] == 200:
                return
        time.sleep(0.05)
    msg = f"the gateway did not start:\n{gateway.output.read_text()}"
    raise RuntimeError(msg)

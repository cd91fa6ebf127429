"""A throw-away Azure Blob Storage: Azurite, Microsoft's emulator.

Needs Node and npm, and `azure-storage-blob` (requirements-azure.txt). Azurite is
fetched once into `.cache/`.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from matyan_project import env
from matyan_project.local_server import free_port

VERSION = "3.35.0"
HOME = env.BASE_DIR / ".cache" / f"azurite-{VERSION}"

ACCOUNT = "matyantest"
ACCOUNT_KEY = base64.b64encode(b"of a server of the test").decode()
CONTAINER = "artifacts"


def missing() -> str:
    """Return why no server can be had here, "" if one can."""
    absent = [name for name in ("node", "npm") if shutil.which(name) is None]
    if importlib.util.find_spec("azure") is None:
        absent.append("azure-storage-blob")
    return f"{' and '.join(absent)} not found" if absent else ""


class AzureServer:
    """One server in a directory of its own, on 127.0.0.1, with one container."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/{ACCOUNT}"

    @property
    def options(self) -> dict[str, Any]:
        """What `AzureBlobStore` needs for the container."""
        connection = (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};"
            f"AccountKey={ACCOUNT_KEY};BlobEndpoint={self.url};"
        )
        return {"connection_string": connection, "container": CONTAINER}

    def start(self, *, timeout_s: float = 60.0) -> None:
        """Start the server and wait until it takes connections."""
        with (self._directory / "azurite.out").open("ab") as output:
            self._process = subprocess.Popen(
                [
                    "node",
                    str(HOME / "node_modules" / "azurite" / "dist/src/blob/main.js"),
                    "--blobHost=127.0.0.1",
                    f"--blobPort={self._port}",
                    f"--location={self._directory}",
                    "--silent",
                    "--skipApiVersionCheck",
                    "--disableTelemetry",
                ],
                env=env.child_environ(AZURITE_ACCOUNTS=f"{ACCOUNT}:{ACCOUNT_KEY}"),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout_s
        while not _listens(self._port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    (self._directory / "azurite.out").read_text()[-4000:]
                )
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill -9 the server."""
        if self._process is not None:
            self.resume()
            self._process.kill()
            self._process.wait(20)
            self._process = None

    def pause(self) -> None:
        """Make it hang: connections are taken, nothing is answered."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> AzureServer:
        from azure.storage.blob import BlobServiceClient

        _fetch()
        self._directory.mkdir(parents=True, exist_ok=True)
        self.start()
        connection = self.options["connection_string"]
        with contextlib.closing(
            BlobServiceClient.from_connection_string(connection)
        ) as client:
            client.create_container(CONTAINER)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


def _fetch() -> None:
    if HOME.exists():
        return
    draft = HOME.with_name(f"{HOME.name}.{os.getpid()}")
    draft.mkdir(parents=True)
    subprocess.run(
        [
            "npm",
            "install",
            "--silent",
            "--no-audit",
            "--no-fund",
            f"--prefix={draft}",
            f"azurite@{VERSION}",
        ],
        check=True,
        capture_output=True,
        timeout=300,
    )
    with contextlib.suppress(OSError):  # another process was faster
        draft.rename(HOME)
    shutil.rmtree(draft, ignore_errors=True)


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False

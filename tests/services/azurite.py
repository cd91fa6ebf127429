"""A throw-away Azure Blob Storage: Azurite, Microsoft's emulator.

Needs Node and npm, and `azure-storage-blob` (requirements-azure.txt). Azurite is
fetched once into `.cache/`.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
from pathlib import Path
from typing import Any

from typing_extensions import override

from matyan_project import env
from tests.services.fetching import fetch_once, run_fetch
from tests.services.server_process import ServerProcess, not_found

VERSION = "3.35.0"

ACCOUNT = "matyantest"
ACCOUNT_KEY = base64.b64encode(b"of a server of the test").decode()
CONTAINER = "artifacts"


def missing() -> str:
    """Return why no server can be had here, "" if one can."""
    absent = not_found("node", "npm")
    if not absent and importlib.util.find_spec("azure") is None:
        absent = "azure-storage-blob not found"
    return absent


class AzureServer(ServerProcess):
    """One server with one container."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{ACCOUNT}"

    @property
    def options(self) -> dict[str, Any]:
        """What `AzureBlobStore` needs for the container."""
        connection = (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};"
            f"AccountKey={ACCOUNT_KEY};BlobEndpoint={self.url};"
        )
        return {"connection_string": connection, "container": CONTAINER}

    @override
    def command(self) -> list[str]:
        home = fetch_once(f"azurite-{VERSION}", _fetch)
        return [
            "node",
            str(home / "node_modules" / "azurite" / "dist/src/blob/main.js"),
            "--blobHost=127.0.0.1",
            f"--blobPort={self.port}",
            f"--location={self.directory}",
            "--silent",
            "--skipApiVersionCheck",
            "--disableTelemetry",
        ]

    @override
    def environ(self) -> dict[str, str]:
        return env.child_environ(AZURITE_ACCOUNTS=f"{ACCOUNT}:{ACCOUNT_KEY}")

    @override
    def __enter__(self) -> AzureServer:
        from azure.storage.blob import BlobServiceClient

        super().__enter__()
        connection = self.options["connection_string"]
        with contextlib.closing(
            BlobServiceClient.from_connection_string(connection)
        ) as client:
            client.create_container(CONTAINER)
        return self


def _fetch(directory: Path) -> None:
    run_fetch(
        *("npm", "install", "--silent", "--no-audit", "--no-fund"),
        f"--prefix={directory}",
        f"azurite@{VERSION}",
    )

"""A throw-away S3 server that verifies signatures: S3Proxy, on files or in memory.

On files it has no blob whose key begins with another's and a "/".

Needs Java 11 or newer and Maven. The jar is fetched once into `.cache/`.
"""

from __future__ import annotations

import contextlib
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from typing_extensions import override

from tests.services.fetching import fetch_once, run_fetch
from tests.services.server_process import ServerProcess, not_found

VERSION = "2.6.0"

ACCESS_KEY = "matyan-test"
SECRET_KEY = "matyan-test-secret"  # noqa: S105 - of a server of the test
BUCKET = "artifacts"

_PROPERTIES = """\
s3proxy.endpoint=http://127.0.0.1:{port}
s3proxy.authorization=aws-v2-or-v4
s3proxy.identity={access_key}
s3proxy.credential={secret_key}
s3proxy.v4-max-non-chunked-request-size=67108864
jclouds.provider={provider}
jclouds.filesystem.basedir={directory}
"""


def missing() -> str:
    """Return why no server can be had here, "" if one can."""
    return not_found("java", "mvn")


class S3Server(ServerProcess):
    """One server with one bucket.

    Args:
        directory: Where it keeps everything.
        provider: jclouds' word for where blobs are: `filesystem` or `transient`.
    """

    def __init__(self, directory: Path, *, provider: str = "filesystem") -> None:
        super().__init__(directory)
        self._provider = provider

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def options(self) -> dict[str, Any]:
        """What `S3BlobStore` needs for the bucket."""
        return {
            "bucket": BUCKET,
            "endpoint": self.url,
            "access_key": ACCESS_KEY,
            "secret_key": SECRET_KEY,
        }

    @property
    def settings(self) -> dict[str, str]:
        """What a server process needs to keep its blobs here."""
        return {
            "BLOB_BACKEND_TYPE": "s3",
            "S3_ENDPOINT": self.url,
            "S3_ACCESS_KEY": ACCESS_KEY,
            "S3_SECRET_KEY": SECRET_KEY,
            "S3_BUCKET": BUCKET,
        }

    @override
    def prepare(self) -> None:
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        (self.directory / "s3proxy.conf").write_text(
            _PROPERTIES.format(
                port=self.port,
                provider=self._provider,
                access_key=ACCESS_KEY,
                secret_key=SECRET_KEY,
                directory=data,
            )
        )

    @override
    def command(self) -> list[str]:
        home = fetch_once(f"s3proxy-{VERSION}", _fetch_jar)
        return [
            *("java", "-Xmx384m", "-XX:+UseSerialGC", "-cp", f"{home}/*"),
            *("org.gaul.s3proxy.Main", "--properties"),
            str(self.directory / "s3proxy.conf"),
        ]

    @override
    def answers(self) -> bool:
        try:
            urllib.request.urlopen(self.url, timeout=2).close()
        except urllib.error.HTTPError as error:
            error.close()
            return True  # 403: nobody has signed
        except OSError:
            return False
        return True

    def client(self) -> Any:
        """A plain boto3 client, for looking behind the store's back."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            config=Config(
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    @override
    def __enter__(self) -> S3Server:
        super().__enter__()
        with contextlib.closing(self.client()) as client:
            client.create_bucket(Bucket=BUCKET)
        return self


def _fetch_jar(directory: Path) -> None:
    artifact = f"org.gaul:s3proxy:{VERSION}:jar:jar-with-dependencies"
    run_fetch(
        *("mvn", "--batch-mode", "--quiet", "dependency:copy"),
        f"-Dartifact={artifact}",
        f"-DoutputDirectory={directory}",
    )

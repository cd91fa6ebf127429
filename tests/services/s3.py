"""A throw-away S3 server that verifies signatures: S3Proxy, on files or in memory.

On files it has no blob whose key begins with another's and a "/".

Needs Java 11 or newer and Maven. The jar is fetched once into `.cache/`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

import boto3
from botocore.config import Config

from matyan_project import env
from matyan_project.local_server import free_port

VERSION = "2.6.0"
HOME = env.BASE_DIR / ".cache" / f"s3proxy-{VERSION}"
JAR = HOME / f"s3proxy-{VERSION}-jar-with-dependencies.jar"

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
    absent = [name for name in ("java", "mvn") if shutil.which(name) is None]
    return f"{' and '.join(absent)} not found" if absent else ""


class S3Server:
    """One server in a directory of its own, on 127.0.0.1, with one bucket.

    Use as a context manager. `pause` makes it hang, `kill` and `start` take it down
    and up with its data.
    """

    def __init__(self, directory: Path, *, provider: str = "filesystem") -> None:
        self._directory = directory
        self._provider = provider
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

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
    def environ(self) -> dict[str, str]:
        """What a server process needs to keep its blobs here."""
        return {
            "BLOB_BACKEND_TYPE": "s3",
            "S3_ENDPOINT": self.url,
            "S3_ACCESS_KEY": ACCESS_KEY,
            "S3_SECRET_KEY": SECRET_KEY,
            "S3_BUCKET": BUCKET,
        }

    def start(self, *, timeout_s: float = 60.0) -> None:
        """Start the server and wait until it answers."""
        with (self._directory / "s3proxy.out").open("ab") as output:
            self._process = subprocess.Popen(
                [
                    "java",
                    "-Xmx384m",
                    "-XX:+UseSerialGC",
                    "-cp",
                    str(JAR),
                    "org.gaul.s3proxy.Main",
                    "--properties",
                    str(self._directory / "s3proxy.conf"),
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout_s
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    (self._directory / "s3proxy.out").read_text()[-4000:]
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
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

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

    def __enter__(self) -> S3Server:
        _fetch_jar()
        data = self._directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        (self._directory / "s3proxy.conf").write_text(
            _PROPERTIES.format(
                port=self._port,
                provider=self._provider,
                access_key=ACCESS_KEY,
                secret_key=SECRET_KEY,
                directory=data,
            )
        )
        self.start()
        with contextlib.closing(self.client()) as client:
            client.create_bucket(Bucket=BUCKET)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(self.url, timeout=2).close()
        except urllib.error.HTTPError as error:
            error.close()
            return True  # 403: nobody has signed
        except OSError:
            return False
        return True


def _fetch_jar() -> None:
    if JAR.exists():
        return
    draft = HOME.with_name(f"{HOME.name}.{os.getpid()}")
    draft.mkdir(parents=True, exist_ok=True)
    artifact = f"org.gaul:s3proxy:{VERSION}:jar:jar-with-dependencies"
    subprocess.run(
        [
            "mvn",
            "--batch-mode",
            "--quiet",
            "dependency:copy",
            f"-Dartifact={artifact}",
            f"-DoutputDirectory={draft}",
        ],
        check=True,
        capture_output=True,
        timeout=300,
    )
    HOME.mkdir(parents=True, exist_ok=True)
    (draft / JAR.name).replace(JAR)
    shutil.rmtree(draft)

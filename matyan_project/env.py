"""The environment: every variable this product reads, in one table.

This is the only module that touches `os.environ`. Settings are built from `read()`;
`docs/reference/settings.md` is generated from `VARS` (`manage.py reference`).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

BASE_DIR = Path(__file__).resolve().parent.parent


class BadVariableError(SystemExit):
    """A variable has a value that cannot be meant; stops the process with a message."""

    def __init__(self, name: str, value: str, expected: str) -> None:
        super().__init__(f"{name}={value!r} cannot be used: expected {expected}.")


def _boolean(text: str) -> bool:
    word = text.strip().lower()
    if word in {"1", "true", "yes", "on"}:
        return True
    if word in {"0", "false", "no", "off", ""}:
        return False
    raise ValueError


def _port(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 65_535:
        raise ValueError
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number <= 0:
        raise ValueError
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number < 1e9:
        raise ValueError
    return number


def _hours(text: str) -> float:
    return _seconds(text)


def _strings(text: str) -> list[str]:
    """Take a JSON list or a comma-separated one."""
    if text.lstrip().startswith("["):
        return [str(item) for item in json.loads(text)]
    return [item.strip() for item in text.split(",") if item.strip()]


def _choice(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError
        return text

    parse.__doc__ = f"one of {', '.join(filter(None, words))}"
    return parse


_EXPECTED: Mapping[Callable[[str], Any], str] = {
    _boolean: "true or false",
    _port: "a port, 1 to 65535",
    _positive: "a whole number above 0",
    _seconds: "a number of seconds, 0 or more",
    _hours: "a number of hours, 0 or more",
    _strings: "a comma-separated or JSON list",
    str: "text",
}


@dataclass(frozen=True, slots=True)
class Var:
    """One variable.

    Attributes:
        name: Its name in the environment.
        parse: Text to value; ValueError when it cannot.
        default: Text taken when the variable is missing.
        help: One sentence for the reference page.
        secret: Whether its value must never be shown.
    """

    name: str
    parse: Callable[[str], Any]
    default: str
    help: str
    secret: bool = False

    @property
    def expected(self) -> str:
        """What a value must look like, in words."""
        return _EXPECTED.get(self.parse, self.parse.__doc__ or "a usable value")


VARS: tuple[Var, ...] = (
    Var(
        "MATYAN_ENVIRONMENT",
        _choice("dev", "production"),
        "dev",
        "`production` refuses defaults that are only safe on one machine.",
    ),
    Var(
        "MATYAN_DATA_DIR",
        str,
        str(BASE_DIR / "data"),
        "Where the embedded engines, blobs and SQLite keep their files.",
    ),
    Var(
        "MATYAN_SECRET_KEY",
        str,
        "",
        "Django's signing key; empty: made once and kept in the data directory.",
        secret=True,
    ),
    Var("MATYAN_HOST", str, "127.0.0.1", "Address to listen on."),
    Var(
        "MATYAN_AUTH",
        _choice("", "required", "off"),
        "",
        "`required`: every route needs a token or a person signed in. `off`: nobody is "
        "asked; only possible on a loopback address. Empty: `off` on a loopback "
        "address, `required` on any other and in production.",
    ),
    Var(
        "MATYAN_TLS_CERT",
        str,
        "",
        "File with the certificate (and its chain, PEM) both ports serve; empty: "
        "plain HTTP.",
    ),
    Var("MATYAN_TLS_KEY", str, "", "File with the certificate's key (PEM)."),
    Var("MATYAN_BACKEND_PORT", _port, "53800", "Port of the backend."),
    Var("MATYAN_FRONTIER_PORT", _port, "53801", "Port of the gateway."),
    Var(
        "MATYAN_ROLE",
        _choice("backend", "frontier", "all"),
        "all",
        "Whose routes this process serves.",
    ),
    Var(
        "MATYAN_ALLOWED_HOSTS",
        _strings,
        "*",
        "Host names requests may carry (Django's ALLOWED_HOSTS).",
    ),
    Var(
        "CORS_ORIGINS",
        _strings,
        "http://localhost:3000,http://localhost:8000,http://localhost:8080,"
        "http://localhost:53800,http://127.0.0.1:8000,http://127.0.0.1:53800",
        "Origins that may call the API from a browser page of another origin.",
    ),
    Var(
        "LOG_LEVEL",
        _choice("DEBUG", "INFO", "WARNING", "ERROR"),
        "INFO",
        "Least severe log level written.",
    ),
    Var(
        "MATYAN_LOG_FORMAT",
        _choice("text", "json"),
        "text",
        "One line a record, for people or for machines.",
    ),
    Var(
        "MATYAN_STORE_ENGINE",
        _choice("embedded", "foundationdb"),
        "embedded",
        "Key-value store.",
    ),
    Var(
        "MATYAN_STORE_MAX_BYTES",
        _positive,
        str(1 << 40),
        "Greatest size the embedded store may grow to.",
    ),
    Var(
        "MATYAN_FDB_CLUSTER_FILE",
        str,
        "",
        "FoundationDB cluster file; empty: FoundationDB's own default.",
    ),
    Var(
        "MATYAN_FDB_LIBRARY",
        str,
        "",
        "Path of libfdb_c.so; empty: where the dynamic loader finds it.",
    ),
    Var("MATYAN_EVENT_LOG_ENGINE", _choice("local", "kafka"), "local", "Event log."),
    Var(
        "MATYAN_EVENT_LOG_MAX_BYTES",
        _positive,
        str(64 << 30),
        "Greatest size the local event log may grow to before it refuses records.",
    ),
    Var(
        "KAFKA_BOOTSTRAP_SERVERS",
        str,
        "localhost:9092",
        "Kafka brokers to start from, comma-separated host:port.",
    ),
    Var(
        "KAFKA_SECURITY_PROTOCOL",
        _choice("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
        "PLAINTEXT",
        "How to speak to the brokers.",
    ),
    Var("KAFKA_SASL_MECHANISM", str, "", "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512."),
    Var("KAFKA_SASL_USERNAME", str, "", "User name for SASL."),
    Var("KAFKA_SASL_PASSWORD", str, "", "Password for SASL.", secret=True),
    Var("KAFKA_SSL_CA_LOCATION", str, "", "File with the brokers' CA certificates."),
    Var(
        "KAFKA_REPLICATION_FACTOR",
        _positive,
        "1",
        "Copies of each topic that `topics create` asks for.",
    ),
    Var(
        "KAFKA_RETENTION_SECONDS",
        _seconds,
        str(7 * 86_400),
        "How long Kafka keeps records that no worker has consumed: the longest outage "
        "of the workers to be survived; 0: for ever.",
    ),
    Var(
        "KAFKA_TOPIC_PREFIX",
        str,
        "",
        "Put before the name of every topic and consumer group.",
    ),
    Var(
        "BLOB_BACKEND_TYPE",
        _choice("file", "s3", "gcs", "azure"),
        "file",
        "Blob store: files of the data directory, or an object store.",
    ),
    Var(
        "BLOB_URI_SECRET",
        str,
        "",
        "Signs upload addresses and blob URIs; the same on every server; empty: "
        "MATYAN_SECRET_KEY.",
        secret=True,
    ),
    Var(
        "MATYAN_PUBLIC_URL",
        str,
        "",
        "What upload addresses of this server begin with; empty: what the client "
        "itself used.",
    ),
    Var(
        "MATYAN_TRUST_FORWARDED",
        _boolean,
        "false",
        "Believe X-Forwarded-Proto, -Host and -Prefix: only behind a proxy that sets "
        "them.",
    ),
    Var(
        "MATYAN_REPORT_SCRIPTS",
        _boolean,
        "false",
        "Run the Python in reports, in the browser and with the session of whoever "
        "opens one: only where everybody who may write reports is trusted.",
    ),
    Var(
        "MATYAN_MAX_UPLOAD_BYTES",
        _positive,
        str(64 << 30),
        "Greatest size of one artifact, picture or sound.",
    ),
    Var("S3_ENDPOINT", str, "", "URL of the S3 server; empty: AWS."),
    Var(
        "S3_PUBLIC_ENDPOINT",
        str,
        "",
        "URL of the S3 server as clients reach it; empty: S3_ENDPOINT.",
    ),
    Var("S3_ACCESS_KEY", str, "", "Empty: boto3's own credentials.", secret=True),
    Var("S3_SECRET_KEY", str, "", "Secret of S3_ACCESS_KEY.", secret=True),
    Var("S3_BUCKET", str, "matyan-artifacts", "Bucket; it must exist."),
    Var("S3_REGION", str, "us-east-1", "Region that requests are signed for."),
    Var(
        "S3_PRESIGN_EXPIRY",
        _positive,
        "3600",
        "Seconds for which an upload address may be used, whatever the blob store.",
    ),
    Var("GCS_BUCKET", str, "", "Bucket of Google Cloud Storage; it must exist."),
    Var(
        "GCS_ACCESS_KEY",
        str,
        "",
        "Id of an HMAC key of a service account that may use GCS_BUCKET.",
        secret=True,
    ),
    Var("GCS_SECRET_KEY", str, "", "Secret of GCS_ACCESS_KEY.", secret=True),
    Var(
        "AZURE_CONN_STR",
        str,
        "",
        "Connection string of Azure Blob Storage, with an account key.",
        secret=True,
    ),
    Var(
        "AZURE_ACCOUNT_URL",
        str,
        "",
        "URL of the Azure account as clients reach it; empty: as in AZURE_CONN_STR.",
    ),
    Var("AZURE_CONTAINER", str, "matyan-artifacts", "Container; it must exist."),
    Var(
        "MATYAN_DATABASE_URL",
        str,
        "",
        "PostgreSQL for users, tokens and audit "
        "(postgresql://user:password@host:port/name); empty: SQLite.",
        secret=True,
    ),
    Var(
        "MATYAN_ACK_HOLD_SECONDS",
        _seconds,
        "40",
        "How long the gateway holds an acknowledgement while the event log fails.",
    ),
    Var(
        "SHUTDOWN_FLUSH_TIMEOUT",
        _seconds,
        "5",
        "How long a stopping server finishes what is in flight.",
    ),
    Var(
        "INGEST_BATCH_RECORDS",
        _positive,
        "500",
        "Most records a worker takes from the event log at a time.",
    ),
    Var(
        "INGEST_BATCH_BYTES",
        _positive,
        str(8 << 20),
        "Most bytes a worker takes from the event log at a time.",
    ),
    Var(
        "MATYAN_TASK_BROKER_URL",
        str,
        "",
        "Celery's broker (redis://…, amqp://…); empty: files in the data directory, "
        "for one machine.",
        secret=True,
    ),
    Var(
        "MATYAN_NOTIFIERS",
        _strings,
        "",
        "Dotted paths of functions told of deleted and archived things.",
    ),
    Var(
        "MATYAN_STALE_RUN_HOURS",
        _hours,
        "168",
        "Active runs without data for so many hours are marked finished; 0: never.",
    ),
    Var(
        "MATYAN_TOMBSTONE_HOURS",
        _hours,
        "720",
        "How many hours a deleted run's id takes no data; 0: for ever.",
    ),
    Var(
        "MATYAN_ORPHAN_BLOB_HOURS",
        _hours,
        "168",
        "Files that no run knows are removed when so many hours old; 0: never.",
    ),
    Var(
        "MATYAN_BACKUP_DIR",
        str,
        "",
        "Where a backup of the store is written every day; empty: nowhere, or with "
        "MATYAN_BACKUP_STORAGE in the data directory until it is stored.",
    ),
    Var(
        "MATYAN_BACKUP_STORAGE",
        _choice("directory", "s3", "azure"),
        "directory",
        "Where backups stay: in that directory, or in an object store, with the "
        "endpoint and credentials of the S3_ or AZURE_ variables.",
    ),
    Var(
        "MATYAN_BACKUP_BUCKET",
        str,
        "matyan-backups",
        "Bucket or container of the backups; it must exist.",
    ),
    Var(
        "MATYAN_BACKUP_KEEP",
        _positive,
        "7",
        "How many backups are kept there.",
    ),
    Var(
        "MATYAN_LIFELINE_FD",
        str,
        "",
        "Set by `manage.py up` for its children: a pipe that closes when it ends.",
    ),
)


def read(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return every variable's value, defaults filled in.

    Raises:
        BadVariableError: If a value cannot be parsed; names the variable.
    """
    source = os.environ if environ is None else environ
    return {var.name: _value(var, source.get(var.name, var.default)) for var in VARS}


def _value(var: Var, text: str) -> Any:
    try:
        return var.parse(text)
    except ValueError:
        shown = "…" if var.secret else text
        raise BadVariableError(var.name, shown, var.expected) from None


def default(name: str) -> str:
    """Return the text a variable has when it is not set."""
    return next(var.default for var in VARS if var.name == name)


def use_settings(module: str) -> None:
    """Choose Django's settings module unless the environment already has."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", module)


def restart(argv: list[str], changes: Mapping[str, str]) -> NoReturn:
    """Replace this process by itself with `changes` in its environment."""
    os.environ.update(changes)
    os.execv(sys.executable, [sys.executable, *argv])  # noqa: S606 - the same program again


def child_environ(**changes: str) -> dict[str, str]:
    """Return this process's environment with `changes`, for a child process."""
    return {**os.environ, **changes}

"""Where backups are kept: a directory, or an object store through django-storages.

Django's own storage setting (`STORAGES["backups"]`): the store's bucket is another than
the artifacts', so that one mistake cannot take both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

ALIAS: Final = "backups"

_STATIC: Final = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
_TIMEOUT_S: Final = 60
_ATTEMPTS: Final = 4


def storages(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return Django's `STORAGES`.

    Args:
        values: Every variable's value, as from `matyan_project.env.read`.
    """
    found: dict[str, Any] = {
        "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
        "staticfiles": _STATIC,
    }
    kind = values["MATYAN_BACKUP_STORAGE"]
    if kind == "s3":
        found[ALIAS] = _s3(values)
    elif kind == "azure":
        found[ALIAS] = _azure(values)
    return found


def _s3(values: Mapping[str, Any]) -> dict[str, Any]:
    from botocore.config import Config  # noqa: PLC0415 - only those who use S3 wait for it

    return {
        "BACKEND": "storages.backends.s3.S3Storage",
        "OPTIONS": {
            "bucket_name": values["MATYAN_BACKUP_BUCKET"],
            "endpoint_url": values["S3_ENDPOINT"] or None,
            "access_key": values["S3_ACCESS_KEY"] or None,
            "secret_key": values["S3_SECRET_KEY"] or None,
            "region_name": values["S3_REGION"],
            "default_acl": None,
            # A job that runs again writes the same backup again, not one beside it.
            "file_overwrite": True,
            "client_config": Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                connect_timeout=_TIMEOUT_S,
                read_timeout=_TIMEOUT_S,
                retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
                # Not every S3-compatible server knows the newer checksums.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        },
    }


def _azure(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "BACKEND": "storages.backends.azure_storage.AzureStorage",
        "OPTIONS": {
            "connection_string": values["AZURE_CONN_STR"],
            "azure_container": values["MATYAN_BACKUP_BUCKET"],
            "overwrite_files": True,
            "timeout": _TIMEOUT_S,
        },
    }

"""Settings shared by every environment; values come from `matyan_project.env`."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import Any

from matyan_project import env
from matyan_project.access import auth_required
from matyan_project.backup_storage import storages
from matyan_project.data_dir import keep_private
from matyan_project.databases import database
from matyan_project.logs import logging_config
from matyan_project.secret_key import load_secret_key
from matyan_project.task_settings import celery_settings

ENV = env.read()
BASE_DIR = env.BASE_DIR
DATA_DIR = Path(ENV["MATYAN_DATA_DIR"]).expanduser().absolute()
# Here, because every server, worker and command comes by before it opens anything.
keep_private(DATA_DIR)

MATYAN_VERSION = "0.4.0"
MATYAN_ENVIRONMENT: str = ENV["MATYAN_ENVIRONMENT"]
MATYAN_ROLE: str = ENV["MATYAN_ROLE"]
MATYAN_HOST: str = ENV["MATYAN_HOST"]
MATYAN_AUTH_REQUIRED = auth_required(
    ENV["MATYAN_AUTH"],
    host=MATYAN_HOST,
    production=MATYAN_ENVIRONMENT == "production",
)
MATYAN_TLS_CERT: str = ENV["MATYAN_TLS_CERT"]
MATYAN_TLS_KEY: str = ENV["MATYAN_TLS_KEY"]
MATYAN_BACKEND_PORT: int = ENV["MATYAN_BACKEND_PORT"]
MATYAN_FRONTIER_PORT: int = ENV["MATYAN_FRONTIER_PORT"]
MATYAN_GATEWAY_SAME_ORIGIN = MATYAN_ROLE in {"all", "frontier"}
MATYAN_ACK_HOLD_SECONDS: float = ENV["MATYAN_ACK_HOLD_SECONDS"]
MATYAN_DRAIN_SECONDS: float = ENV["SHUTDOWN_FLUSH_TIMEOUT"]
MATYAN_INGEST_BATCH_RECORDS: int = ENV["INGEST_BATCH_RECORDS"]
MATYAN_INGEST_BATCH_BYTES: int = ENV["INGEST_BATCH_BYTES"]

MATYAN_FDB_LIBRARY: str = ENV["MATYAN_FDB_LIBRARY"]
MATYAN_STORE: dict[str, Any] = {
    "embedded": {
        "ENGINE": "backend.storage.engine.embedded.EmbeddedEngine",
        "OPTIONS": {
            "path": str(DATA_DIR / "store"),
            "max_map_bytes": ENV["MATYAN_STORE_MAX_BYTES"],
        },
    },
    "foundationdb": {
        "ENGINE": "backend.storage.engine.fdb.FdbEngine",
        "OPTIONS": {
            "cluster_file": ENV["MATYAN_FDB_CLUSTER_FILE"] or None,
            "library": MATYAN_FDB_LIBRARY or None,
        },
    },
}[ENV["MATYAN_STORE_ENGINE"]]

MATYAN_BUS: dict[str, Any] = {
    "local": {
        "ENGINE": "backend.bus.local.LocalEventLog",
        "OPTIONS": {
            "path": str(DATA_DIR / "log"),
            "max_bytes": ENV["MATYAN_EVENT_LOG_MAX_BYTES"],
        },
    },
    "kafka": {
        "ENGINE": "backend.bus.kafka.KafkaEventLog",
        "OPTIONS": {
            "bootstrap_servers": ENV["KAFKA_BOOTSTRAP_SERVERS"],
            "security_protocol": ENV["KAFKA_SECURITY_PROTOCOL"],
            "sasl_mechanism": ENV["KAFKA_SASL_MECHANISM"],
            "sasl_username": ENV["KAFKA_SASL_USERNAME"],
            "sasl_password": ENV["KAFKA_SASL_PASSWORD"],
            "ssl_ca_location": ENV["KAFKA_SSL_CA_LOCATION"],
            "replication_factor": ENV["KAFKA_REPLICATION_FACTOR"],
            "retention_s": ENV["KAFKA_RETENTION_SECONDS"],
            "topic_prefix": ENV["KAFKA_TOPIC_PREFIX"],
        },
    },
}[ENV["MATYAN_EVENT_LOG_ENGINE"]]

CELERY = celery_settings(ENV["MATYAN_TASK_BROKER_URL"], data_dir=DATA_DIR)
MATYAN_NOTIFIERS: list[str] = ENV["MATYAN_NOTIFIERS"]
# One machine's workers are known by their health files, without a write every 5 s.
MATYAN_SHARED_HEARTBEATS = bool(ENV["MATYAN_DATABASE_URL"])
MATYAN_STALE_RUN_HOURS: float = ENV["MATYAN_STALE_RUN_HOURS"]
MATYAN_TOMBSTONE_HOURS: float = ENV["MATYAN_TOMBSTONE_HOURS"]
MATYAN_ORPHAN_BLOB_HOURS: float = ENV["MATYAN_ORPHAN_BLOB_HOURS"]
MATYAN_BACKUP_DIR: str = ENV["MATYAN_BACKUP_DIR"]
MATYAN_BACKUP_KEEP: int = ENV["MATYAN_BACKUP_KEEP"]

SECRET_KEY = load_secret_key(
    ENV["MATYAN_SECRET_KEY"],
    path=DATA_DIR / "secret_key",
    production=MATYAN_ENVIRONMENT == "production",
)
MATYAN_BLOB_SECRET: str = ENV["BLOB_URI_SECRET"] or SECRET_KEY
MATYAN_PUBLIC_URL: str = ENV["MATYAN_PUBLIC_URL"]
MATYAN_TRUST_FORWARDED: bool = ENV["MATYAN_TRUST_FORWARDED"]
MATYAN_REPORT_SCRIPTS: bool = ENV["MATYAN_REPORT_SCRIPTS"]
MATYAN_MAX_UPLOAD_BYTES: int = ENV["MATYAN_MAX_UPLOAD_BYTES"]
MATYAN_UPLOAD_EXPIRY_SECONDS: int = ENV["S3_PRESIGN_EXPIRY"]

MATYAN_BLOBS: dict[str, Any] = {
    "file": {
        "ENGINE": "backend.blobs.filesystem.FilesystemBlobStore",
        "OPTIONS": {"path": str(DATA_DIR / "blobs"), "secret": MATYAN_BLOB_SECRET},
    },
    "s3": {
        "ENGINE": "backend.blobs.s3.S3BlobStore",
        "OPTIONS": {
            "bucket": ENV["S3_BUCKET"],
            "endpoint": ENV["S3_ENDPOINT"],
            "public_endpoint": ENV["S3_PUBLIC_ENDPOINT"],
            "access_key": ENV["S3_ACCESS_KEY"],
            "secret_key": ENV["S3_SECRET_KEY"],
            "region": ENV["S3_REGION"],
        },
    },
    "gcs": {
        "ENGINE": "backend.blobs.gcs.GcsBlobStore",
        "OPTIONS": {
            "bucket": ENV["GCS_BUCKET"],
            "access_key": ENV["GCS_ACCESS_KEY"],
            "secret_key": ENV["GCS_SECRET_KEY"],
        },
    },
    "azure": {
        "ENGINE": "backend.blobs.azure.AzureBlobStore",
        "OPTIONS": {
            "connection_string": ENV["AZURE_CONN_STR"],
            "public_url": ENV["AZURE_ACCOUNT_URL"],
            "container": ENV["AZURE_CONTAINER"],
        },
    },
}[ENV["BLOB_BACKEND_TYPE"]]

DEBUG = False
ALLOWED_HOSTS: list[str] = ENV["MATYAN_ALLOWED_HOSTS"]
CORS_ORIGINS: list[str] = ENV["CORS_ORIGINS"]

INSTALLED_APPS = [
    "backend.apps.OperatorsAdminConfig",  # in place of "django.contrib.admin"
    "matyan_project",  # before "auth": its createsuperuser extends that one
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "workers",  # before "channels": its runworker extends the one of Channels
    "channels",
    "backend",
    "frontier",
]

MIDDLEWARE = [
    "backend.api.middleware.RequestIdMiddleware",
    "backend.api.middleware.PathMiddleware",
    "backend.api.middleware.CorsMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "backend.api.static_files.StaticFilesMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "backend.api.access.AccessMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

ROOT_URLCONF = "matyan_project.urls"
ASGI_APPLICATION = "matyan_project.asgi.application"
APPEND_SLASH = False

DATABASES = {"default": database(ENV["MATYAN_DATABASE_URL"], data_dir=DATA_DIR)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

STORAGES = storages(ENV)
STATIC_URL = "/static/"
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = False

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
FORMAT_MODULE_PATH = ["matyan_project.formats"]
USE_I18N = False

DATA_UPLOAD_MAX_MEMORY_SIZE = 32 * 1024 * 1024
AUTHENTICATION_BACKENDS = ["backend.access.people.PasswordBackend"]
LOGIN_URL = "/sign-in"
# Cookies do not know ports: two servers on one host would sign each other's people out.
_INSTALLATION = blake2b(
    SECRET_KEY.encode(), digest_size=4, person=b"cookies"
).hexdigest()
SESSION_COOKIE_NAME = f"matyan_session_{_INSTALLATION}"
CSRF_COOKIE_NAME = f"matyan_csrf_{_INSTALLATION}"
CSRF_FAILURE_VIEW = "backend.api.handlers.csrf_failure"
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = bool(MATYAN_TLS_CERT)
X_FRAME_OPTIONS = "DENY"

REST_FRAMEWORK = {
    "DEFAULT_RENDERER_CLASSES": [
        "rest_framework.renderers.JSONRenderer",
        "rest_framework.renderers.BrowsableAPIRenderer",
    ],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "backend.api.handlers.exception_handler",
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "backend.api.permissions.TokenAuthentication",
        "backend.api.permissions.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["backend.api.permissions.ScopeAccess"],
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
    "COERCE_DECIMAL_TO_STRING": False,
    "STRICT_JSON": False,
}

SPECTACULAR_SETTINGS = {
    "TITLE": "Matyan",
    "DESCRIPTION": "Runs, metrics, experiments and tags of machine-learning training.",
    "VERSION": MATYAN_VERSION,
    "SERVE_INCLUDE_SCHEMA": False,
}

LOGGING = logging_config(level=ENV["LOG_LEVEL"], style=ENV["MATYAN_LOG_FORMAT"])

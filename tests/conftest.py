"""Fixtures every part shares: throw-away stores and logs, and `--require`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from backend import runtime as opened_runtime
from backend.bus.factory import open_event_log
from backend.bus.topics import TOPICS
from backend.storage.factory import open_store
from tests.services.requirements import require

hypothesis_settings.register_profile(
    "default",
    deadline=None,  # a shared machine's speed is not a property of the code
    max_examples=50,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.function_scoped_fixture,
    ],
)
hypothesis_settings.load_profile("default")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require",
        default="",
        help="services whose absence is a failure, comma-separated: "
        "fdb,kafka,s3,azure,postgresql,redis,browser",
    )


@pytest.fixture(scope="session")
def required_services(request: pytest.FixtureRequest) -> frozenset[str]:
    """Services that must be there; the others are skipped when missing."""
    text: str = request.config.getoption("--require")
    return frozenset(word.strip() for word in text.split(",") if word.strip())


@pytest.fixture(scope="session", autouse=True)
def _private_journals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the SDK's journals out of the home directory, and nothing syncing later."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MATYAN_DIR", str(tmp_path_factory.mktemp("journals")))
        patch.setenv("MATYAN_DETACHED_SYNC_S", "0")
        patch.setenv("MATYAN_SYNC_ORPHANS", "0")
        yield


@pytest.fixture(scope="session")
def kafka_broker(
    tmp_path_factory: pytest.TempPathFactory, required_services: frozenset[str]
) -> Iterator[Any]:
    """One Kafka broker for all tests that do not hurt it."""
    from tests.services import kafka

    require("kafka", kafka.missing(), required_services)
    with kafka.KafkaBroker(tmp_path_factory.mktemp("kafka") / "broker") as broker:
        yield broker


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """An empty directory, gone after the test."""
    path = tmp_path / "data"
    path.mkdir()
    return path


@pytest.fixture
def store(data_dir: Path) -> Iterator[Any]:
    """An empty store on the embedded engine."""
    with contextlib.closing(
        open_store(
            engine="backend.storage.engine.embedded.EmbeddedEngine",
            options={"path": str(data_dir / "store"), "durable": False},
        )
    ) as opened:
        yield opened


@pytest.fixture
def event_log(data_dir: Path) -> Iterator[Any]:
    """An empty event log on the local implementation, its topics made."""

    with contextlib.closing(
        open_event_log(
            engine="backend.bus.local.LocalEventLog",
            options={"path": str(data_dir / "log"), "durable": False},
        )
    ) as opened:
        opened.ensure_topics(TOPICS)
        yield opened


@pytest.fixture
def runtime(settings: Any, data_dir: Path) -> Iterator[Any]:
    """`backend.runtime` on an empty store and log of this test's own."""
    settings.MATYAN_STORE = {
        "ENGINE": "backend.storage.engine.embedded.EmbeddedEngine",
        "OPTIONS": {"path": str(data_dir / "store"), "durable": False},
    }
    settings.MATYAN_BUS = {
        "ENGINE": "backend.bus.local.LocalEventLog",
        "OPTIONS": {"path": str(data_dir / "log"), "durable": False},
    }
    settings.MATYAN_BLOBS = {
        "ENGINE": "backend.blobs.filesystem.FilesystemBlobStore",
        "OPTIONS": {
            "path": str(data_dir / "blobs"),
            "secret": settings.MATYAN_BLOB_SECRET,
            "durable": False,
        },
    }
    opened_runtime.close()
    yield opened_runtime
    opened_runtime.close()

"""Each fault on each deployment: one machine, Kafka, and Kafka with FoundationDB."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.faults.deployment import Deployment
from tests.services import foundationdb
from tests.services.kafka import KafkaBroker


class FileOutage:
    """The embedded store goes away while a file exists."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self) -> None:
        self.path.write_text("")

    def end(self) -> None:
        self.path.unlink()


@pytest.fixture(scope="session")
def fragile_broker(
    kafka_broker: KafkaBroker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KafkaBroker]:
    """A broker that tests may kill, and leave running."""
    if not kafka_broker.can_be_killed:
        pytest.skip("the broker is not ours to kill")
    with KafkaBroker(tmp_path_factory.mktemp("fragile") / "broker") as broker:
        yield broker


def embedded(request: pytest.FixtureRequest, _stack: ExitStack) -> tuple[Any, Any]:
    directory = request.getfixturevalue("data_dir")
    outage = FileOutage(directory / "outage")
    options = {
        "path": str(directory / "store"),
        "durable": False,
        "outage_file": str(outage.path),
    }
    return {
        "engine": "tests.faults.unavailable.UnavailableEngine",
        "options": options,
    }, outage


class NodeOutage:
    """The FoundationDB node stands still."""

    def begin(self) -> None:
        foundationdb.session_node().pause()

    def end(self) -> None:
        foundationdb.session_node().resume()


def cluster(request: pytest.FixtureRequest, stack: ExitStack) -> tuple[Any, Any]:
    required = request.getfixturevalue("required_services")
    options = stack.enter_context(foundationdb.clean_cluster(required))
    stack.callback(foundationdb.session_node().resume)
    engine = "backend.storage.engine.fdb.FdbEngine"
    return {"engine": engine, "options": options}, NodeOutage()


def local_log(request: pytest.FixtureRequest) -> tuple[dict[str, Any], None]:
    path = request.getfixturevalue("data_dir") / "log"
    options = {"path": str(path), "lease_s": 2.0, "durable": False}
    return {"engine": "backend.bus.local.LocalEventLog", "options": options}, None


def kafka_log(request: pytest.FixtureRequest) -> tuple[dict[str, Any], Any]:
    broker = request.getfixturevalue("fragile_broker")
    broker.ensure_running()
    options = {
        "bootstrap_servers": broker.bootstrap_servers,
        "topic_prefix": f"test-{uuid.uuid4().hex[:8]}-",
        "session_timeout_s": broker.shortest_session_s,
        "max_poll_interval_s": 5.0,
        "confirm_s": 5.0,
    }
    return {"engine": "backend.bus.kafka.KafkaEventLog", "options": options}, broker


LOCAL = pytest.param((embedded, local_log), id="local")
KAFKA = pytest.param((embedded, kafka_log), id="kafka", marks=[pytest.mark.kafka])
CLUSTER = pytest.param(
    (cluster, kafka_log), id="cluster", marks=[pytest.mark.kafka, pytest.mark.fdb]
)


def _deployed(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    make_store, make_log = request.param
    with ExitStack() as stack:
        store, outage = make_store(request, stack)
        log, broker = make_log(request)
        yield Deployment(store, log, outage, broker, stack)


@pytest.fixture(params=[LOCAL, KAFKA, CLUSTER])
def deployed(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """Each deployment in turn, empty."""
    yield from _deployed(request)


@pytest.fixture(params=[KAFKA, CLUSTER])
def on_kafka(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """Each deployment with a broker, empty."""
    yield from _deployed(request)

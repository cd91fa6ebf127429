"""The event log under test. To add an implementation: a row in `HARNESSES`."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.backend.bus.harness import Harness


def local(request: pytest.FixtureRequest, stack: ExitStack) -> Harness:
    path = request.getfixturevalue("data_dir") / "log"
    options = {"path": str(path), "lease_s": 2.0}
    return Harness("backend.bus.local.LocalEventLog", options, stack)


def kafka(request: pytest.FixtureRequest, stack: ExitStack) -> Harness:
    broker = request.getfixturevalue("kafka_broker")
    options = {
        "bootstrap_servers": broker.bootstrap_servers,
        "topic_prefix": f"test-{uuid.uuid4().hex[:8]}-",
        "session_timeout_s": broker.shortest_session_s,
        "max_poll_interval_s": broker.shortest_session_s,
        "trim_interval_s": 0.0,
    }
    return Harness("backend.bus.kafka.KafkaEventLog", options, stack)


HARNESSES: dict[str, Callable[[pytest.FixtureRequest, ExitStack], Harness]] = {
    "local": local,
    "kafka": kafka,
}


@pytest.fixture(
    params=["local", pytest.param("kafka", marks=[pytest.mark.kafka])],
)
def bus(request: pytest.FixtureRequest) -> Iterator[Harness]:
    """Each implementation in turn, empty."""
    with ExitStack() as stack:
        yield HARNESSES[request.param](request, stack)

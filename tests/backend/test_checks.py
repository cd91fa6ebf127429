"""`manage.py check --deploy`: what is wrong has an id, and a hint what to do."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError

from backend import runtime
from backend.bus.topics import INGESTION, TOPICS
from matyan_project.local_server import free_port


def found() -> dict[str, str]:
    """Return our messages by id."""
    messages = run_checks(include_deployment_checks=True)
    ours = [m for m in messages if str(m.id).startswith("matyan.")]
    assert all(message.hint for message in ours)
    return {str(message.id): str(message.msg) for message in ours}


@pytest.fixture
def tidy(runtime: Any, settings: Any) -> Any:
    """One machine with nothing to complain about."""
    settings.ALLOWED_HOSTS = ["matyan.example"]
    runtime.get_event_log().ensure_topics(TOPICS)
    return settings


def kafka(settings: Any, servers: str, **options: Any) -> None:
    settings.MATYAN_BUS = {
        "ENGINE": "backend.bus.kafka.KafkaEventLog",
        "OPTIONS": {
            "bootstrap_servers": servers,
            "topic_prefix": f"test-{uuid.uuid4().hex[:8]}-",
            **options,
        },
    }


def test_nothing_is_said_about_a_tidy_machine(tidy):
    assert found() == {}


def test_missing_topics_are_told_of(runtime, settings):
    settings.ALLOWED_HOSTS = ["matyan.example"]
    assert found() == {"matyan.E003": "Topic dead-letters: it does not exist."}


def test_a_store_that_cannot_be_opened_is_told_of(tidy, tmp_path):
    (tmp_path / "file").write_text("")
    tidy.MATYAN_STORE = {
        "ENGINE": "backend.storage.engine.embedded.EmbeddedEngine",
        "OPTIONS": {"path": str(tmp_path / "file")},
    }
    assert set(found()) == {"matyan.E001"}


def test_any_host_name_is_told_of(tidy):
    tidy.ALLOWED_HOSTS = ["*"]
    assert set(found()) == {"matyan.W004"}


def test_parts_for_one_and_for_several_machines_do_not_mix(tidy):
    kafka(
        tidy,
        f"127.0.0.1:{free_port()}",
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_username="matyan",
        sasl_password="hidden",  # noqa: S106 - protects nothing
    )
    messages = found()
    assert set(messages) == {
        "matyan.E002",
        "matyan.E004",
        "matyan.W002",
        "matyan.W003",
        "matyan.W005",
    }
    assert "hidden" not in str(messages)


def test_the_command_fails_when_something_is_wrong(tidy, tmp_path):
    (tmp_path / "file").write_text("")
    tidy.MATYAN_BUS = {
        "ENGINE": "backend.bus.local.LocalEventLog",
        "OPTIONS": {"path": str(tmp_path / "file")},
    }
    with pytest.raises(SystemCheckError, match=r"matyan\.E002"):
        call_command("check", "--deploy", "--tag", "database")


@pytest.mark.kafka
def test_kafka_is_looked_at(tidy, kafka_broker):
    kafka(tidy, kafka_broker.bootstrap_servers)
    assert "matyan.E003" in found()
    log = runtime.get_event_log()
    log.ensure_topics(TOPICS)
    assert {"matyan.E002", "matyan.E003"}.isdisjoint(found())
    log.producer().publish(INGESTION, key=b"k", value=b"v").result(30)
    kafka_broker.alter_topic(
        tidy.MATYAN_BUS["OPTIONS"]["topic_prefix"] + INGESTION, {"retention.ms": "1000"}
    )
    assert "retention.ms is 1000" in found()["matyan.E003"]

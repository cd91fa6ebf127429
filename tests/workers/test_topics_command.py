"""`manage.py topics create|check|list`, on each event log."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from backend import runtime
from backend.bus.base import TopicSpec
from backend.bus.topics import INGESTION, TOPICS


@pytest.fixture(params=["local", pytest.param("kafka", marks=pytest.mark.kafka)])
def configured(request: pytest.FixtureRequest, settings: Any, data_dir: Any) -> str:
    """Settings that name an empty event log."""
    if request.param == "local":
        settings.MATYAN_BUS = {
            "ENGINE": "backend.bus.local.LocalEventLog",
            "OPTIONS": {"path": str(data_dir / "log"), "durable": False},
        }
    else:
        broker = request.getfixturevalue("kafka_broker")
        settings.MATYAN_BUS = {
            "ENGINE": "backend.bus.kafka.KafkaEventLog",
            "OPTIONS": {
                "bootstrap_servers": broker.bootstrap_servers,
                "topic_prefix": f"test-{uuid.uuid4().hex[:8]}-",
            },
        }
    return str(request.param)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    call_command("topics", *words, "--json")
    return json.loads(capsys.readouterr().out)


def test_topics_are_created_once(configured, capsys):
    names = [topic.name for topic in TOPICS]
    created = run(capsys, "create")["topics"]
    assert list(created) == names
    assert created[INGESTION] == "created, 6 partitions"
    assert run(capsys, "create")["topics"] == dict.fromkeys(names, "is there")
    call_command("topics", "create")
    assert "is there" in capsys.readouterr().out


def test_differences_are_told_with_exit_status_1(configured, capsys):
    with pytest.raises(CommandError, match=f"{INGESTION}: it does not exist") as failed:
        call_command("topics", "check")
    assert failed.value.returncode == 1
    smaller = [
        TopicSpec(t.name, 1, t.max_record_bytes, t.retention_seconds, t.groups)
        for t in TOPICS
    ]
    runtime.get_event_log().ensure_topics(smaller)
    with pytest.raises(CommandError, match="it has 1 partitions instead of 6"):
        call_command("topics", "check")
    capsys.readouterr()
    assert run(capsys, "create")["topics"][INGESTION] == "1 partitions are now 6"
    assert run(capsys, "check")["problems"] == {t.name: [] for t in TOPICS}
    call_command("topics", "check")
    assert capsys.readouterr().out.count("as it should be") == 3


def test_a_list_tells_the_readers_lag(configured, capsys):
    call_command("topics", "create")
    log = runtime.get_event_log()
    for number in range(5):
        log.producer().publish(INGESTION, key=b"k", value=b"%d" % number).result(30)
    runtime.close()
    capsys.readouterr()
    rows = {row["name"]: row for row in run(capsys, "list")["topics"]}
    (group,) = rows[INGESTION]["groups"]
    assert (group["group"], group["lag"]) == ("ingestion-workers", 5)
    assert rows[INGESTION]["partitions"] == 6
    call_command("topics", "list")
    assert "ingestion-workers" in capsys.readouterr().out


def test_a_log_that_cannot_be_opened_is_told(settings, tmp_path):
    (tmp_path / "log").write_text("")
    settings.MATYAN_BUS = {
        "ENGINE": "backend.bus.local.LocalEventLog",
        "OPTIONS": {"path": str(tmp_path / "log")},
    }
    with pytest.raises(CommandError, match="event log"):
        call_command("topics", "check")

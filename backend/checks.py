"""Django system checks: a bad setting fails `manage.py check` with an id and a hint.

All of them belong to `manage.py check --deploy`: they look at the running services.

| id | |
|---|---|
| `matyan.E001` | the store cannot be opened or does not answer |
| `matyan.E002` | the event log cannot be opened or does not answer |
| `matyan.E003` | a topic is missing or not as it must be |
| `matyan.E004` | half of the parts are made for one machine, half for several |
| `matyan.W001` | unconsumed records have used up half of their retention |
| `matyan.W002` | Kafka keeps a single copy of each record |
| `matyan.W003` | a password is sent over connections without encryption |
| `matyan.W004` | any host name is accepted in requests |
| `matyan.W005` | users and tokens are in SQLite though there are several machines |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register  # noqa: A004 - Django's name

from backend import runtime
from backend.bus.base import EventLog, PartitionLag, seconds_to_loss
from backend.bus.topics import TOPICS
from backend.errors import MatyanError

LOCAL_STORE: Final = "backend.storage.engine.embedded.EmbeddedEngine"
LOCAL_LOG: Final = "backend.bus.local.LocalEventLog"
KAFKA: Final = "backend.bus.kafka.KafkaEventLog"


@register(Tags.database, deploy=True)
def check_store(**_kwargs: Any) -> list[CheckMessage]:
    """Ask the store whether it works."""
    try:
        runtime.get_store().engine.check()
    except MatyanError as error:
        hint = "See MATYAN_STORE_ENGINE and MATYAN_FDB_CLUSTER_FILE."
        return [Error(str(error), hint=hint, id="matyan.E001")]
    return []


@register(Tags.database, deploy=True)
def check_event_log(**_kwargs: Any) -> list[CheckMessage]:
    """Ask the event log whether it works, its topics are right, its readers keep up."""
    try:
        log = runtime.get_event_log()
        log.check()
        return _check_topics(log) or _check_lag(log)
    except MatyanError as error:
        hint = "See MATYAN_EVENT_LOG_ENGINE and the KAFKA_ variables."
        return [Error(str(error), hint=hint, id="matyan.E002")]


@register(deploy=True)
def check_composition(**_kwargs: Any) -> list[CheckMessage]:
    """Compare the settings with each other."""
    found: list[CheckMessage] = []
    local_store = settings.MATYAN_STORE["ENGINE"] == LOCAL_STORE
    local_log = settings.MATYAN_BUS["ENGINE"] == LOCAL_LOG
    if local_store != local_log:
        found.append(
            Error(
                "The store and the event log are made for different numbers of "
                "machines.",
                hint="Set MATYAN_STORE_ENGINE=foundationdb and "
                "MATYAN_EVENT_LOG_ENGINE=kafka, or neither.",
                id="matyan.E004",
            )
        )
    if settings.MATYAN_BUS["ENGINE"] == KAFKA:
        found += _check_kafka(settings.MATYAN_BUS["OPTIONS"])
    found += _check_web(several_machines=not (local_store and local_log))
    return found


def _check_topics(log: EventLog) -> list[CheckMessage]:
    hint = "Run `manage.py topics create`; what it cannot change is for an operator."
    return [
        Error(f"Topic {state.name}: {problem}.", hint=hint, id="matyan.E003")
        for state in log.inspect_topics(TOPICS)
        for problem in state.problems
    ]


def _check_lag(log: EventLog) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    for spec in TOPICS:
        for group in spec.groups:
            lags = log.lag(group=group, topics=[spec.name])
            found += _near_loss(group, [lag for lag in lags if lag.is_near_loss])
    return found


def _near_loss(group: str, lags: Sequence[PartitionLag]) -> list[CheckMessage]:
    left_s = seconds_to_loss(lags)
    if left_s is None:
        return []
    text = (
        f"Retention will delete records of {lags[0].topic} that {group} has not "
        f"consumed in {left_s:.0f} s."
    )
    hint = "Start or add workers, or raise KAFKA_RETENTION_SECONDS."
    return [Warning(text, hint=hint, id="matyan.W001")]


def _check_kafka(options: dict[str, Any]) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    if options.get("replication_factor", 1) < 3:
        found.append(
            Warning(
                "Kafka keeps fewer than three copies of each record: losing a broker's "
                "disk loses acknowledged points.",
                hint="Run three brokers and set KAFKA_REPLICATION_FACTOR=3.",
                id="matyan.W002",
            )
        )
    if options.get("security_protocol") == "SASL_PLAINTEXT":
        found.append(
            Warning(
                "The password for Kafka is sent over connections without encryption.",
                hint="Set KAFKA_SECURITY_PROTOCOL=SASL_SSL.",
                id="matyan.W003",
            )
        )
    return found


def _check_web(*, several_machines: bool) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    if "*" in settings.ALLOWED_HOSTS:
        found.append(
            Warning(
                "Requests may carry any host name.",
                hint="Set MATYAN_ALLOWED_HOSTS to the names users type.",
                id="matyan.W004",
            )
        )
    engine = settings.DATABASES["default"]["ENGINE"]
    if several_machines and engine.endswith("sqlite3"):
        found.append(
            Warning(
                "Users and tokens are in an SQLite file of each machine.",
                hint="Set MATYAN_DATABASE_URL to a PostgreSQL that all of them use.",
                id="matyan.W005",
            )
        )
    return found

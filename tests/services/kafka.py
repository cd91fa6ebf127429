"""A throw-away Kafka broker: one node, KRaft, from Apache Kafka's own published jars.

Needs Java 17 or newer and Maven; `MATYAN_TEST_KAFKA` (host:port) names a running broker
instead. The jars are fetched once into `.cache/`.
"""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from typing_extensions import override

from matyan_project.local_server import free_port
from tests.services.fetching import fetch_once, run_fetch
from tests.services.server_process import ServerProcess, not_found

VERSION = "4.1.1"

_POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>matyan.tests</groupId>
  <artifactId>kafka-jars</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
listeners={protocol}://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners={protocol}://127.0.0.1:{port}
inter.broker.listener.name={protocol}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,{protocol}:{protocol}
controller.quorum.voters=1@127.0.0.1:{controller_port}
log.dirs={directory}/log
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=200
group.min.session.timeout.ms=1000
auto.create.topics.enable=false
num.network.threads=2
num.io.threads=2
"""

_SECURITY = """\
ssl.keystore.location={directory}/broker.p12
ssl.keystore.password={password}
ssl.keystore.type=PKCS12
ssl.truststore.location={directory}/ca.pem
ssl.truststore.type=PEM
sasl.enabled.mechanisms=PLAIN
sasl.mechanism.inter.broker.protocol=PLAIN
listener.name.sasl_ssl.plain.sasl.jaas.config={jaas}
"""
_KEYSTORE_PASSWORD = "test-only"  # noqa: S105 - protects nothing


def missing() -> str:
    """Return why no broker can be had here, "" if one can."""
    if os.environ.get("MATYAN_TEST_KAFKA"):
        return ""
    return not_found("java", "mvn")


class KafkaBroker(ServerProcess):
    """One broker in a directory of its own, on 127.0.0.1.

    Args:
        directory: Where it keeps everything.
        users: Names and passwords; given, it speaks TLS and asks for one of them.
    """

    def __init__(
        self, directory: Path, *, users: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(directory)
        self._users = users or {}
        self._external = os.environ.get("MATYAN_TEST_KAFKA", "")

    @property
    def bootstrap_servers(self) -> str:
        return self._external or f"127.0.0.1:{self.port}"

    @property
    def can_be_killed(self) -> bool:
        return not self._external

    @property
    def shortest_session_s(self) -> float:
        """Shortest session timeout the broker takes; a foreign one has the default."""
        return 6.0 if self._external else 2.0

    @override
    def prepare(self) -> None:
        """Format the log directory."""
        properties = _PROPERTIES.format(
            protocol="SASL_SSL" if self._users else "PLAINTEXT",
            port=self.port,
            controller_port=free_port(),
            directory=self.directory,
        )
        if self._users:
            self._make_certificate()
            properties += self._security()
        self._properties.write_text(properties)
        cluster_id = uuid.uuid4().hex[:22]
        self._java("kafka.tools.StorageTool", "format", "-t", cluster_id, "-c")

    @override
    def command(self) -> list[str]:
        return [*_java_command("-Xmx512m"), "kafka.Kafka", str(self._properties)]

    def delete_topic(self, name: str) -> None:
        """Delete a topic of the cluster."""
        admin = self._admin()
        (future,) = admin.delete_topics([name]).values()
        future.result(20)

    def alter_topic(self, name: str, config: Mapping[str, str]) -> None:
        """Change settings of a topic of the cluster, as an operator would."""
        entries = [
            ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
            for key, value in config.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
        admin = self._admin()
        (future,) = admin.incremental_alter_configs([resource]).values()
        future.result(20)

    @property
    def ca_file(self) -> Path:
        """The certificate that signed the broker's."""
        return self.directory / "ca.pem"

    @override
    def __enter__(self) -> KafkaBroker:
        return self if self._external else super().__enter__()

    @property
    def _properties(self) -> Path:
        return self.directory / "server.properties"

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap_servers})

    def _make_certificate(self) -> None:
        store = ["-keystore", str(self.directory / "broker.p12"), "-alias", "broker"]
        store += ["-storepass", _KEYSTORE_PASSWORD]
        subprocess.run(
            [
                *["keytool", "-genkeypair", *store, "-storetype", "PKCS12"],
                *["-keyalg", "EC", "-dname", "CN=127.0.0.1"],
                *["-ext", "SAN=IP:127.0.0.1"],
            ],
            check=True,
            capture_output=True,
            timeout=60,
        )
        subprocess.run(
            ["keytool", "-exportcert", "-rfc", *store, "-file", str(self.ca_file)],
            check=True,
            capture_output=True,
            timeout=60,
        )

    def _security(self) -> str:
        own, password = next(iter(self._users.items()))
        users = " ".join(f'user_{n}="{p}"' for n, p in self._users.items())
        return _SECURITY.format(
            directory=self.directory,
            password=_KEYSTORE_PASSWORD,
            jaas="org.apache.kafka.common.security.plain.PlainLoginModule required "
            f'username="{own}" password="{password}" {users};',
        )

    def _java(self, *words: str) -> None:
        subprocess.run(
            [*_java_command("-Xmx256m"), *words, str(self._properties)],
            check=True,
            capture_output=True,
            timeout=60,
        )


def _java_command(heap: str) -> list[str]:
    jars = fetch_once(f"kafka-{VERSION}", _fetch_jars)
    return ["java", heap, "-XX:+UseSerialGC", "-cp", f"{jars}/*"]


def _fetch_jars(directory: Path) -> None:
    project = directory / "pom.xml"
    project.write_text(_POM)
    run_fetch(
        *("mvn", "--batch-mode", "--quiet", f"--file={project}"),
        "dependency:copy-dependencies",
        f"-DoutputDirectory={directory}",
        "-DincludeScope=runtime",
    )

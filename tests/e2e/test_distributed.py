"""compose.yaml started for real: every command line, two of what can be scaled.

Kafka, S3, PostgreSQL and Redis are real servers of this machine, and so is
FoundationDB where it is installed; without it the embedded store takes its place, and
everything else is tested all the same.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from backend.services.store_verify import verify_store
from backend.storage.factory import Store, open_store
from matyan_client import Repo, Run
from tests.e2e.distributed import SCALED, Distributed
from tests.e2e.journal import Journal, assert_exact, send_all
from tests.services import foundationdb, postgresql, redis, s3
from tests.services.kafka import KafkaBroker
from tests.services.postgresql import PostgresServer
from tests.services.redis import RedisServer
from tests.services.requirements import require
from tests.services.s3 import BUCKET, S3Server

pytestmark = [pytest.mark.e2e, pytest.mark.kafka, pytest.mark.timeout(400)]

REST = "/api/v1/rest"
ADMIN = "/admin/backend"
POINTS = 200_000
CLIENTS = 4
PASSWORD = "of an operator, quite long"  # noqa: S105 - of a server of the test

_SNIPPET = """
import sys
from matyan_client import Run

run = Run(repo=sys.argv[1])
run["hparams"] = {"lr": 0.001, "batch_size": 32}
for step in range(100):
    run.track(1 / (step + 1), name="loss", step=step, context={"subset": "train"})
run.close()
print(run.hash)
"""


class Cluster(Distributed):
    """The services, their neighbours, and tokens for each scope."""

    def __init__(
        self,
        directory: Path,
        addresses: dict[str, str],
        *,
        blobs: S3Server,
        shares_data: bool,
    ) -> None:
        super().__init__(directory, addresses, shares_data=shares_data)
        self.addresses = addresses
        self.blobs = blobs
        self.tokens: dict[str, str] = {}

    def start(self) -> None:
        super().start()
        for scope in ("write", "admin"):
            made = self.manage("tokens", "create", scope, f"--scope={scope}", "--json")
            self.tokens[scope] = json.loads(made.splitlines()[-1])["token"]

    def client(self, backend: int = 0, scope: str = "write") -> httpx.Client:
        """Return a client of one of the backends."""
        headers = {"Authorization": f"Bearer {self.tokens[scope]}"}
        url = self.of("backend")[backend].url
        return httpx.Client(base_url=url, headers=headers, timeout=30)

    def repo_url(self, service: str = "backend", number: int = 0) -> str:
        """Return an address that carries a token, as clients take it."""
        return f"{self.of(service)[number].url}/t/{self.tokens['write']}"

    @contextlib.contextmanager
    def store(self) -> Iterator[Store]:
        """Open the store behind the services' back."""
        if self.addresses["MATYAN_STORE_ENGINE"] == "embedded":
            engine = "backend.storage.engine.embedded.EmbeddedEngine"
            options: dict[str, Any] = {"path": str(self.directory / "shared" / "store")}
        else:
            engine = "backend.storage.engine.fdb.FdbEngine"
            options = {
                "cluster_file": self.addresses["MATYAN_FDB_CLUSTER_FILE"],
                "library": foundationdb.library_path(),
            }
        opened = open_store(engine=engine, options=options)
        with contextlib.closing(opened) as store:
            yield store

    def blob_keys(self) -> list[str]:
        """Return every key in the bucket."""
        with contextlib.closing(self.blobs.client()) as client:
            listed = client.list_objects_v2(Bucket=BUCKET)
            return [found["Key"] for found in listed.get("Contents", ())]


@pytest.fixture(
    scope="module",
    params=["embedded", pytest.param("foundationdb", marks=pytest.mark.fdb)],
)
def cluster(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    required_services: frozenset[str],
    kafka_broker: KafkaBroker,
) -> Iterator[Cluster]:
    for name, missing in (
        ("postgresql", postgresql.missing()),
        ("redis", redis.missing()),
        ("s3", s3.missing()),
    ):
        require(name, missing, required_services)
    directory = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        blobs = stack.enter_context(S3Server(directory / "s3"))
        database = stack.enter_context(PostgresServer())
        broker = stack.enter_context(RedisServer(directory / "redis"))
        addresses = {
            "MATYAN_STORE_ENGINE": request.param,
            "KAFKA_BOOTSTRAP_SERVERS": kafka_broker.bootstrap_servers,
            "KAFKA_TOPIC_PREFIX": f"{request.param}-",
            "MATYAN_TASK_BROKER_URL": broker.url,
            "MATYAN_DATABASE_URL": database.url,
            **blobs.settings,
            "S3_PUBLIC_ENDPOINT": blobs.url,
        }
        if request.param == "foundationdb":
            options = stack.enter_context(foundationdb.clean_cluster(required_services))
            addresses["MATYAN_FDB_CLUSTER_FILE"] = options["cluster_file"]
            addresses["MATYAN_FDB_LIBRARY"] = options["library"] or ""
        running = Cluster(
            directory / "services",
            addresses,
            blobs=blobs,
            shares_data=request.param == "embedded",
        )
        with running:
            yield running


def test_the_snippet_with_this_sdk(cluster: Cluster):
    run_id = _run_snippet(sys.executable, cluster.repo_url())
    _assert_complete(cluster, run_id)


def test_the_snippet_with_the_public_client_unmodified(
    cluster: Cluster, public_client_python: Path
):
    run_id = _run_snippet(str(public_client_python), cluster.repo_url(number=1))
    _assert_complete(cluster, run_id)


def _run_snippet(python: str, url: str) -> str:
    done = subprocess.run(
        [python, "-c", _SNIPPET, url],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def _assert_complete(cluster: Cluster, run_id: str) -> None:
    """Require that either backend tells all of the snippet's run."""
    trace = {"name": "loss", "context": {"subset": "train"}}
    for number in range(SCALED["backend"]):
        with cluster.client(number) as client:
            info = _wait_for(lambda client=client: _finished(client, run_id))
            assert info["params"]["hparams"] == {"lr": 0.001, "batch_size": 32}
            (found,) = client.post(
                f"{REST}/runs/{run_id}/metric/get-batch/",
                params={"record_density": 500},
                json=[trace],
            ).json()
        assert found["iters"] == list(range(100))
        assert found["values"] == [1 / (step + 1) for step in range(100)]


def _finished(client: httpx.Client, run_id: str) -> Any:
    answer = client.get(f"{REST}/runs/{run_id}/info/")
    if answer.status_code != 200 or answer.json()["props"]["active"]:
        return None
    return answer.json()


def test_files_go_to_s3_and_go_with_their_run(cluster: Cluster, tmp_path: Path):
    """Deleting is the work of both: the control worker's and a task's, over Redis."""
    model = tmp_path / "model.bin"
    model.write_bytes(bytes(range(256)) * 1000)
    with Run(repo=cluster.repo_url(), capture_terminal_logs=False) as run:
        run.log_artifact(model, "models/model.bin")
        assert run.wait_durable(30)
        run_id = run.hash
    with Run(run_id, repo=cluster.repo_url(number=1), read_only=True) as reading:
        assert reading.get_artifact("models/model.bin") == model.read_bytes()
    assert [key for key in cluster.blob_keys() if run_id in key]
    with cluster.client(1, scope="admin") as client:
        assert client.delete(f"{REST}/runs/{run_id}/").status_code == 200
        assert client.get(f"{REST}/runs/{run_id}/info/").status_code == 404
    _wait_for(lambda: not [key for key in cluster.blob_keys() if run_id in key])


def test_an_operator_signs_in_and_asks_for_a_job(cluster: Cluster):
    """Users, sessions and jobs are in PostgreSQL; a task worker does the job."""
    environ = {"DJANGO_SUPERUSER_PASSWORD": PASSWORD}
    backend = cluster.of("backend")[0]
    backend_environ = dict(backend.environ)
    try:
        backend.environ = {**backend_environ, **environ}
        cluster.manage(
            *("createsuperuser", "--noinput"),
            *("--username=operator", "--email=operator@example.org"),
        )
    finally:
        backend.environ = backend_environ
    with Person(cluster.of("backend")[1].url) as person:
        person.sign_in("operator", PASSWORD)
        page = person.submit(
            f"{ADMIN}/maintenancerequest/add/",
            {"job": "measure_store", "confirmed": "on"},
        )
        job = page.url.path
        assert job.endswith("/change/")
        _wait_for(lambda: re.search(r">\s*done\s*<", person.get(job).text))
        for anchor in ("eventlog", "run"):
            assert person.get(f"{ADMIN}/{anchor}anchor/").status_code == 200
        # Every worker, though none shares a directory with this backend.
        workers = person.get(f"{ADMIN}/workeranchor/").text
        for name in ("ingestion", "control", "tasks", "schedule"):
            assert re.search(rf">\s*{name}\s*<", workers), workers


class Person(httpx.Client):
    """Somebody with a browser: keeps cookies, fills in forms."""

    def __init__(self, url: str) -> None:
        super().__init__(
            base_url=url,
            event_hooks={"request": [self._add_cookies]},
            follow_redirects=True,
            timeout=30,
        )

    def _add_cookies(self, request: httpx.Request) -> None:
        # They are for TLS only in production. Browsers take plain HTTP to this machine
        # for as good; this client does not.
        cookies = [f"{cookie.name}={cookie.value}" for cookie in self.cookies.jar]
        request.headers["Cookie"] = "; ".join(cookies)

    def submit(self, path: str, fields: dict[str, str]) -> httpx.Response:
        """Load a page with a form and send it filled in."""
        page = self.get(path)
        assert page.status_code == 200, page.text
        found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
        assert found is not None
        data = {**fields, "csrfmiddlewaretoken": found[1]}
        return self.post(path, data=data, headers={"Referer": str(page.url)})

    def sign_in(self, name: str, password: str) -> None:
        answer = self.submit("/sign-in", {"username": name, "password": password})
        assert answer.status_code == 200


def test_every_accepted_point_survives_the_killing_of_every_service(cluster: Cluster):
    journals = [Journal(f"journal-{i}", POINTS // CLIENTS) for i in range(CLIENTS)]
    addresses = [
        cluster.repo_url("frontier", 0),
        cluster.repo_url("frontier", 1),
        cluster.repo_url("backend", 0),
        cluster.repo_url("backend", 1),
    ]
    done = threading.Event()
    before = {one.name: one.started for one in cluster.services}
    with ThreadPoolExecutor(CLIENTS + 1) as pool:
        killer = pool.submit(_kill_in_turn, cluster, done)
        sending = [
            pool.submit(send_all, journal, url, binary=i % 2 == 0, timeout_s=240)
            for i, (journal, url) in enumerate(zip(journals, addresses, strict=True))
        ]
        try:
            for future in sending:
                future.result()
        finally:
            killer.result()
            done.set()
    killed = {one.name for one in cluster.services if one.started > before[one.name]}
    assert killed == {one.name for one in cluster.services}
    cluster.wait_healthy()
    with Repo(cluster.repo_url()) as repo:
        others = set(repo.list_all_runs()) - {one.run_id for one in journals}
    with cluster.store() as store:
        _wait_for(lambda: _is_stored(store, journals), timeout_s=120)
        assert_exact(store, journals, others=others)
        verify_store(store.engine, on_problem=pytest.fail)


def _kill_in_turn(cluster: Cluster, done: threading.Event) -> None:
    for one in cluster.services:
        if done.wait(0.5):
            return
        one.kill()


def _is_stored(store: Store, journals: list[Journal]) -> bool:
    """Return whether the last accepted step of every journal is there."""

    def last_steps(tr: Any) -> list[int]:
        runs = [store.runs.find(tr, journal.run_id) for journal in journals]
        return [
            min(s.summary.last_step for s in store.series.list(tr, run.number))
            if run
            else -1
            for run in runs
        ]

    wanted = [one.accepted_frames * one.steps_per_frame - 1 for one in journals]
    return store.engine.read(last_steps) == wanted


def test_every_service_stops_when_told(cluster: Cluster):
    assert set(cluster.stop().values()) == {0}
    cluster.start()


def _wait_for(get: Callable[[], Any], *, timeout_s: float = 60.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := get()):
        assert time.monotonic() < deadline, "not there in time"
        time.sleep(0.1)
    return found

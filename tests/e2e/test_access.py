"""Access restricted on real servers: both ports, plain and TLS, the public client."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from backend.api.access_rules import LOCAL, PUBLIC
from matyan_client import Repo, Run
from matyan_project import env
from matyan_project.local_server import LocalServer
from tests.backend.access.routes import METHODS, django_routes, upload_question_paths
from tests.certificates import Authority

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(400),
    pytest.mark.xdist_group("access"),
]

PUBLIC_CLIENT_SCRIPT = """
from matyan_client import Repo, Run

run = Run(repo="{url}")
run["hparams"] = {{"lr": 0.001}}
for step in range(50):
    run.track(1 / (step + 1), name="loss", step=step)
run.close()
found = Run(run.hash, repo="{url}", read_only=True)
assert found["hparams"]["lr"] == 0.001, found["hparams"]
print(run.hash)
"""


class Restricted(LocalServer):
    """A server that wants credentials; makes tokens."""

    def __init__(self, data_dir: Path, *options: str) -> None:
        super().__init__(data_dir, options=options, environ={"MATYAN_AUTH": "required"})

    def token(self, scope: str = "write") -> dict[str, Any]:
        made: dict[str, Any] = json.loads(
            self.tokens("create", f"a {scope} token", f"--scope={scope}", "--json")
        )
        return made

    def tokens(self, *arguments: str) -> str:
        """Return what `manage.py tokens` prints."""
        environ = env.child_environ(
            DJANGO_SETTINGS_MODULE="matyan_project.settings.dev",
            MATYAN_DATA_DIR=str(self.data_dir),
            LOG_LEVEL="ERROR",
        )
        manage = str(env.BASE_DIR / "manage.py")
        done = subprocess.run(
            [sys.executable, manage, "tokens", *arguments],
            env=environ,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.stdout


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restricted]:
    with Restricted(tmp_path_factory.mktemp("plain") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secure(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[Restricted]:
    files = authority.sign()
    options = (f"--tls-cert={files.cert}", f"--tls-key={files.key}")
    data_dir = tmp_path_factory.mktemp("secure") / "data"
    with Restricted(data_dir, *options) as running:
        yield running


def _at(url: str, *, userinfo: str = "", path: str = "") -> str:
    return url.replace("://", f"://{userinfo}", 1) + path


def _client(authority: Authority, **options: Any) -> httpx.Client:
    context = ssl.create_default_context(cafile=authority.bundle)
    return httpx.Client(verify=context, timeout=30, **options)


def _steps(server: Restricted, run_id: str, token: str, client: httpx.Client) -> int:
    """Return the last step of the run's loss, once it can be read."""
    deadline = time.monotonic() + 60
    url = f"{server.url}/api/v1/rest/runs/{run_id}/metric/get-batch/"
    headers = {"Authorization": f"Bearer {token}"}
    while time.monotonic() < deadline:
        answer = client.post(
            url, headers=headers, json=[{"name": "loss", "context": {}}]
        )
        if answer.status_code == 200 and answer.json() and answer.json()[0]["iters"]:
            return int(answer.json()[0]["iters"][-1])
        time.sleep(0.05)
    pytest.fail("the points did not arrive")


def _run_public_client(
    python: Path, url: str, authority: Authority
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-I", "-c", PUBLIC_CLIENT_SCRIPT.format(url=url)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env=env.child_environ(SSL_CERT_FILE=str(authority.bundle)),
    )


def test_it_is_said_at_the_start(secure: Restricted) -> None:
    assert "MATYAN_AUTH=required" in secure.printed()
    assert "tokens create" in secure.printed()
    assert "in clear" not in secure.printed()


@pytest.mark.parametrize("port", ["backend", "gateway"])
def test_no_route_of_either_port_is_open(
    port: str, secure: Restricted, authority: Authority
) -> None:
    url, urlconf = {
        "backend": (secure.url, "matyan_project.urls"),
        "gateway": (secure.frontier_url, "frontier.urls"),
    }[port]
    closed = [
        route.path
        for route in django_routes(urlconf)
        if route.pattern not in PUBLIC and route.pattern not in LOCAL
    ]
    with _client(authority, base_url=url) as client:
        for path in closed:
            for method in METHODS:
                assert client.request(method, path).status_code == 401, (method, path)
        for path in upload_question_paths():
            assert client.post(path).status_code == 401
        # A proxy on this machine asks for others.
        for path in ("/metrics/", "/health/live/"):
            answer = client.get(path, headers={"X-Forwarded-For": "192.0.2.1"})
            assert answer.status_code == (401 if "metrics" in path else 200)
    assert _socket_status(url, {}, authority) == 401


def _socket_status(url: str, headers: dict[str, str], authority: Authority) -> int:
    address = url.replace("http", "ws", 1) + "/api/v1/ws/runs/r"
    context = ssl.create_default_context(cafile=authority.bundle)
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(address, additional_headers=headers, ssl=context),
    ):
        pass
    return refused.value.response.status_code


def test_a_read_token_logs_nothing(secure: Restricted, authority: Authority) -> None:
    headers = {"Authorization": f"Bearer {secure.token('read')['token']}"}
    presign = {"run_id": "r", "artifact_path": "x"}
    with _client(authority, headers=headers) as client:
        projects = client.get(f"{secure.url}/api/v1/rest/projects/")
        assert projects.status_code == 200
        for base in (secure.url, secure.frontier_url):
            question = f"{base}/api/v1/rest/artifacts/presign"
            assert client.post(question, json=presign).status_code == 403
            assert _socket_status(base, headers, authority) == 403


_WAYS = {
    "name": ("{token}:@", ""),
    "path": ("", "/t/{token}"),
    "password": ("token:{token}@", ""),
    "path and slash": ("", "/t/{token}/"),
}


@pytest.mark.parametrize("way", ["name", "path"])
def test_the_public_client_gets_in_by_its_address(
    way: str, secure: Restricted, authority: Authority, public_client_python: Path
) -> None:
    _log_a_run(way, secure, authority, public_client_python)


@pytest.mark.slow
@pytest.mark.parametrize("way", _WAYS)
def test_the_public_client_gets_in_without_tls(
    way: str, plain: Restricted, authority: Authority, public_client_python: Path
) -> None:
    _log_a_run(way, plain, authority, public_client_python)


def _log_a_run(
    way: str, server: Restricted, authority: Authority, python: Path
) -> None:
    token = server.token()["token"]
    userinfo, path = (part.format(token=token) for part in _WAYS[way])
    url = _at(server.url, userinfo=userinfo, path=path)
    done = _run_public_client(python, url, authority)
    assert done.returncode == 0, done.stderr[-3000:]
    with _client(authority) as client:
        assert _steps(server, done.stdout.split()[-1], token, client) == 49
    assert token.rsplit("_", 1)[1] not in server.printed()


@pytest.mark.slow
def test_the_public_client_is_told_that_its_token_is_wrong(
    secure: Restricted, authority: Authority, public_client_python: Path
) -> None:
    url = _at(secure.url, userinfo=f"mty_{'a' * 12}_{'b' * 40}:@")
    done = _run_public_client(public_client_python, url, authority)
    assert done.returncode == 1
    assert "ConnectionError" in done.stderr


@pytest.mark.slow
def test_a_revoked_token_shuts_out_and_another_lets_the_rest_in(
    plain: Restricted, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, other = plain.token(), plain.token()["token"]
    run = Run(repo=plain.url, token=made["token"])
    run.track(1.0, "loss", step=0)
    assert run.wait_durable(60)
    plain.tokens("revoke", made["id"])
    deadline, step = time.monotonic() + 30, 0
    while time.monotonic() < deadline and "revoked" not in (run.delivery.problem or ""):
        step += 1
        run.track(1.0, "loss", step=step)
        time.sleep(0.05)
    assert "revoked" in (run.delivery.problem or "")
    run.close(timeout=0)
    monkeypatch.setenv("MATYAN_TOKEN", other)
    sync = [sys.executable, "-m", "matyan_client", "sync", "--wait", "20"]
    subprocess.run(sync, check=True, timeout=60)
    with httpx.Client() as client:
        assert _steps(plain, run.hash, other, client) == step


def test_tls_on_both_ports(secure: Restricted, authority: Authority) -> None:
    token = secure.token()["token"]
    bundle = str(authority.bundle)
    for url in (secure.url, secure.frontier_url):
        assert url.startswith("https://")
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{url}/health/live/")
    run = Run(
        repo=secure.url, frontier_url=secure.frontier_url, token=token, ca_bundle=bundle
    )
    run.track(1.0, "loss", step=3)
    assert run.wait_durable(60)
    assert run.delivery.address.startswith(secure.frontier_url)
    run.close()
    other = Run(repo=secure.url, token=token, verify=False)
    other.track(1.0, "loss", step=4)
    assert other.wait_durable(60)
    other.close()
    with Repo(secure.url, token=token, ca_bundle=bundle) as repo:
        assert set(repo.list_all_runs()) >= {run.hash, other.hash}


@pytest.mark.parametrize(
    ("options", "environ", "problem"),
    [
        (["--host=0.0.0.0"], {"MATYAN_AUTH": "off"}, "MATYAN_AUTH=required"),
        (["--tls-cert=/nowhere.pem"], {}, "--tls-key"),
        (["--tls-cert=/nowhere.pem", "--tls-key=/nowhere.key"], {}, "/nowhere.pem"),
    ],
)
def test_what_up_does_not_begin(
    options: list[str], environ: dict[str, str], problem: str, tmp_path: Path
) -> None:
    server = LocalServer(tmp_path / "data", options=options, environ=environ)
    with pytest.raises(RuntimeError, match="CommandError"):
        server.start()
    assert problem in server.printed()


@pytest.mark.slow
def test_another_address_is_restricted_by_itself(tmp_path: Path) -> None:
    with LocalServer(
        tmp_path / "data", options=["--host=0.0.0.0", "--single-port"]
    ) as server:
        assert "MATYAN_AUTH=required" in server.printed()
        answer = httpx.get(f"{server.url}/api/v1/rest/projects/")
        assert answer.status_code == 401

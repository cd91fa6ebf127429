from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from matyan_client import Repo, Run, system
from matyan_client.cli import main
from matyan_client.delivery import orphans
from matyan_client.journal import directory as directories
from matyan_client.rest import ServerError
from matyan_client.urls import BaseUrl
from tests.certificates import Authority, Certificate
from tests.client.conftest import journals, wait_until
from tests.client.fake_server import FakeServer, answer_json, free_port

TOKEN = "mty_" + "a" * 12 + "_" + "b" * 40
OTHER = "mty_" + "c" * 12 + "_" + "d" * 40
SECRET = "b" * 40

OpenRun = Callable[..., Run]


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MATYAN_TOKEN", "MATYAN_CA_BUNDLE", "MATYAN_TLS_VERIFY"):
        monkeypatch.delenv(name, raising=False)


def _address(server: FakeServer, *, userinfo: str = "", path: str = "") -> str:
    return f"http://{userinfo}127.0.0.1:{server.port}{path}"


# Tokens.


@pytest.mark.parametrize(
    ("argument", "variable", "userinfo", "path"),
    [
        (TOKEN, "", "", ""),
        (TOKEN, OTHER, f"{OTHER}@", ""),
        ("", TOKEN, "", ""),
        ("", f"{TOKEN}\n", "", ""),
        ("", OTHER, f"{TOKEN}@", ""),
        ("", OTHER, f"token:{TOKEN}@", ""),
        ("", OTHER, "", f"/t/{TOKEN}"),
        ("", "", "", f"/team/t/{TOKEN}/"),
    ],
)
def test_a_token_comes_from_anywhere_and_is_sent_as_bearer(
    argument: str,
    variable: str,
    userinfo: str,
    path: str,
    server: FakeServer,
    open_run: OpenRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MATYAN_TOKEN", variable)
    server.pages["runs/r/info"] = answer_json({"props": {}})
    url = _address(server, userinfo=userinfo, path=path)
    run = open_run(url, "r", token=argument or None)
    assert run.flush(5)
    assert run.props == {}
    assert set(server.received.authorizations) == {f"Bearer {TOKEN}"}
    assert not any("/t/" in request for request in server.received.requests)


def test_a_repo_lends_its_token(server: FakeServer) -> None:
    server.pages["runs/r/info"] = answer_json({"props": {"name": "n"}})
    with Repo(server.url, token=TOKEN) as repo:
        run = repo.get_run("r")
        assert run is not None
        assert run.name == "n"
    assert set(server.received.authorizations) == {f"Bearer {TOKEN}"}


def test_a_token_is_shown_nowhere(
    server: FakeServer,
    open_run: OpenRun,
    capfd: pytest.CaptureFixture[str],
    state_dir: Path,
) -> None:
    server.refuse_status = 401
    server.pages["runs/search/run"] = answer_json({"message": "no"}, status=401)
    url = _address(server, userinfo=f"{TOKEN}@")
    run = open_run(url)
    run.track(1.0, "loss")
    assert wait_until(lambda: run.delivery.problem is not None)
    repo = Repo(url)
    shown = [run, run.delivery, repo, repo.url, repo.endpoints, BaseUrl.parse(url)]
    with pytest.raises(ServerError) as error:
        repo.list_all_runs()
    run.close(timeout=0)
    files = [path for path in state_dir.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert SECRET not in f"{shown!r} {error.value}" + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "text",
    [
        f"htp://{TOKEN}@h",
        f"http://ann:{TOKEN}@h:port",
        f"http://{TOKEN}@h/?x=1",
        f"http:///t/{TOKEN}/x?y",
    ],
)
def test_an_address_that_is_none_is_named_without_its_secrets(text: str) -> None:
    with pytest.raises(ValueError, match="is not a server address") as error:
        Run(repo=text)
    assert SECRET not in str(error.getrepr(style="short"))


def test_what_cannot_be_a_token_is_refused_unseen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match="token= is not a token") as error:
        Run(repo="http://h", token=f"{SECRET} x")
    assert SECRET not in str(error.value)
    monkeypatch.setenv("MATYAN_TOKEN", f"{SECRET}\nx")
    with pytest.raises(ValueError, match="MATYAN_TOKEN is not a token"):
        Run(repo="http://h")


def test_system_parameters_hold_no_token() -> None:
    stored = system.safe_variables(
        {"MATYAN_TOKEN": TOKEN, "URL": f"http://h/t/{TOKEN}/", "U": f"http://{TOKEN}@h"}
    )
    stored["arguments"] = str(
        system.safe_arguments(["x", f"http://h/t/{TOKEN}", TOKEN])
    )
    assert SECRET not in str(stored)


# Journals.


@pytest.fixture
def orphan(server: FakeServer, state_dir: Path) -> Path:
    """A journal whose owner had a token, and could not deliver."""
    server.refuse_status = 401
    run = Run("r", repo=server.url, token=TOKEN)
    run.track(1.0, "loss")
    run.close(timeout=0)
    server.refuse_status = None
    server.received.authorizations.clear()
    (path,) = journals(state_dir)
    return path


def _sync(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(main, ["sync", "--json", "--wait", "3", *arguments])
    found: dict[str, Any] = json.loads(result.stdout)["journals"][0]
    return found


@pytest.mark.parametrize("names_server", [True, False])
def test_sync_takes_the_token_of_the_environment(
    orphan: Path,
    server: FakeServer,
    monkeypatch: pytest.MonkeyPatch,
    *,
    names_server: bool,
) -> None:
    monkeypatch.setenv("MATYAN_TOKEN", TOKEN)
    if names_server:
        monkeypatch.setenv("MATYAN_BACKEND_URL", server.url)
    assert _sync()["complete"]
    assert set(server.received.authorizations) == {f"Bearer {TOKEN}"}


def test_the_token_of_one_server_is_not_sent_to_another(
    orphan: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MATYAN_TOKEN", OTHER)
    monkeypatch.setenv("MATYAN_BACKEND_URL", "http://another.example")
    assert _sync()["complete"]
    assert set(server.received.authorizations) == {None}


def test_sync_takes_the_credentials_of_a_given_address(
    orphan: Path, server: FakeServer
) -> None:
    url = _address(server, userinfo=f"{TOKEN}@")
    assert _sync("--backend-url", url)["complete"]
    assert set(server.received.authorizations) == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize(
    ("userinfo", "authorization"),
    [(f"{TOKEN}@", f"Bearer {TOKEN}"), ("ann:p%40ss@", "Basic YW5uOnBAc3M=")],
)
def test_the_next_run_lends_its_credentials(
    userinfo: str,
    authorization: str,
    orphan: Path,
    server: FakeServer,
    open_run: OpenRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MATYAN_SYNC_ORPHANS", "1")
    monkeypatch.setattr(orphans, "_SWEEP", orphans._Sweep())
    run = open_run(_address(server, userinfo=userinfo))
    assert run.flush(5)
    assert wait_until(lambda: not orphan.exists())
    assert set(server.received.authorizations) == {authorization}


def test_a_process_of_its_own_gets_the_token_in_its_environment(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, state_dir: Path
) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []

    class Started:
        def __init__(self, command: list[str], **options: Any) -> None:
            started.append((command, options["env"]))

    monkeypatch.setattr("subprocess.Popen", Started)
    monkeypatch.setenv("MATYAN_DETACHED_SYNC_S", "5")
    server.refuse_status = 503
    run = Run("r", repo=server.url, token=TOKEN)
    run.track(1.0, "loss")
    run.close(timeout=0)
    ((command, environment),) = started
    assert SECRET not in " ".join(command)
    assert environment["MATYAN_TOKEN"] == TOKEN
    assert environment["MATYAN_BACKEND_URL"] == server.url


def test_a_journal_of_an_older_sdk_keeps_its_credentials(
    orphan: Path, server: FakeServer
) -> None:
    meta = directories.read_meta(orphan)
    assert meta is not None
    old = {
        "run_id": meta.run_id,
        "writer": meta.writer,
        "boot_id": meta.boot_id,
        "backend_url": _address(server, userinfo="ann:x@"),
    }
    (orphan / directories.META_NAME).write_text(json.dumps(old))
    assert _sync()["complete"]
    assert set(server.received.authorizations) == {"Basic YW5uOng="}


# TLS.


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def _context(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    return context


@pytest.fixture
def secure_server(authority: Authority) -> Iterator[FakeServer]:
    with FakeServer(tls=_context(authority.sign())) as running:
        running.pages["runs/r/info"] = answer_json({"props": {"name": "n"}})
        yield running


@pytest.mark.parametrize(
    "how", ["bundle", "bundle variable", "no check", "no variable"]
)
def test_an_own_authority_is_trusted_when_told(
    how: str,
    secure_server: FakeServer,
    open_run: OpenRun,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options: dict[str, Any] = {
        "bundle": {"ca_bundle": str(authority.bundle)},
        "no check": {"verify": False},
    }.get(how, {})
    if how == "bundle variable":
        monkeypatch.setenv("MATYAN_CA_BUNDLE", str(authority.bundle))
    if how == "no variable":
        monkeypatch.setenv("MATYAN_TLS_VERIFY", "0")
    run = open_run(secure_server.url, "r", token=TOKEN, **options)
    run.track(1.0, "loss")
    assert run.flush(5)
    assert run.props["name"] == "n"
    with Repo(secure_server.url, token=TOKEN, **options) as repo:
        found = repo.get_run("r")
        assert found is not None
        assert found.props["name"] == "n"
    assert set(secure_server.received.authorizations) == {f"Bearer {TOKEN}"}


def test_a_wrong_authority_is_explained_while_training_goes_on(
    secure_server: FakeServer,
    open_run: OpenRun,
    authority: Authority,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = str(Authority(tmp_path, "another").bundle)
    run = open_run(secure_server.url, "r", ca_bundle=wrong)
    for step in range(100):
        run.track(1.0, "loss", step)
    assert wait_until(lambda: run.delivery.problem is not None)
    assert wait_until(lambda: secure_server.url in capsys.readouterr().err)
    problem = run.delivery.problem
    assert problem is not None
    for word in (secure_server.url, "ca_bundle=", "MATYAN_CA_BUNDLE", "verify=False"):
        assert word in problem
    with (
        Repo(secure_server.url, ca_bundle=wrong) as repo,
        pytest.raises(ServerError, match="MATYAN_CA_BUNDLE"),
    ):
        repo.run_exists("r")
    run.close(timeout=0)
    assert _sync_with(authority)["complete"]
    assert len(secure_server.points()) == 100


def _sync_with(authority: Authority) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MATYAN_CA_BUNDLE", str(authority.bundle))
        return _sync()


def test_an_expired_certificate_is_named_and_a_renewed_one_taken(
    open_run: OpenRun, authority: Authority
) -> None:
    port = free_port()
    expired = _context(authority.sign("old", expired=True))
    with FakeServer(port=port, tls=expired) as server:
        run = open_run(server.url, "r", ca_bundle=str(authority.bundle))
        run.track(1.0, "loss")
        assert wait_until(lambda: run.delivery.problem is not None)
        problem = run.delivery.problem
        assert problem is not None
        assert server.url in problem
        assert "expired" in problem
        assert "renewed" in problem
    with FakeServer(port=port, tls=_context(authority.sign("new"))):
        assert run.flush(10)


def test_tls_where_there_is_none_is_explained(
    server: FakeServer, open_run: OpenRun
) -> None:
    run = open_run(server.url.replace("http:", "https:"))
    assert wait_until(lambda: run.delivery.problem is not None)
    assert run.delivery.problem is not None
    assert "https://" in run.delivery.problem
    assert "TLS handshake failed" in run.delivery.problem


def test_a_bundle_that_cannot_be_used_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"No such file.*MATYAN_CA_BUNDLE"):
        Run(repo="https://h", ca_bundle=str(tmp_path / "none.pem"))
    (tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(ValueError, match="must name a PEM file"):
        Repo("https://h", ca_bundle=str(tmp_path / "empty.pem"))


def test_a_journal_remembers_what_was_trusted(
    secure_server: FakeServer, authority: Authority, state_dir: Path
) -> None:
    secure_server.refuse_status = 503
    run = Run("r", repo=secure_server.url, ca_bundle=str(authority.bundle))
    run.track(1.0, "loss")
    run.close(timeout=0)
    secure_server.refuse_status = None
    assert _sync()["complete"]
